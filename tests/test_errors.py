"""The catalogue of what goes wrong: whose fault it is, what the visitor reads, what stays in the log."""

from __future__ import annotations

import re
from http import HTTPStatus

import pytest

from oidc_proxy.errors import (
    FAMILIES,
    Entry,
    InternalFault,
    LoginFault,
    ProviderFault,
    ProxyError,
    RequestFault,
    SettingsFault,
    StoreFault,
    UpstreamFault,
)

# Codes are in logs, metrics, pages and docs: neither they nor their statuses change by accident.
PROMISED = {
    RequestFault: {
        "bad_request": 400,
        "path_ambiguous": 400,
        "wrong_host": 421,
        "not_found": 404,
        "method_not_allowed": 405,
        "sign_in_required": 401,
        "access_denied": 403,
        "cross_site": 403,
        "request_timeout": 408,
        "body_too_large": 413,
        "uri_too_long": 414,
        "headers_too_large": 431,
        "expectation_failed": 417,
    },
    LoginFault: {
        "callback_malformed": 400,
        "login_unknown": 400,
        "login_expired": 401,
        "login_loop": 400,
        "issuer_mismatch": 401,
        "provider_refused": 401,
        "access_denied_by_provider": 403,
        "code_refused": 401,
        "id_token_invalid": 401,
        "userinfo_mismatch": 401,
        "identity_unusable": 403,
    },
    ProviderFault: {
        "provider_unavailable": 503,
        "provider_timeout": 504,
        "provider_misconfigured": 502,
        "provider_response_invalid": 502,
        "client_rejected": 502,
    },
    UpstreamFault: {
        "upstream_unreachable": 502,
        "upstream_invalid_response": 502,
        "upstream_timeout": 504,
        "upstream_saturated": 503,
    },
    StoreFault: {"store_unavailable": 503},
    InternalFault: {"internal_error": 500},
}
EVERY_CODE = [(family, code) for family in FAMILIES for code in family.codes]
every_code = pytest.mark.parametrize(("family", "code"), EVERY_CODE, ids=[code for _, code in EVERY_CODE])


@pytest.mark.parametrize("family", PROMISED, ids=lambda family: family.__name__)
def test_no_promised_code_is_missing_or_means_something_else(family: type[ProxyError]) -> None:
    found = {code: entry.status for code, entry in family.codes.items()}
    assert found.items() >= PROMISED[family].items()


def test_every_family_is_in_the_list() -> None:
    assert set(FAMILIES) == set(ProxyError.__subclasses__())


def test_a_code_belongs_to_one_family() -> None:
    codes = [code for _, code in EVERY_CODE]
    assert sorted(codes) == sorted(set(codes))


@every_code
def test_the_status_says_whose_fault_it_is(family: type[ProxyError], code: str) -> None:
    hundreds = HTTPStatus(family.codes[code].status) // 100
    assert hundreds == (4 if family in {RequestFault, LoginFault} else 5)


@every_code
def test_the_words_are_for_people(family: type[ProxyError], code: str) -> None:
    entry: Entry = family.codes[code]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
    assert re.fullmatch(r"[A-Z][^.]*", entry.title)
    assert re.fullmatch(r"[A-Z].*\.", entry.public)
    assert entry.remedy.endswith((".", "…"))
    # The visitor is told nothing that only the operator can use.
    assert not re.search(r"[`{}<>&]|_", entry.title + entry.public)


@every_code
def test_a_fault_carries_its_entry(family: type[ProxyError], code: str) -> None:
    fault = family(code, "the log reads this", retry_after=7)
    assert Entry(fault.status, fault.title, fault.public, fault.remedy) == family.codes[code]
    assert (fault.code, fault.detail, fault.retry_after) == (code, "the log reads this", 7)
    assert str(fault) == f"{code}: the log reads this"


@every_code
def test_px_15_what_the_visitor_reads_has_no_detail(family: type[ProxyError], code: str) -> None:
    fault = family(code, "10.0.0.7:8080 refused")
    assert "10.0.0.7" not in fault.public + fault.title + fault.remedy


def test_a_fault_without_detail_is_its_code() -> None:
    fault = StoreFault("store_unavailable")
    assert str(fault) == "store_unavailable"
    assert (fault.detail, fault.retry_after) == ("", None)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_family_knows_only_its_own_codes(family: type[ProxyError]) -> None:
    strangers = [code for other, code in EVERY_CODE if other is not family]
    for code in [*strangers, "no_such_code"]:
        with pytest.raises(KeyError):
            family(code)


def test_settings_faults_come_all_at_once() -> None:
    fault = SettingsFault(["a.yaml:1:2: first", "a.yaml:7:1: second"])
    assert str(fault) == "a.yaml:1:2: first\n\na.yaml:7:1: second"
    assert len(fault.problems) == 2
    assert not isinstance(fault, ProxyError)

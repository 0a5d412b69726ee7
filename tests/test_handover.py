"""A session that is handed over: who may ask for it, what the code is good for, and where the ticket is good."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from oidc_proxy.errors import RequestFault
from oidc_proxy.handover import BoundTickets, Code, HandoverRequest, Hosts, answer_url
from oidc_proxy.messages import query_parameters
from oidc_proxy.sessions import Ticket
from oidc_proxy.values import Origin

AUTH, APP, WIKI = (Origin.parse(f"https://{name}.test") for name in ("auth", "app", "wiki"))
HOSTS = Hosts([APP, AUTH, WIKI], AUTH, "/oauth2")
ALONE = Hosts([APP, WIKI], None, "/oauth2")
STATE = "s" * 43
REQUEST = HandoverRequest("https://app.test/oauth2/handover", STATE)
CODE = Code.mint(bytes(range(32)))
TICKET = Ticket.mint(bytes(range(64)))
NONCE = bytes(12)
SEALED = CODE.seal(TICKET, REQUEST, NONCE)
KEY, OLD_KEY = b"k" * 32, b"o" * 32
BOUND = BoundTickets([KEY])


# ── who signs in for whom ─────────────────────────────────────────────────────────────────────────────────────────────


def test_f210_one_origin_signs_in_for_all_and_without_one_each_for_itself() -> None:
    assert [HOSTS.home(origin) for origin in (APP, AUTH, WIKI)] == [AUTH, AUTH, AUTH]
    assert [ALONE.home(origin) for origin in (APP, WIKI)] == [APP, WIKI]
    assert set(HOSTS.returnable(APP)) == {APP, AUTH, WIKI}
    assert HOSTS.returnable(WIKI)[0] == WIKI
    assert ALONE.returnable(APP) == (APP,)


def test_f210_what_an_origin_asks_is_understood_where_it_is_asked() -> None:
    pending = HOSTS.ask(APP, "https://app.test//deep?x", random=bytes(32), now=5.9, issuer="https://op.test")
    assert (pending.return_to, pending.started_at, pending.issuer) == ("https://app.test//deep?x", 5, "https://op.test")
    url = HOSTS.request_url(pending.redirect_uri, pending.state, {"prompt": "login", "acr_values": "a b"})
    assert url.startswith("https://auth.test/oauth2/start?")
    assert "deep" not in url
    parameters = query_parameters(urlsplit(url).query)
    assert parameters["acr_values"] == ["a b"]
    request = HOSTS.read_request(parameters, AUTH)
    assert request == HandoverRequest("https://app.test/oauth2/handover", pending.state)
    assert HOSTS.is_request(HOSTS.request_url(*request))


def test_a_state_takes_thirty_two_random_bytes() -> None:
    with pytest.raises(ValueError, match="random bytes"):
        HOSTS.ask(APP, "https://app.test/", random=bytes(31), now=0, issuer="https://op.test")


@pytest.mark.parametrize(
    ("query", "origin"),
    [
        pytest.param("rd=/x", AUTH, id="an ordinary start"),
        pytest.param("", AUTH, id="a start without anything"),
        pytest.param(f"state={STATE}", AUTH, id="a state alone"),
        pytest.param(f"redirect_uri={quote(REQUEST.redirect_uri)}&state={STATE}", APP, id="another origin is asked"),
    ],
)
def test_what_asks_for_no_hand_over(query: str, origin: Origin) -> None:
    assert HOSTS.read_request(query_parameters(query), origin) is None


@pytest.mark.parametrize("host", ["https://app.test", "https://auth.test"])
def test_where_nobody_signs_in_for_others_nothing_asks_for_it(host: str) -> None:
    query = f"redirect_uri={quote(REQUEST.redirect_uri)}&state={STATE}"
    assert ALONE.read_request(query_parameters(query), Origin.parse(host)) is None
    assert not ALONE.is_request("None/oauth2/start?x")
    assert not HOSTS.is_request("https://auth.test/oauth2/starts?x")


@pytest.mark.parametrize(
    "uri",
    [
        "", "/oauth2/handover", "//app.test/oauth2/handover", "https://evil.test/oauth2/handover",
        "https://app.test/oauth2/handover/", "https://app.test/oauth2/handover?x", "https://app.test/oauth2/handover#x",
        "https://app.test/oauth2/callback", "https://app.test", "https://app.test/", "https://APP.test/oauth2/handover",
        "https://app.test:443/oauth2/handover", "https://app.test./oauth2/handover", "http://app.test/oauth2/handover",
        "https://app.test@evil.test/oauth2/handover", "https://evil.test\\@app.test/oauth2/handover",
        "https://app.test.evil.test/oauth2/handover", "https://evil.test/https://app.test/oauth2/handover",
        "https://app.test/oauth2/../oauth2/handover", "https://app.test/oauth2/%68andover", "javascript:alert(1)",
        " https://app.test/oauth2/handover", "https://app.test/oauth2/handover\n", "https://auth.test/oauth2/handover",
    ],
)  # fmt: skip
def test_or_a_code_is_sent_nowhere_but_to_our_own_origins(uri: str) -> None:
    with pytest.raises(RequestFault, match="bad_request"):
        HOSTS.read_request(query_parameters(f"redirect_uri={quote(uri, safe='')}&state={STATE}"), AUTH)


@pytest.mark.parametrize(
    "rest",
    [
        "", "&state=", "&state=short", f"&state={'s' * 44}", f"&state={'s' * 42}%0a", f"&state={STATE}&state={STATE}",
        f"&state={STATE}&redirect_uri={quote(REQUEST.redirect_uri)}", "&state=" + quote("é" * 43),
    ],
)  # fmt: skip
def test_a_request_has_one_address_and_one_state(rest: str) -> None:
    with pytest.raises(RequestFault, match="bad_request"):
        HOSTS.read_request(query_parameters(f"redirect_uri={quote(REQUEST.redirect_uri)}{rest}"), AUTH)


# ── the way back of a sign-out ────────────────────────────────────────────────────────────────────────────────────────

LEAVING = "0123456789abcdef" * 2


def test_s15_a_sign_out_ends_where_it_began() -> None:
    for origin in (APP, WIKI):
        assert HOSTS.left(HOSTS.farewell(LEAVING, origin), AUTH) == origin
        assert HOSTS.left(HOSTS.farewell(LEAVING, origin), origin) is None, "there it is over"
    assert HOSTS.farewell(LEAVING, AUTH) == LEAVING
    assert ALONE.farewell(LEAVING, APP) == LEAVING


@pytest.mark.parametrize(
    "mark", ["", "-", "-2", "-99999", "--1", "-1x", "-٣", "-https://evil.test", "-0\n", "-1-1", "@evil.test"]
)
def test_or20_no_state_leads_a_sign_out_to_a_stranger(mark: str) -> None:
    assert HOSTS.left(f"{LEAVING}{mark}", AUTH) is None


def test_or20_a_mark_without_a_state_leads_nowhere() -> None:
    assert HOSTS.left("-0", AUTH) is None
    assert ALONE.left(f"{LEAVING}-0", APP) is None


# ── the code ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_code_stands_for_the_ticket() -> None:
    assert Code.read(CODE.text) == CODE
    assert CODE.open(SEALED, REQUEST) == TICKET
    sent = parse_qs(urlsplit(answer_url(REQUEST, CODE)).query)
    assert sent == {"code": [CODE.text], "state": [STATE]}
    assert answer_url(REQUEST, CODE).startswith(f"{REQUEST.redirect_uri}?")


@pytest.mark.parametrize(
    ("code", "request_"),
    [
        pytest.param(Code.mint(bytes(32)), REQUEST, id="another code"),
        pytest.param(CODE, REQUEST._replace(redirect_uri="https://wiki.test/oauth2/handover"), id="another origin"),
        pytest.param(CODE, REQUEST._replace(state="t" * 43), id="another state"),
        pytest.param(CODE, HandoverRequest(f"{REQUEST.redirect_uri}\0{STATE[:1]}", STATE[1:]), id="shifted"),
    ],
)
def test_a_code_is_bound_to_who_asked(code: Code, request_: HandoverRequest) -> None:
    assert code.open(SEALED, request_) is None


@pytest.mark.parametrize("sealed", [b"", SEALED[:-1], SEALED + b"\0", SEALED[:12], bytes(200)])
def test_what_is_damaged_opens_nothing(sealed: bytes) -> None:
    assert CODE.open(sealed, REQUEST) is None


@pytest.mark.parametrize("text", ["", "x", "A" * 42, "A" * 44, "A" * 42 + "=", "A" * 42 + "\n", "é" * 43, "A" * 9000])
def test_what_is_no_code(text: str) -> None:
    assert Code.read(text) is None


def test_neither_the_store_nor_a_log_line_has_what_opens_it() -> None:
    for secret in (CODE.text, TICKET.cookie_value.partition(".")[0]):
        assert secret not in CODE.entry
        assert secret.encode() not in SEALED
    assert TICKET.handle not in SEALED
    assert TICKET.key not in SEALED
    assert CODE.text not in repr(CODE)
    assert re.fullmatch(r"handover:[0-9a-f]{64}", CODE.entry)
    assert Code.mint(bytes(32)).entry != CODE.entry


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_code_takes_thirty_two_random_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="random bytes"):
        Code.mint(bytes(size))


# ── the ticket of a session that several origins share ────────────────────────────────────────────────────────────────


def test_f210_a_ticket_is_good_on_the_origin_that_it_was_written_for() -> None:
    cookie = BOUND.write(TICKET, APP)
    assert BOUND.read(cookie, str(APP)) == TICKET
    assert len(cookie) < 140
    for other in (WIKI, AUTH, Origin.parse("http://app.test"), Origin.parse("https://app.test:8443")):
        assert BOUND.read(cookie, str(other)) is None


def test_f210_nothing_can_be_made_of_two_cookies() -> None:
    other = Ticket.mint(bytes(reversed(range(64))))
    ticket, mark = TICKET.cookie_value, BOUND.write(TICKET, APP).rpartition(".")[2]
    assert BOUND.read(f"{other.cookie_value}.{mark}", str(APP)) is None
    assert BOUND.read(f"{ticket}.{BOUND.write(TICKET, WIKI).rpartition('.')[2]}", str(APP)) is None
    assert BOUND.read(f"{ticket}.{mark}", str(APP)) == TICKET


@pytest.mark.parametrize(
    "cookie",
    [
        None, "", ".", "..", "x", TICKET.cookie_value, f"{TICKET.cookie_value}.", f"{TICKET.cookie_value}.{'A' * 43}",
        f"{TICKET.cookie_value}.é", f".{TICKET.cookie_value}", f"{BOUND.write(TICKET, APP)}x",
        f"{BOUND.write(TICKET, APP)}.", BOUND.write(TICKET, APP)[:-1], BOUND.write(TICKET, APP)[1:], "A" * 100_000,
    ],
)  # fmt: skip
def test_f148_what_is_no_ticket_of_this_origin(cookie: str | None) -> None:
    assert BOUND.read(cookie, str(APP)) is None


@pytest.mark.parametrize(
    ("keys", "opens"), [([KEY], True), ([OLD_KEY, KEY], True), ([OLD_KEY], False)], ids=["same", "rotated", "gone"]
)
def test_f143_keys_are_replaced_without_signing_anybody_out(keys: list[bytes], opens: bool) -> None:
    assert (BoundTickets(keys).read(BOUND.write(TICKET, APP), str(APP)) is not None) == opens


@hypothesis_settings(deadline=None)
@given(st.binary(min_size=64, max_size=64), st.sampled_from([APP, WIKI, AUTH]))
def test_every_ticket_comes_back(random: bytes, origin: Origin) -> None:
    ticket = Ticket.mint(random)
    assert BOUND.read(BOUND.write(ticket, origin), str(origin)) == ticket

"""Every body that we send: what it says, what it must never say, and what travels with it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from http import HTTPStatus

import pytest
from pydantic import ValidationError

from oidc_proxy import errors, pages
from oidc_proxy.errors import LoginFault, ProviderFault, ProxyError, RequestFault, StoreFault, UpstreamFault
from oidc_proxy.messages import Cookie, Reply
from oidc_proxy.pages import OtherSession, OwnSession, PageSettings, ProviderAnswer, browser_words
from oidc_proxy.values import Origin

REQUEST_ID = "01jd8q2x5m7r"
NOW = 1_795_255_555.25  # 2026-11-21 10:05:55 UTC
PLAIN = PageSettings()

FAULTS = [family(code) for family in errors.FAMILIES for code in family.codes]
ALL_CODES = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.code)


def error_page(fault: ProxyError, **changes: object) -> Reply:
    return pages.error_page(fault, **{"request_id": REQUEST_ID, "now": NOW, "settings": PLAIN, **changes})


def signed_out_page(**changes: object) -> Reply:
    return pages.signed_out_page(**{"request_id": REQUEST_ID, "now": NOW, "settings": PLAIN, **changes})


def confirm_sign_out_page(**changes: object) -> Reply:
    given = {"action": "/oauth2/sign_out", "request_id": REQUEST_ID, "now": NOW, "settings": PLAIN}
    return pages.confirm_sign_out_page(**{**given, **changes})


OWN = OwnSession("Firefox on Linux", "192.0.2.7", NOW - 3600, NOW + 1800, NOW + 7200, NOW + 240, renewable=True)
PHONE = OtherSession("5e0f3c1d2b4a6978", "Safari on iPhone", "2001:db8::7", NOW - 86_400)


def my_sessions_page(own: OwnSession = OWN, others: Sequence[OtherSession] = (PHONE,), **changes: object) -> Reply:
    given = {"account": "ann", "session_url": "/oauth2/session", "sign_out_url": "/oauth2/sign_out"}
    given |= {"request_id": REQUEST_ID, "now": NOW, "settings": PLAIN}
    return pages.my_sessions_page(own, others, **{**given, **changes})


def refused(**changes: object) -> Reply:
    return error_page(LoginFault("provider_refused"), **changes)


def every_page() -> Iterator[tuple[str, Reply]]:
    """Each page with everything on it that it can show."""
    settings = PageSettings(title="Example intranet", contact="help@example.com", error_details=True)
    for fault in FAULTS:
        yield (
            fault.code,
            error_page(
                type(fault)(fault.code, "what the log has"),
                settings=settings,
                retry_url="https://app.test/wanted?a=1&b=2",
                start_url="/oauth2/start?rd=%2Fwanted",
                answer=ProviderAnswer("server_error", "The server had a problem.", "https://idp.test/errors/1"),
                account="ann@example.test",
            ),
        )
    yield "signed_out", signed_out_page(settings=settings, sign_in_url="/oauth2/start")
    yield (
        "confirm_sign_out",
        confirm_sign_out_page(
            settings=settings,
            fields={"token": "x"},
            account="ann",
            form_targets=[Origin.parse("https://idp.test"), Origin.parse("http://localhost:8080")],
        ),
    )
    yield "confirm_sign_out everywhere", confirm_sign_out_page(settings=settings, everywhere=True, fields={"all": "1"})
    yield (
        "my_sessions",
        my_sessions_page(others=[PHONE] * 40, settings=settings, form_targets=[Origin.parse("https://idp.test")]),
    )


PAGES = dict(every_page())
ALL_PAGES = pytest.mark.parametrize("reply", PAGES.values(), ids=PAGES.keys())


# ── reading a page as a browser does ──────────────────────────────────────────────────────────────────────────────────

VOID = {"meta", "input", "br", "link", "img"}
URL_ATTRIBUTES = {"href", "src", "action", "formaction", "data", "srcset", "poster", "background", "xlink:href"}


class Document(HTMLParser):
    """The elements of a page. It refuses what does not nest, and tags or attributes of a kind that we never write."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(reply.body.decode())
        self.close()
        assert self._open == [], "unclosed elements"

    def handle_decl(self, decl: str) -> None:
        assert decl == "doctype html"

    def handle_comment(self, data: str) -> None:
        pytest.fail(f"a comment: {data}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute comes twice in <{tag}>"
        assert not any(name.startswith("on") or name == "style" for name in names), f"an active attribute in <{tag}>"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self._open, f"<{tag}/> outside of an image"
        self.elements.append((tag, dict(attrs)))  # type: ignore[arg-type]

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def buttons(self) -> list[str]:
        return [a["href"] for a in self.all("a") if a.get("class") == "button"]

    def urls(self) -> list[str]:
        return [
            value for _, attributes in self.elements for name, value in attributes.items() if name in URL_ATTRIBUTES
        ]

    def refresh(self) -> str | None:
        return next((meta["content"] for meta in self.all("meta") if meta.get("http-equiv") == "refresh"), None)


def headers(reply: Reply) -> dict[str, str]:
    names = [name for name, _ in reply.headers]
    assert len(names) == len(set(names)), "a header comes twice"
    return dict(reply.headers)


def policy(reply: Reply) -> dict[str, list[str]]:
    directives = [directive.split() for directive in headers(reply)["Content-Security-Policy"].split(";")]
    return {name: sources for name, *sources in directives}


def style(reply: Reply) -> str:
    return re.findall(r"<style>(.*?)</style>", reply.body.decode(), re.DOTALL)[0]


# ── every page ────────────────────────────────────────────────────────────────────────────────────────────────────────


@ALL_PAGES
def test_f258_br7_headers_of_every_page(reply: Reply) -> None:
    sent, csp = headers(reply), policy(reply)
    assert sent["Content-Type"] == "text/html; charset=utf-8"
    assert sent["X-Content-Type-Options"] == "nosniff"
    assert sent["X-Frame-Options"] == "DENY"
    assert sent["Cache-Control"] == "no-store"
    assert csp["default-src"] == csp["frame-ancestors"] == csp["base-uri"] == ["'none'"]
    assert csp["form-action"][0] == "'self'"
    assert set(csp) == {"default-src", "style-src", "base-uri", "form-action", "frame-ancestors"}


@ALL_PAGES
def test_f258_the_policy_allows_the_one_style_and_no_other(reply: Reply) -> None:
    digest = base64.b64encode(hashlib.sha256(style(reply).encode()).digest()).decode()
    assert policy(reply)["style-src"] == [f"'sha256-{digest}'"]
    assert len(Document(reply).all("style")) == 1


@ALL_PAGES
def test_f259_structure_for_assistive_technology(reply: Reply) -> None:
    document = Document(reply)
    assert document.all("html") == [{"lang": "en"}]
    assert len(document.all("h1")) == len(document.all("main")) == len(document.all("title")) == 1
    assert len(document.all("header")) == len(document.all("footer")) == 1
    viewport = next(meta["content"] for meta in document.all("meta") if meta.get("name") == "viewport")
    assert "user-scalable" not in viewport
    assert "maximum-scale" not in viewport
    assert all(image["aria-hidden"] == "true" for image in document.all("svg"))


@ALL_PAGES
def test_f258_nothing_is_loaded_and_no_page_is_large(reply: Reply) -> None:
    document = Document(reply)
    assert {tag for tag, _ in document.elements}.isdisjoint({"script", "link", "img", "iframe", "object", "base"})
    assert "url(" not in style(reply)
    assert "@import" not in style(reply)
    assert len(reply.body) <= 15_000


@ALL_PAGES
def test_reference_and_time_are_shown_and_the_software_is_not(reply: Reply) -> None:
    document = Document(reply)
    assert f"Reference {REQUEST_ID}" in document.text
    assert "2026-11-21 10:05:55 UTC" in document.text
    assert document.all("time")[-1] == {"datetime": "2026-11-21T10:05:55Z"}
    assert "0.1.0" not in document.text


def test_the_site_has_its_name_in_the_title_and_on_top_or_no_top_at_all() -> None:
    named = error_page(RequestFault("not_found"), settings=PageSettings(title="R&D"))
    assert "<title>Not found – R&amp;D</title>" in named.body.decode()
    assert "<header>R&amp;D</header>" in named.body.decode()
    bare = error_page(RequestFault("not_found"))
    assert "<title>Not found</title>" in bare.body.decode()
    assert Document(bare).all("header") == []


# ── hostile words in every place that shows some (F257, LT-28, BR-14) ─────────────────────────────────────────────────

HOSTILE = {
    "markup": "'\"></script><script>alert(1)</script><img src=x onerror=alert(2)>",
    "closing": "</title></style></blockquote></main></html>",
    "template": "{{7*7}}${7*7}#{7*7}<%= 7*7 %>%(x)s{0}",
    "entity": "&lt;script&gt;&#60;b&#62;&amp",
    "comment": "<!-- --><![CDATA[<?php ",
    "control": "a\x00b\x07\x1b[31mc\x7f\x85\r\nSet-Cookie: x=1\r\n\r\n",
    "direction": "moc.live\u202egpj.exe\u2066x\u2069\u200b\ufeff",
    "lines": "a\u2028b\u2029c",
    "surrogates": "\udcff\ud800",
    "long": "\"'<>&" * 40_000,
    "long word": "w" * 200_000,
    "long emoji": "😀" * 50_000,
}


def utf8(word: str) -> str:
    """Settings are UTF-8 already: pydantic refuses lone surrogates."""
    return word.encode("utf-8", "replace").decode()


PLACES: dict[str, Callable[[str], Reply]] = {
    "request_id": lambda word: error_page(RequestFault("not_found"), request_id=word),
    "request_id in mailto": lambda word: refused(request_id=word, settings=PageSettings(contact="help@example.com")),
    "title": lambda word: error_page(RequestFault("not_found"), settings=PageSettings(title=utf8(word)[:80])),
    "contact": lambda word: error_page(RequestFault("not_found"), settings=PageSettings(contact=utf8(word)[:200])),
    "contact address": lambda word: refused(settings=PageSettings(contact=f"https://x/{utf8(word)}"[:200])),
    "contact mail": lambda word: refused(settings=PageSettings(contact=f"a@example.com{utf8(word)}"[:200])),
    "detail": lambda word: error_page(RequestFault("bad_request", word), settings=PageSettings(error_details=True)),
    "account": lambda word: error_page(RequestFault("access_denied"), account=word),
    "account to sign out": lambda word: confirm_sign_out_page(account=word),
    "error": lambda word: refused(answer=ProviderAnswer(word)),
    "error_description": lambda word: refused(answer=ProviderAnswer("server_error", word)),
    "error_uri": lambda word: refused(answer=ProviderAnswer("server_error", None, word)),
    "https error_uri": lambda word: refused(answer=ProviderAnswer("server_error", None, f"https://x/{word}")),
    "retry_url": lambda word: error_page(StoreFault("store_unavailable"), retry_url=word),
    "retry_url path": lambda word: error_page(StoreFault("store_unavailable"), retry_url=f"/{word}"),
    "start_url": lambda word: refused(start_url=word),
    "start_url path": lambda word: refused(start_url=f"/oauth2/start?rd={word}"),
    "sign_in_url": lambda word: signed_out_page(sign_in_url=word),
    "cancel_url": lambda word: confirm_sign_out_page(cancel_url=word),
    "field name": lambda word: confirm_sign_out_page(fields={word: "x"}),
    "field value": lambda word: confirm_sign_out_page(fields={"x": word}),
    "account of the sessions": lambda word: my_sessions_page(account=word),
    "own browser": lambda word: my_sessions_page(replace(OWN, browser=word)),
    "own address": lambda word: my_sessions_page(replace(OWN, address=word)),
    "id of another": lambda word: my_sessions_page(others=[replace(PHONE, id=word)]),
    "browser of another": lambda word: my_sessions_page(others=[replace(PHONE, browser=word)]),
    "address of another": lambda word: my_sessions_page(others=[replace(PHONE, address=word)]),
    "home_url": lambda word: my_sessions_page(home_url=word),
}


def shape(reply: Reply) -> list[str]:
    """What a page is made of, without its words and without what is only there when a value was usable."""
    return [tag for tag, _ in Document(reply).elements if tag not in {"a", "p"}]


@pytest.mark.parametrize("word", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_f257_lt28_br14_a_strangers_words_stay_words(place: Callable[[str], Reply], word: str) -> None:
    reply = place(word)
    body = reply.body.decode()
    assert shape(reply) == shape(place("x")), "the words have become elements"
    assert "49" not in Document(reply).text, "the words have been reckoned with"
    assert len(reply.body) <= 15_000
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", body)
    for url in Document(reply).urls():
        assert re.match(r"/(?![/\\])|https?://|mailto:help@example\.com\?subject=Reference%20[\w.~%-]*$|mailto:a@", url)
    for name, value in reply.headers:
        assert re.fullmatch(r"[ -~]+", name + value), "words in a header"


@pytest.mark.parametrize("word", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_page_of_nothing_but_hostile_words_is_not_large(word: str) -> None:
    text, path = utf8(word), "/" + "&" * 400
    reply = refused(
        request_id=word,
        settings=PageSettings(title=text[:80], contact=text[:200], error_details=True),
        retry_url=path,
        start_url=path,
        answer=ProviderAnswer(word, word, f"https://x{path}"),
        account=word,
    )
    outage = error_page(StoreFault("store_unavailable", word), request_id=word, retry_url=path)
    own, others = replace(OWN, browser=word, address=word), [OtherSession(word, word, word, NOW)] * 100
    assert len(my_sessions_page(own, others, account=word, request_id=word).body) <= 15_000
    assert len(reply.body) <= 15_000
    assert len(outage.body) <= 15_000


def test_f257_the_words_are_there_as_they_were_meant() -> None:
    words = "'\"></script> {{7*7}} <b>&amp;</b>"
    assert words in Document(refused(answer=ProviderAnswer("x", words))).text


def test_br14_white_space_becomes_blanks_and_what_does_not_print_a_mark() -> None:
    document = Document(refused(answer=ProviderAnswer("x", "a\r\n\tb\u00a0c\x1bd\u202ee\udcff")))
    assert "a b c\ufffdd\ufffde\ufffd" in document.text


@pytest.mark.parametrize(
    ("given", "shown"),
    [("w" * 600, "w" * 600), ("w" * 601, "w" * 600 + "…"), ("<" * 200, "<" * 150 + "…"), ("é" * 301, "é" * 300 + "…")],
    ids=["as long as may be", "one more", "escaped", "bytes, not characters"],
)
def test_long_words_are_cut_by_what_they_weigh(given: str, shown: str) -> None:
    document = Document(refused(answer=ProviderAnswer("x", given)))
    assert shown in document.words


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@ALL_CODES
def test_f51_every_code_says_what_happened_and_whom_to_ask(fault: ProxyError) -> None:
    reply = error_page(fault)
    document = Document(reply)
    assert reply.status == fault.status
    assert fault.title in document.text
    assert fault.public in document.text
    assert "contact your administrator and give the reference below" in document.text
    assert re.search(rf"For administrators Error code {fault.code} HTTP status {fault.status} Hint \S", document.text)
    assert all("open" not in details for details in document.all("details"))


@ALL_CODES
def test_f51_details_are_shown_on_request_of_the_operator_only(fault: ProxyError) -> None:
    told = type(fault)(fault.code, "the inner reason")
    assert "the inner reason" not in error_page(told).body.decode()
    shown = PageSettings(error_details=True)
    assert "Detail the inner reason" in Document(error_page(told, settings=shown)).text
    assert "Detail" not in Document(error_page(fault, settings=shown)).text


RETRY, START = "/wanted", "/oauth2/start"
OFFERS = {
    "sign_in_required": (START, "Sign in"),
    "access_denied": (START, "Use another account"),
    "identity_unusable": (START, "Use another account"),
    "headers_too_large": (RETRY, "Try again"),
    "request_timeout": (RETRY, "Try again"),
}


@ALL_CODES
def test_f51_the_button_that_helps(fault: ProxyError) -> None:
    document = Document(error_page(fault, retry_url=RETRY, start_url=START))
    by_family = {LoginFault: (START, "Sign in again"), RequestFault: None}
    expected = OFFERS.get(fault.code, by_family.get(type(fault), (RETRY, "Try again")))
    assert document.buttons() == ([expected[0]] if expected else [])
    if expected:
        assert f" {expected[1]} " in document.text
    assert Document(error_page(fault)).buttons() == []


def test_a_more_special_fault_of_a_family_has_its_advice() -> None:
    class TokenInvalid(LoginFault):
        pass

    assert "Please sign in again." in Document(error_page(TokenInvalid("id_token_invalid"))).text


NO_ADDRESSES = ["", "wanted", " /x", "/x y", "/x\n", "/ü", "//evil.test/", "/\\evil.test", "javascript:alert(1)"]
NO_ADDRESSES += ["https:///evil.test", "https:/evil.test", "https://\\evil.test", "HTTPS://x/", "data:text/html,x"]
NO_ADDRESSES += ["/" + "x" * 2048, "/" + "&" * 500]


@pytest.mark.parametrize("url", NO_ADDRESSES)
def test_an_address_that_is_not_plainly_one_is_no_link(url: str) -> None:
    document = Document(error_page(StoreFault("store_unavailable"), retry_url=url))
    assert document.urls() == []
    assert document.refresh() == "5"


@pytest.mark.parametrize(
    "url", ["/", "/a?b=1&c='2'#d", "https://app.test//x?y={}", "http://localhost:4180/x", "/" + "x" * 2047]
)
def test_an_address_of_ours_is_a_link_to_exactly_that(url: str) -> None:
    assert Document(error_page(StoreFault("store_unavailable"), retry_url=url)).buttons() == [url]


MAIL = '<a href="mailto:help@example.com?subject=Reference%2001jd8q2x5m7r">help@example.com</a>'
CONTACTS = {
    None: "your administrator",
    "help@example.com": MAIL,
    "https://status.test/?a&b": '<a href="https://status.test/?a&amp;b">https://status.test/?a&amp;b</a>',
    "extension 4711 <night>": "extension 4711 &lt;night&gt;",
    "/local": "/local",
    "javascript://x/%0aalert(1)": "javascript://x/%0aalert(1)",
    "help@example.com?bcc=all@example.com": "help@example.com?bcc=all@example.com",
}


@pytest.mark.parametrize(("contact", "shown"), CONTACTS.items())
def test_the_contact(contact: str | None, shown: str) -> None:
    page = error_page(RequestFault("not_found"), settings=PageSettings(contact=contact))
    assert f"contact {shown} and give" in page.body.decode()


@pytest.mark.parametrize(
    "settings", [{"title": ""}, {"contact": ""}, {"title": "x" * 81}, {"contact": "x" * 201}, {"logo": "x"}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        PageSettings(**settings)


# ── what the provider said (F50, LT-11) ───────────────────────────────────────────────────────────────────────────────


def test_f50_s6_the_providers_words_are_shown_and_lead_nowhere() -> None:
    answer = ProviderAnswer("temporarily_unavailable", "<script>alert('x')</script>", "https://idp.test/e?a=1&b=2")
    document = Document(refused(answer=answer, start_url=START))
    said = "<script>alert('x')</script> temporarily_unavailable https://idp.test/e?a=1&b=2"
    assert f"The sign-in service answered: {said}" in document.text
    assert document.urls() == [START]


@pytest.mark.parametrize(
    "uri", ["http://idp.test/", "javascript:alert(1)", "//idp.test", "/x", "https://idp.test/ x", ""]
)
def test_f50_an_error_uri_that_is_not_https_is_not_even_text(uri: str) -> None:
    assert refused(answer=ProviderAnswer("x", "y", uri)) == refused(answer=ProviderAnswer("x", "y"))


@ALL_CODES
def test_lt11_no_other_page_reflects_the_provider(fault: ProxyError) -> None:
    reply = error_page(fault, answer=ProviderAnswer("reflected_error", "reflected_description"))
    assert ("reflected_" in reply.body.decode()) is (fault.code == "provider_refused")


@ALL_CODES
def test_the_account_is_shown_where_another_one_helps(fault: ProxyError) -> None:
    shown = "Your account here is ann@example.test" in Document(error_page(fault, account="ann@example.test")).text
    assert shown is (fault.code in {"access_denied", "identity_unusable"})


# ── pages and problems that say when to come back, and how to sign in ─────────────────────────────────────────────────


@ALL_CODES
def test_f260_only_an_outage_recovers_by_itself(fault: ProxyError) -> None:
    page = error_page(fault, retry_url="/wanted?a=1&b=2")
    outage = fault.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert Document(page).refresh() == ("5; url=/wanted?a=1&b=2" if outage else None)
    assert headers(page).get("Retry-After") == ("5" if outage else None)


def test_f213_a_page_that_counts_its_tries_comes_back_to_itself() -> None:
    fault = StoreFault("store_unavailable", retry_after=7)
    for again, url in (("/again?n=1&m", "/again?n=1&m"), (None, "/wanted"), ("/" + "x" * 2048, "/wanted")):
        document = Document(error_page(fault, retry_url="/wanted", reload_url=again))
        assert document.refresh() == f"7; url={url}"
        assert document.urls() == ["/wanted"], "who does not want to wait goes there at once"


@pytest.mark.parametrize(
    ("tries", "least", "most"),
    [(0, 5, 10), (1, 10, 20), (2, 20, 40), (3, 30, 60), (4, 30, 60), (9, 30, 60), (10**9, 30, 60)],
)
def test_f213_pages_come_back_less_and_less_often_and_not_all_at_once(tries: int, least: int, most: int) -> None:
    assert (pages.back_off(tries, 0.0), pages.back_off(tries, 1.0)) == (least, most)
    waits = [pages.back_off(tries, chance / 256) for chance in range(256)]
    assert waits == sorted(waits)
    assert max(waits.count(wait) for wait in waits) <= 256 / (most - least) + 1


@pytest.mark.parametrize(("after", "sent"), [(30, "30"), (0, "1"), (-3, "1"), (None, "5")])
def test_f260_retry_after(after: int | None, sent: str) -> None:
    fault = ProviderFault("provider_unavailable", retry_after=after)
    page = error_page(fault)
    assert headers(page)["Retry-After"] == sent
    assert Document(page).refresh() == sent
    assert headers(pages.problem(fault, request_id=REQUEST_ID))["Retry-After"] == sent


def test_retry_after_on_another_status_does_not_reload_the_page() -> None:
    page = error_page(UpstreamFault("upstream_timeout", retry_after=7))
    assert headers(page)["Retry-After"] == "7"
    assert Document(page).refresh() is None


@ALL_CODES
def test_be4_a_401_has_its_challenge(fault: ProxyError) -> None:
    expected = "Bearer" if fault.status == HTTPStatus.UNAUTHORIZED else None
    assert headers(error_page(fault)).get("WWW-Authenticate") == expected
    assert headers(pages.problem(fault, request_id=REQUEST_ID)).get("WWW-Authenticate") == expected


@ALL_CODES
def test_f52_problem_details(fault: ProxyError) -> None:
    reply = pages.problem(
        type(fault)(fault.code, "the inner reason"), request_id=REQUEST_ID, login_url="https://app.test/s"
    )
    assert reply.status == fault.status
    expected = {
        "title": HTTPStatus(fault.status).phrase,
        "status": fault.status,
        "detail": fault.public,
        "code": fault.code,
        "request_id": REQUEST_ID,
    }
    if fault.status == HTTPStatus.UNAUTHORIZED:
        expected["login_url"] = "https://app.test/s"
    assert json.loads(reply.body) == expected


def test_f52_a_problem_without_a_place_to_sign_in() -> None:
    reply = pages.problem(RequestFault("sign_in_required"), request_id=REQUEST_ID)
    assert "login_url" not in json.loads(reply.body)


JSON_REPLIES = {
    "application/problem+json": pages.problem(RequestFault("access_denied"), request_id="</script>\udcff\x00"),
    "application/json": pages.json_reply(200, {"sub": "</script>\udcff\x00ü"}),
}


@pytest.mark.parametrize(("media_type", "reply"), JSON_REPLIES.items(), ids=JSON_REPLIES.keys())
def test_f258_json_is_locked_down_too(media_type: str, reply: Reply) -> None:
    sent = headers(reply)
    assert sent["Content-Type"] == media_type
    assert sent["X-Content-Type-Options"] == "nosniff"
    assert sent["Referrer-Policy"] == "no-referrer"
    assert sent["Cache-Control"] == "no-store"
    assert policy(reply)["default-src"] == policy(reply)["frame-ancestors"] == ["'none'"]
    assert "style-src" not in policy(reply)
    assert reply.body.isascii()


def test_userinfo_is_what_was_given() -> None:
    claims = {"sub": "248289761001", "name": "Zoë 😀", "groups": ["/eng/core"], "email_verified": True, "x": None}
    reply = pages.json_reply(200, claims)
    assert reply.status == 200
    assert json.loads(reply.body) == claims


# ── signing out ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_f198_the_signed_out_page_has_a_link_and_goes_nowhere_by_itself() -> None:
    reply = signed_out_page(sign_in_url=START)
    document = Document(reply)
    assert reply.status == 200
    assert "You are signed out" in document.text
    assert document.urls() == [START]
    assert document.refresh() is None
    assert "Clear-Site-Data" not in headers(reply)
    assert Document(signed_out_page()).urls() == []


def test_f198_clear_site_data() -> None:
    assert headers(signed_out_page(clear_site_data='"cache", "storage"'))["Clear-Site-Data"] == '"cache", "storage"'


def test_f97_signing_out_is_asked_for_and_posted() -> None:
    document = Document(confirm_sign_out_page(fields={"csrf": '"<&'}, account="ann@example.test"))
    assert document.all("form") == [{"class": "actions", "method": "post", "action": "/oauth2/sign_out"}]
    assert document.all("input") == [{"type": "hidden", "name": "csrf", "value": '"<&'}]
    assert document.all("button") == [{}]
    assert document.urls() == ["/oauth2/sign_out", "/"]
    assert "You are signed in as ann@example.test" in document.text
    assert document.refresh() is None


def test_f97_neither_account_nor_fields_nor_a_way_back_need_be_known() -> None:
    document = Document(confirm_sign_out_page(cancel_url=None))
    assert document.urls() == ["/oauth2/sign_out"]
    assert document.all("input") == []
    assert "You are signed in" not in document.text


def test_br7_the_form_may_be_answered_with_a_redirect_to_the_provider() -> None:
    assert policy(confirm_sign_out_page())["form-action"] == ["'self'"]
    targets = [Origin.parse("https://IDP.test:443"), Origin.parse("http://localhost:8080")]
    reply = confirm_sign_out_page(form_targets=targets)
    assert policy(reply)["form-action"] == ["'self'", "https://idp.test", "http://localhost:8080"]


def test_the_form_keeps_its_origin_and_all_other_pages_tell_nothing() -> None:
    policies = {name: headers(reply)["Referrer-Policy"] for name, reply in PAGES.items()}
    for name in ("confirm_sign_out", "confirm_sign_out everywhere", "my_sessions"):
        assert policies.pop(name) == "same-origin"
    assert set(policies.values()) == {"no-referrer"}


def test_a_form_without_an_endpoint_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="endpoint"):
        confirm_sign_out_page(action="javascript:alert(1)")


def test_f265_the_question_says_when_every_browser_is_meant() -> None:
    document = Document(confirm_sign_out_page(fields={"all": "1"}, everywhere=True))
    assert document.all("input") == [{"type": "hidden", "name": "all", "value": "1"}]
    assert "Sign out everywhere?" in document.text
    assert "every browser" in document.text
    assert "every browser" not in Document(confirm_sign_out_page()).text


# ── my sessions ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_f261_the_list_says_who_where_and_until_when() -> None:
    document = Document(my_sessions_page())
    assert "You are signed in as ann ." in document.text
    assert "Firefox on Linux, from 192.0.2.7" in document.text
    assert "Ends if not used 2026-11-21 10:35 UTC" in document.text
    assert "Ends in any case 2026-11-21 12:05 UTC" in document.text
    assert "Access token until 2026-11-21 10:09 UTC , then renewed by itself" in document.text
    assert "Safari on iPhone since 2026-11-20 10:05 UTC , from 2001:db8::7" in document.text


def test_f261_each_session_has_a_button_that_names_it() -> None:
    tablet = OtherSession("0123456789abcdef", "Chrome on Android", "", NOW)
    document = Document(my_sessions_page(others=[PHONE, tablet]))
    assert [form["action"] for form in document.all("form")] == [
        "/oauth2/sign_out",
        "/oauth2/session",
        "/oauth2/session",
        "/oauth2/session",
        "/oauth2/sign_out",
    ]
    assert {form["method"] for form in document.all("form")} == {"post"}
    assert [(field["name"], field["value"]) for field in document.all("input")] == [
        ("end", PHONE.id),
        ("end", tablet.id),
        ("end", "others"),
        ("all", "1"),
    ]
    described = [button["aria-describedby"] for button in document.all("button") if "aria-describedby" in button]
    assert described == [block["id"] for block in document.all("div") if "id" in block]
    assert "Chrome on Android since" in document.text


def test_f261_nobody_else_and_a_token_without_an_end() -> None:
    document = Document(my_sessions_page(replace(OWN, token_until=None, address=""), [], home_url=None))
    assert "You are not signed in anywhere else." in document.text
    assert "Access token" not in document.text
    assert "from" not in document.text.split("Browser", 1)[1].split("Signed in")[0]
    assert [field["name"] for field in document.all("input")] == ["all"]
    assert document.all("a") == []
    assert "renewed" not in Document(my_sessions_page(replace(OWN, renewable=False))).text


def test_f261_more_sessions_than_a_page_takes_are_counted() -> None:
    document = Document(my_sessions_page(others=[PHONE] * 14))
    assert len(document.all("li")) == 12
    assert "There are 2 more." in document.text
    assert "more" not in Document(my_sessions_page(others=[PHONE] * 12)).text


@pytest.mark.parametrize("name", ["session_url", "sign_out_url"])
def test_a_list_without_an_endpoint_is_a_mistake_of_ours(name: str) -> None:
    with pytest.raises(ValueError, match="endpoints"):
        my_sessions_page(**{name: "javascript:alert(1)"})


MOZILLA = "Mozilla/5.0"
AGENTS = {
    f"{MOZILLA} (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0": "Firefox on Linux",
    f"{MOZILLA} (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 "
    "Edg/142.0.0.0": "Edge on Windows",
    f"{MOZILLA} (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36": (
        "Chrome on Android"
    ),
    f"{MOZILLA} (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 "
    "Mobile/15E148 Safari/604.1": "Safari on iPhone",
    f"{MOZILLA} (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/142.0.0.0 "
    "Mobile/15E148 Safari/604.1": "Chrome on iPhone",
    f"{MOZILLA} (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 "
    "Safari/605.1.15": "Safari on Mac",
    "curl/8.9.1": "curl",
    "": "Unknown browser",
    "<script>alert(1)</script>": "Unknown browser",
    "\udcff Linux \x00": "Unknown browser on Linux",
}


@pytest.mark.parametrize(("user_agent", "words"), AGENTS.items(), ids=AGENTS.values())
def test_f261_a_browser_in_words(user_agent: str, words: str) -> None:
    assert browser_words(user_agent) == words


def test_lo9_lo10_the_frame_is_for_the_provider_alone() -> None:
    reply = pages.empty_frame(Origin.parse("https://idp.test"))
    sent = headers(reply)
    assert (reply.status, reply.body) == (200, b"")
    assert policy(reply)["frame-ancestors"] == ["https://idp.test"]
    assert policy(reply)["default-src"] == ["'none'"]
    assert "X-Frame-Options" not in sent
    assert sent["Cache-Control"] == "no-store"


# ── redirects ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [302, 303, 307, 308])
def test_br2_br13_redirects_are_not_stored_and_tell_nothing(status: int) -> None:
    cookies = [Cookie("a", "1", secure=True), Cookie("b", "2", secure=False)]
    reply = pages.redirect(status, "https://idp.test/auth?x=1&y=%22", cookies)
    assert reply == Reply(
        status,
        (
            ("Location", "https://idp.test/auth?x=1&y=%22"),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),
            ("Set-Cookie", str(cookies[0])),
            ("Set-Cookie", str(cookies[1])),
        ),
    )


@pytest.mark.parametrize(
    ("status", "location"),
    [
        (200, "/"),
        (301, "/"),
        (304, "/"),
        (302, ""),
        (302, "/a b"),
        (302, "/\r\nSet-Cookie: x=1"),
        (302, "/\n"),
        (302, "/ü"),
    ],
)
def test_a_redirect_that_cannot_be_sent_is_a_mistake_of_ours(status: int, location: str) -> None:
    with pytest.raises(ValueError, match="redirect"):
        pages.redirect(status, location)


# ── colours (F259: WCAG 2.2 §1.4.3 and §1.4.11) ───────────────────────────────────────────────────────────────────────

LIGHT, DARK = (
    dict(re.findall(r"--([a-z-]+):(#[0-9a-f]{6})", block))
    for block in re.findall(r":root\{(.*?)\}", style(PAGES["not_found"]), re.DOTALL)
)


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_reckoned_as_wcag_does() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "paper", "least"),
    [
        ("text", "card", 4.5),
        ("text", "page", 4.5),
        ("quiet", "card", 4.5),
        ("quiet", "page", 4.5),
        ("accent", "card", 4.5),
        ("on-accent", "accent", 4.5),
        ("accent", "tint", 3),
        ("accent", "page", 3),
    ],
)
def test_f259_contrast(theme: dict[str, str], ink: str, paper: str, least: float) -> None:
    assert contrast(theme[ink], theme[paper]) >= least


def test_f259_the_dark_theme_is_whole_and_every_colour_comes_from_a_theme() -> None:
    css = style(PAGES["not_found"])
    assert LIGHT.keys() == DARK.keys()
    assert LIGHT != DARK
    assert "prefers-color-scheme:dark" in css
    assert ":focus-visible" in css
    rules = re.sub(r":root\{.*?\}", "", css, flags=re.DOTALL)
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgb|hsl", rules)
    assert set(re.findall(r"var\(--([a-z-]+)\)", rules)) == LIGHT.keys()

"""The test browser does what browsers do where a login depends on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from oidc_proxy.demo.backend import Backend, Behaviour
from tests.cookies import Jar, relation
from tests.world import Browser, Clock, Form, running_backend

HTTP, HTTPS, LOOPBACK = "http://app.example.test/a/b", "https://app.example.test/a/b", "http://127.0.0.1:8080/"


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with running_backend() as backend:
        yield backend


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with Browser() as browser:
        yield browser


@pytest.mark.parametrize(
    ("url", "line", "taken"),
    [
        (LOOPBACK, "__Host-s=1; Secure; Path=/", True),
        (HTTPS, "__Host-s=1; Secure; Path=/; HttpOnly; SameSite=Lax", True),
        (HTTPS, "__Host-s=1; Path=/", False),
        (HTTPS, "__Host-s=1; Secure; Path=/a", False),
        (HTTPS, "__Host-s=1; Secure", False),
        (HTTPS, "__host-s=1; Secure; Path=/; Domain=app.example.test", False),
        (HTTPS, "__Secure-s=1; Path=/", False),
        (HTTP, "s=1; Secure", False),
        (HTTP, "s=1", True),
        (HTTPS, "s=1; SameSite=None", False),
        (HTTPS, "s=1; Domain=example.test", True),
        (HTTPS, "s=1; Domain=other.test", False),
        (HTTPS, f"s={'x' * 4096}", False),
        (HTTPS, "nothing", False),
    ],
)
def test_se_15_what_cookies_are_taken(url: str, line: str, taken: bool) -> None:
    jar = Jar(Clock())
    jar.store(url, line)
    assert (len(jar), len(jar.refused)) == ((1, 0) if taken else (0, 1))


@pytest.mark.parametrize(
    "line",
    [
        "s=; Max-Age=0",
        "s=; Max-Age=-1",
        "s=; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "s=; Expires=Thu, 01 Jan 1970 00:00:01 GMT",
    ],
)
def test_se_21_every_way_to_delete_a_cookie(line: str) -> None:
    jar = Jar(Clock())
    jar.store(HTTPS, "s=1; Path=/")
    jar.store(HTTPS, f"{line}; Path=/")
    assert len(jar) == 0


def test_cookies_end_by_the_clock() -> None:
    clock = Clock()
    jar = Jar(clock)
    jar.store(HTTPS, "s=1; Max-Age=10")
    clock.advance(10)
    assert jar.get("s") is None


@pytest.mark.parametrize(
    ("same_site", "safe", "sent"),
    [(True, True, "lsn"), (False, True, "ln"), (False, False, "n"), (True, False, "lsn")],
)
def test_se_17_same_site(same_site: bool, safe: bool, sent: str) -> None:
    jar = Jar(Clock())
    for name, kind in [("l", "Lax"), ("s", "Strict"), ("n", "None; Secure")]:
        jar.store(HTTPS, f"{name}=1; Path=/; SameSite={kind}")
    got = jar.header(HTTPS, same_site=same_site, safe_navigation=safe)
    assert {pair.partition("=")[0] for pair in got.split("; ")} == set(sent)


def test_cookies_go_by_path_and_host_and_not_by_port() -> None:
    jar = Jar(Clock())
    jar.store("http://127.0.0.1:1/a/b", "p=1")
    jar.store("http://127.0.0.1:1/", "r=1")
    assert jar.header("http://127.0.0.1:2/a/c") == "p=1; r=1"
    assert jar.header("http://127.0.0.1:2/ab") == "r=1"
    assert jar.header("http://localhost:2/") == ""


@pytest.mark.parametrize(
    ("initiator", "urls", "site"),
    [
        (None, [HTTPS], "none"),
        (HTTPS, [HTTPS], "same-origin"),
        (HTTPS, ["https://idp.example.test/"], "same-site"),
        (HTTPS, [HTTP], "cross-site"),
        (HTTPS, ["https://evil.test/", HTTPS], "cross-site"),
        (LOOPBACK, ["http://127.0.0.1:9/"], "same-site"),
        (LOOPBACK, ["http://localhost:8080/"], "cross-site"),
    ],
)
def test_sec_fetch_site(initiator: str | None, urls: list[str], site: str) -> None:
    assert relation(initiator, urls) == site


async def test_redirects_are_followed_as_written(backend: Backend, browser: Browser) -> None:
    backend.switches.at["/go"] = Behaviour(status=302, headers=(("Location", "/echo/a%2Fb?x=%2f#part"),))
    page = await browser.navigate(f"{backend.url}/go")
    assert page.json()["target"] == "/echo/a%2Fb?x=%2f"
    assert [hop.status for hop in page.hops] == [302, 200]
    sent = dict(page.json()["headers"])
    assert (sent["Sec-Fetch-Mode"], sent["Sec-Fetch-Site"], sent["Sec-Fetch-Dest"]) == ("navigate", "none", "document")


@pytest.mark.parametrize(("status", "method"), [(301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")])
async def test_a_post_through_a_redirect(backend: Backend, browser: Browser, status: int, method: str) -> None:
    backend.switches.at["/go"] = Behaviour(status=status, headers=(("Location", "/echo"),))
    page = await browser.navigate(f"{backend.url}/go", method="POST", data=b"a=1", initiator=backend.url)
    assert page.json()["method"] == method
    assert page.json()["body_length"] == (3 if method == "POST" else 0)
    assert page.hops[0].request_headers["Origin"] == backend.url
    assert ("Origin" in dict(page.json()["headers"])) == (method == "POST")


async def test_a_loop_of_redirects_ends(backend: Backend, browser: Browser) -> None:
    backend.switches.at["/go"] = Behaviour(status=302, headers=(("Location", "/go"),))
    with pytest.raises(AssertionError, match="for ever"):
        await browser.navigate(f"{backend.url}/go")


@pytest.mark.parametrize(
    ("policy", "origin"), [("no-referrer", "null"), ("same-origin", "own"), ("strict-origin-when-cross-origin", "own")]
)
async def test_a_page_without_referrer_posts_without_origin(
    backend: Backend, browser: Browser, policy: str, origin: str
) -> None:
    html = (
        b'<form method="post" action="/echo?a=1&amp;b=2" id="f"><input type="hidden" name="h" value="1&amp;2"></form>'
    )
    backend.switches.at["/form"] = Behaviour(body=html, headers=(("Referrer-Policy", policy),))
    page = await browser.navigate(f"{backend.url}/form")
    assert page.forms == [Form("/echo?a=1&b=2", "POST", "f", {"h": "1&2"}, {"h": "hidden"})]
    sent = (await browser.submit(page, {"x": "y z"})).json()
    assert sent["target"] == "/echo?a=1&b=2"
    assert backend.requests[-1].form == {"h": "1&2", "x": "y z"}
    assert dict(sent["headers"])["Origin"] == {"own": backend.url}.get(origin, origin)


async def test_a_form_sends_what_a_browser_would_send(backend: Backend, browser: Browser) -> None:
    """Keycloak's sign-in form has all of these."""
    backend.switches.at["/form"] = Behaviour(
        body=b"""<form id="kc-form-login" action="/echo/x?session_code=a&amp;tab_id=b" method="post">
        <input name="username" value=""><input name="password" type="password"><input name="rememberMe" type="checkbox">
        <input name="kept" type="checkbox" checked><input type="hidden" name="credentialId">
        <button name="login" type="submit" value="go">Go</button><button name="cancel" value="1">No</button></form>"""
    )
    page = await browser.sign_in(f"{backend.url}/form", "ann", "p&w")
    assert page.json()["target"] == "/echo/x?session_code=a&tab_id=b"
    expected = {"username": "ann", "password": "p&w", "kept": "on", "credentialId": "", "login": "go"}
    assert backend.requests[-1].form == expected


async def test_a_fetch_of_another_site_carries_no_lax_cookie(backend: Backend, browser: Browser) -> None:
    browser.cookies.store(backend.url, "s=1; Path=/; SameSite=Lax")
    own = dict((await browser.fetch(f"{backend.url}/echo")).json()["headers"])
    assert (own["Cookie"], own["Sec-Fetch-Site"], own["Sec-Fetch-Mode"]) == ("s=1", "same-origin", "cors")
    other = dict(
        (await browser.fetch(f"{backend.url}/echo", page="http://evil.test/", method="POST")).json()["headers"]
    )
    assert (other.get("Cookie"), other["Sec-Fetch-Site"], other["Origin"]) == (None, "cross-site", "http://evil.test")
    image = dict((await browser.fetch(f"{backend.url}/echo", dest="image")).json()["headers"])
    assert (image["Sec-Fetch-Mode"], image["Sec-Fetch-Dest"]) == ("no-cors", "image")


async def test_tabs_links_and_names(backend: Backend, browser: Browser) -> None:
    home = f"http://app.example.test:{backend.port}"
    pages = await browser.open_tabs([f"{home}/echo/{number}" for number in range(5)])
    assert [page.json()["target"] for page in pages] == [f"/echo/{number}" for number in range(5)]
    page = await browser.click(await browser.navigate(f"{home}/"), "Public page")
    assert page.url == f"{home}/public/"
    assert "Sec-Fetch-Site" not in page.hops[0].request_headers

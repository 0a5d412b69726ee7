"""What reaches us: the target, the host, the client, and whether somebody is looking."""

from __future__ import annotations

from ipaddress import ip_network

import msgspec
import pytest
from pydantic import ValidationError

from oidc_proxy.errors import RequestFault
from oidc_proxy.messages import (
    EndpointSettings,
    Origins,
    client_address,
    forwarded_element,
    forwarded_for,
    is_navigation,
    is_trusted,
    prefers_html,
    query_parameters,
    request_id,
    split_target,
    trace_id,
)
from oidc_proxy.values import Origin

from .samples import APP, head

PROXIES = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prefix", ["/oauth2", "/_auth", "/a/b-c", "/.well-known/x", "/a.b"])
def test_prefixes_of_our_endpoints(prefix: str) -> None:
    assert EndpointSettings(prefix=prefix).prefix == prefix


@pytest.mark.parametrize(
    "prefix", ["", "/", "oauth2", "/oauth2/", "//a", "/.", "/..", "/a/../b", "/a%2fb", "/a b", "/a?b", "/é"]
)
def test_prefixes_that_could_be_read_in_two_ways(prefix: str) -> None:
    with pytest.raises(ValidationError):
        EndpointSettings(prefix=prefix)


# ── the request target ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", None),
        ("/a?", "/a", ""),
        ("/a?b=c%2Fd?e", "/a", "b=c%2Fd?e"),
        ("//evil.test/", "//evil.test/", None),
        ("/a/../b//c;d=%zz", "/a/../b//c;d=%zz", None),
        ("/a?x=/../b", "/a", "x=/../b"),
    ],
)
def test_a_target_is_split_and_otherwise_untouched(target: str, path: str, query: str | None) -> None:
    assert split_target(target) == (path, query)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("http://evil.test/x", id="SM-12, PA-17: absolute-form"),
        pytest.param("/a#b", id="SM-13: a fragment"),
        pytest.param("*", id="SM-14: asterisk-form"),
        pytest.param("host:443", id="SM-14: authority-form"),
        pytest.param("@evil/x", id="OUT-4"),
        pytest.param("", id="nothing"),
        pytest.param("/a b", id="a space"),
        pytest.param("/a\tb", id="OR-3: a tab"),
        pytest.param("/a\r\nb", id="OR-11: a line end"),
        pytest.param("/a\n", id="a line end at the end"),
        pytest.param("/\0", id="OR-15: NUL"),
        pytest.param("/\x7f", id="DEL"),
        pytest.param("/public/．．/", id="PA-13: not ASCII"),
        pytest.param("/\udcff", id="a byte that is no UTF-8"),
    ],
)
def test_only_origin_form_of_printable_ascii_is_taken(target: str) -> None:
    with pytest.raises(RequestFault) as caught:
        split_target(target)
    assert caught.value.code == "bad_request"


# ── which of our origins ──────────────────────────────────────────────────────────────────────────────────────────────


ORIGINS = Origins([APP, Origin.parse("http://other.test:8080"), Origin.parse("https://[2001:db8::1]")])


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("app.test", "https://app.test"),
        ("APP.test", "https://app.test"),
        ("app.test:443", "https://app.test"),
        ("APP.Test.:443", "https://app.test"),
        ("app.test.", "https://app.test"),
        ("other.test:8080", "http://other.test:8080"),
        ("[2001:DB8:0::1]", "https://[2001:db8::1]"),
        ("[2001:db8::1]:443", "https://[2001:db8::1]"),
    ],
)
def test_f172_pa_26_a_host_is_known_in_every_spelling(host: str, origin: str) -> None:
    assert str(ORIGINS.find(host)) == origin


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("evil.test", id="FW-6"),
        pytest.param("app.test:80@evil", id="FW-7: user info"),
        pytest.param("app.test, evil", id="FW-7: a list"),
        pytest.param("[::1]", id="FW-7: another address"),
        pytest.param("app.test:80", id="another port"),
        pytest.param("other.test", id="the default port is not ours"),
        pytest.param("app.test:", id="an empty port"),
        pytest.param("app.test:0443", id="a port with a zero in front"),
        pytest.param("app.test:４４３", id="digits of another script"),
        pytest.param("app．test", id="OR-8: a dot of another script"),
        pytest.param("app。test", id="OR-9: an ideographic full stop"),
        pytest.param("ａpp.test", id="OR-16: a letter of another width"),
        pytest.param("app.test..", id="two dots"),
        pytest.param("x.app.test", id="a host below"),
        pytest.param("[2001:db8::1%eth0]", id="a zone"),
        pytest.param("[2001:db8::1", id="an open bracket"),
        pytest.param("a/x?y#z", id="SM-11: a path"),
        pytest.param("a b", id="SM-11: a space"),
        pytest.param("app.test\udcff", id="a byte that is no UTF-8"),
        pytest.param("", id="SM-11: nothing"),
    ],
)
def test_other_hosts_are_not_ours(host: str) -> None:
    with pytest.raises(RequestFault) as caught:
        ORIGINS.find(host)
    assert caught.value.code == "wrong_host"


# ── who asks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        pytest.param("192.0.2.9", ["127.0.0.1"], "192.0.2.9", id="FW-1, F176: an untrusted peer says what it likes"),
        pytest.param("192.0.2.9", ["10.0.0.1"], "192.0.2.9", id="FW-9: nor may it pose as a trusted hop"),
        pytest.param("10.0.0.1", [], "10.0.0.1", id="a trusted peer speaks for itself"),
        pytest.param("10.0.0.1", ["203.0.113.5"], "203.0.113.5", id="a trusted peer names its client"),
        pytest.param(
            "10.0.0.1", ["6.6.6.6, 203.0.113.5"], "203.0.113.5", id="FW-3, PX-40: what the client wrote is left"
        ),
        pytest.param("10.0.0.1", ["127.0.0.1, 203.0.113.5, 10.0.0.2"], "203.0.113.5", id="FW-3: through two hops"),
        pytest.param("10.0.0.1", ["6.6.6.6", "203.0.113.5"], "203.0.113.5", id="FW-4: two headers are one list"),
        pytest.param("10.0.0.1", ["203.0.113.5", "10.0.0.2"], "203.0.113.5", id="FW-4: the walk crosses headers"),
        pytest.param("10.0.0.1", ["10.0.0.3,10.0.0.2"], "10.0.0.3", id="only trusted hops: the farthest of them"),
        pytest.param("10.0.0.1", ["203.0.113.5, garbage, 10.0.0.2"], "10.0.0.2", id="FW-3: a malformed entry ends it"),
        pytest.param("10.0.0.1", ["203.0.113.5, "], "10.0.0.1", id="an empty entry ends it"),
        pytest.param("10.0.0.1", ["203.0.113.5:4711"], "10.0.0.1", id="an entry with a port ends it"),
        pytest.param("10.0.0.1", ["203.0.113.005"], "10.0.0.1", id="a number that may be octal ends it"),
        pytest.param("10.0.0.1", ["fe80::1%<x>\udcff"], "10.0.0.1", id="BR-14: a zone may be any text"),
        pytest.param("10.0.0.1", ["\u00a0203.0.113.5"], "10.0.0.1", id="white space of another script ends it"),
        pytest.param("10.0.0.1", ["2001:DB8:1::1, 2001:db9::a"], "2001:db9::a", id="IPv6"),
        pytest.param("2001:db8::5", ["203.0.113.5"], "203.0.113.5", id="an IPv6 hop"),
        pytest.param("2001:db8::5%eth0", ["203.0.113.5"], "203.0.113.5", id="an IPv6 hop of one link"),
        pytest.param("::ffff:10.0.0.1", ["203.0.113.5"], "203.0.113.5", id="IPv4 as IPv6: the peer"),
        pytest.param("10.0.0.1", ["6.6.6.6, ::ffff:203.0.113.5"], "203.0.113.5", id="IPv4 as IPv6: the client"),
        pytest.param("10.0.0.1", ["203.0.113.5, ::ffff:a00:2"], "203.0.113.5", id="FW-9: IPv4 as IPv6: a hop"),
        pytest.param("", ["203.0.113.5"], "", id="a peer without an address"),
    ],
)
def test_the_client_is_who_trusted_hops_say_it_is(peer: str, forwarded_for: list[str], client: str) -> None:
    assert client_address(peer, forwarded_for, PROXIES) == client


def test_fw_10_without_trusted_proxies_the_client_is_the_peer() -> None:
    assert client_address("10.0.0.1", ["203.0.113.5"], ()) == "10.0.0.1"


@pytest.mark.parametrize(
    ("offered", "kept"),
    [
        ("0af76519-16cd.43dd_8448", True),
        ("a" * 128, True),
        (None, False),
        ("short", False),
        ("a" * 129, False),
        ("-starts-with-a-dash", False),
        ("0af7651916cd43dd\n", False),
        ("0af76519\x1b[31m", False),
        ("０ａｆ７６５１９１６", False),
        ('{"a": "b"} and more', False),
    ],
)
def test_br_14_a_request_id_is_taken_only_if_it_is_one(offered: str | None, kept: bool) -> None:
    assert request_id(offered, "fresh") == (offered if kept else "fresh")


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [("10.0.0.1", True), ("192.0.2.9", False), ("", False), ("::ffff:10.0.0.1", True), ("not an address", False)],
)
def test_trusted_hops_are_known_by_their_address(peer: str, trusted: bool) -> None:
    assert is_trusted(peer, PROXIES) is trusted
    assert not is_trusted(peer, ())


@pytest.mark.parametrize(
    ("lines", "addresses"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param(["for=192.0.2.60;proto=http;by=203.0.113.43"], ["192.0.2.60"], id="RFC 7239 §4: parameters"),
        pytest.param(["for=192.0.2.43, FOR=198.51.100.17"], ["192.0.2.43", "198.51.100.17"], id="two elements"),
        pytest.param(["for=192.0.2.43", "for=198.51.100.17"], ["192.0.2.43", "198.51.100.17"], id="FW-4: two headers"),
        pytest.param(['For="[2001:db8:cafe::17]:4711"'], ["2001:db8:cafe::17"], id="IPv6 with a port"),
        pytest.param(['for="192.0.2.43:_port";host=x'], ["192.0.2.43"], id="an obfuscated port"),
        pytest.param(["for=_hidden, for=unknown, proto=https"], ["", "", ""], id="no addresses"),
        pytest.param([r'for="_x\"; proto=https", for=192.0.2.1'], ["", "192.0.2.1"], id="FW-4: a quote in quotes"),
        pytest.param([r'for="192.0.2.\1"'], ["192.0.2.1"], id="a quoted pair"),
        pytest.param(['for="'], [""], id="FW-4: an open quote"),
        pytest.param(['for=192.0.2.1;x=", for=192.0.2.2'], [""], id="FW-4: an open quote swallows what follows"),
        pytest.param(["for=192.0.2.1,"], [""], id="an empty element"),
        pytest.param(["for=192.0.2.1;;proto=http"], [""], id="an empty pair"),
        pytest.param(["for=192.0.2.1:80"], [""], id="a port without quotes"),
        pytest.param([""], [""], id="an empty header"),
        pytest.param(["garbage", "for=192.0.2.1"], ["", "192.0.2.1"], id="a malformed header says nothing"),
        pytest.param(["for=192.0.2.1", "garbage"], [""], id="and what was before it neither"),
    ],
)
def test_fw_4_forwarded_is_read_by_its_grammar(lines: list[str], addresses: list[str]) -> None:
    assert forwarded_for(lines) == addresses


@pytest.mark.parametrize(
    ("address", "element"),
    [
        ("192.0.2.1", "for=192.0.2.1"),
        ("2001:db8::1", 'for="[2001:db8::1]"'),
        ("fe80::1%eth0", 'for="[fe80::1]"'),
        ("", "for=unknown"),
    ],
)
def test_forwarded_is_written_by_its_grammar(address: str, element: str) -> None:
    assert forwarded_element(address) == element
    assert forwarded_for([element]) == ["" if not address else address.partition("%")[0]]


# ── is somebody looking ───────────────────────────────────────────────────────────────────────────────────────────────


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("headers", "navigation"),
    [
        pytest.param({"Accept": BROWSER}, True, id="a browser of old"),
        pytest.param(
            {"Accept": BROWSER, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}, True, id="a browser"
        ),
        pytest.param({"Accept": BROWSER, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}, True, id="a frame"),
        pytest.param({"Accept": BROWSER, "Sec_Fetch_Mode": "cors"}, False, id="LT-19: fetch"),
        pytest.param({"Accept": BROWSER, "Sec_Fetch_Dest": "image"}, False, id="LT-19: an image"),
        pytest.param(
            {"Accept": BROWSER, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "object"}, False, id="an object"
        ),
        pytest.param({"Accept": BROWSER, "X_Requested_With": "XMLHttpRequest"}, False, id="LT-19: XHR"),
        pytest.param({"Accept": "application/json"}, False, id="LT-19: JSON"),
        pytest.param({"Accept": "*/*"}, False, id="curl"),
        pytest.param({}, False, id="no Accept"),
        pytest.param({"Accept": BROWSER, "Sec_Purpose": "prefetch"}, False, id="LT-20: prefetch"),
        pytest.param({"Accept": BROWSER, "Sec_Purpose": "prefetch;prerender"}, False, id="LT-20: prerender"),
        pytest.param({"Accept": BROWSER, "Content_Type": "application/grpc+proto"}, False, id="F121: gRPC"),
        pytest.param({"Accept": BROWSER, "Upgrade": "websocket"}, False, id="a WebSocket"),
    ],
)
def test_f121_only_a_navigation_is_sent_to_sign_in(headers: dict[str, str], navigation: bool) -> None:
    assert is_navigation(head(**headers)) is navigation


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML;Q=0.5", True),
        ("application/xhtml+xml", True),
        ("text/html;q=0.9, application/json;q=0.9", True),
        ("text/html;level=1;q=0.4, application/json;q=0.3", True),
        ("application/json, text/plain", False),
        ("application/json;q=0.9", False),
        ("application/json, text/html;q=0.9", False),
        ("application/problem+json, text/html;q=0.9", False),
        ("text/html;q=0", False),
        ("text/html;q=0.000", False),
        ("text/html;q=high", False),
        ("text/html;q=1e9", False),
        ("text/*", False),
        ("*/*", False),
        (",;,q=1", False),
        ("", False),
    ],
)
def test_f52_html_or_json_by_quality(accept: str, html: bool) -> None:
    assert prefers_html(accept) is html


# ── parameters of our own endpoints ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (None, {}),
        ("", {}),
        ("&&", {}),
        ("rd=/a", {"rd": ["/a"]}),
        ("rd=/a&rd=//evil.test", {"rd": ["/a", "//evil.test"]}),
        ("r%64=%2Fa+b%2B", {"rd": ["/a b+"]}),
        ("rd", {"rd": [""]}),
        ("=x", {"": ["x"]}),
        ("rd=a=b;c", {"rd": ["a=b;c"]}),
        ("rd=%E6%9D%B1%zz", {"rd": ["東%zz"]}),
    ],
)
def test_parameters_keep_all_their_values(query: str | None, found: dict[str, list[str]]) -> None:
    assert query_parameters(query) == found


@pytest.mark.parametrize("query", ["rd=%ff", "%c0%af=x", "rd=%ed%a0%80"])
def test_parameters_that_are_no_text(query: str) -> None:
    with pytest.raises(RequestFault) as caught:
        query_parameters(query)
    assert caught.value.code == "bad_request"


# ── traces ──

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (f"00-{TRACE}-{PARENT}-01", TRACE),
        (f"cc-{TRACE}-{PARENT}-00", TRACE),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT}-01\n", None),
        (f"00-{TRACE}-{PARENT}-01, 00-{TRACE}-{PARENT}-01", None),
        ("", None),
    ],
)
def test_a_trace_is_named_by_its_parent_or_not_at_all(given: str, found: str | None) -> None:
    with_trace = head(traceparent=given)
    assert trace_id(with_trace) is None, "it does not go on"
    assert trace_id(msgspec.structs.replace(with_trace, traced=True)) == found
    assert trace_id(msgspec.structs.replace(head(), traced=True)) is None

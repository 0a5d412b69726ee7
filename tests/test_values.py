"""Small words: what each accepts, what it prints, and that it prints what it accepts."""

from __future__ import annotations

import copy
import json
import re
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from oidc_proxy.values import ByteSize, Duration, Origin, Secret, Settings, _Word, canonical_host, rfc3339


class Everything(Settings):
    secret: Secret | None = None
    wait: Duration = Field(Duration(900), ge=0)
    size: ByteSize = ByteSize(1024)
    origin: Origin | None = None


# ── instants ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000.25, "2023-11-14T22:13:20.250Z"),
        (951_782_400, "2000-02-29T00:00:00.000Z"),
    ],
)
def test_an_instant_is_written_in_utc(instant: float, text: str) -> None:
    assert rfc3339(instant) == text


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ss_19_a_secret_shows_itself_to_nobody_who_does_not_ask() -> None:
    secret = Secret("hunter2")
    settings = Everything(secret=secret)
    ways = [repr(secret), str(secret), f"{secret}", f"{secret!r:>9}", "%s" % secret, repr([secret]), repr(vars(secret))]  # noqa: UP031
    ways += [repr(settings), str(settings), repr(settings.model_dump(mode="json")), settings.model_dump_json()]
    assert not any("hunter2" in way for way in ways)
    assert secret.reveal() == "hunter2"


def test_secrets_are_equal_by_what_they_hide() -> None:
    assert Secret("a") == Secret("a") == copy.copy(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [(12345, "must be a string; put it in quotes"), (None, "must be a string"), ("", "must not be empty")],
)
def test_what_is_no_secret(given_: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Secret.parse(given_)


def test_ss_19_a_refused_secret_is_not_in_the_error() -> None:
    with pytest.raises(ValidationError) as caught:
        Everything.model_validate({"secret": 8_675_309})
    shown = "".join(traceback.format_exception(caught.value))
    assert "8675309" not in shown
    assert "put it in quotes" in shown


# ── durations and sizes ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "seconds", "printed"),
    [
        ("500ms", 0.5, "500ms"),
        ("9ms", 0.009, "9ms"),
        ("30s", 30, "30s"),
        ("15m", 900, "15m"),
        ("90m", 5400, "1h30m"),
        ("1h30m", 5400, "1h30m"),
        ("1.5h", 5400, "1h30m"),
        ("7d", 604_800, "7d"),
        ("2w", 1_209_600, "14d"),
        ("1d2h3m4s5ms", 93_784.005, "1d2h3m4s5ms"),
        ("0", 0, "0"),
        ("0s", 0, "0"),
        (0, 0, "0"),
    ],
)
def test_durations(text: object, seconds: float, printed: str) -> None:
    duration = Duration.parse(text)
    assert duration == seconds
    assert [str(duration), repr(duration), f"{duration}"] == [printed] * 3


@pytest.mark.parametrize(
    ("text", "size", "printed"),
    [
        ("512B", 512, "512B"),
        ("1000B", 1000, "1000B"),
        ("1024B", 1024, "1KiB"),
        ("64KiB", 65_536, "64KiB"),
        ("1MiB", 1_048_576, "1MiB"),
        ("1.5MiB", 1_572_864, "1536KiB"),
        ("2GiB", 2_147_483_648, "2GiB"),
        ("1kB", 1000, "1000B"),
        ("1MB", 1_000_000, "1000000B"),
        ("1GB", 1_000_000_000, "1000000000B"),
        ("0", 0, "0"),
        (0, 0, "0"),
    ],
)
def test_sizes(text: object, size: int, printed: str) -> None:
    parsed = ByteSize.parse(text)
    assert parsed == size
    assert [str(parsed), repr(parsed), f"{parsed}"] == [printed] * 3


@pytest.mark.parametrize("word", [Duration, ByteSize])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(15, id="a number without its unit"),
        pytest.param("15", id="the same as text"),
        pytest.param(1.5, id="a float"),
        pytest.param(True, id="true, which Python counts as 1"),
        pytest.param(False, id="false, which Python counts as 0"),
        pytest.param(None, id="nothing"),
        pytest.param("", id="empty"),
        pytest.param("m", id="a unit without its number"),
        pytest.param("-15m", id="negative"),
        pytest.param("+15m", id="signed"),
        pytest.param(" 15m", id="white space in front"),
        pytest.param("15 m", id="white space within"),
        pytest.param("15m\n", id="a line end"),
        pytest.param("1e-3s", id="an exponent"),
        pytest.param("1,5m", id="a decimal comma"),
        pytest.param(".5m", id="nothing before the point"),
        pytest.param("1_000s", id="a digit separator"),
        pytest.param("١٥m", id="digits of another script"),
        pytest.param("nan", id="no number at all"),
        pytest.param(["15m"], id="a list"),
    ],
)
def test_what_is_neither_duration_nor_size(word: type[_Word], text: object) -> None:
    with pytest.raises(ValueError, match=r"with its unit, such as (15m|1MiB)"):
        word.parse(text)


@pytest.mark.parametrize(
    ("word", "text", "sentence"),
    [
        (Duration, "15min", "has the unknown unit “min”; write one of ms, s, m, h, d, w, as in 15m"),
        (Duration, "1h5M", "has the unknown unit “M”"),
        (Duration, "1e3s", "has the unknown unit “e”"),
        (ByteSize, "1mb", "has the unknown unit “mb”; write one of B, KiB, MiB, GiB, kB, MB, GB, as in 1MiB"),
        (ByteSize, "1K", "has the unknown unit “K”"),
    ],
)
def test_an_unknown_unit_is_named(word: type[_Word], text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        word.parse(text)


@settings(deadline=None)
@given(st.integers(0, 10**13))
def test_a_duration_is_what_it_prints(milliseconds: int) -> None:
    duration = Duration(milliseconds / 1000)
    assert Duration.parse(str(duration)) == duration
    assert re.fullmatch(Duration.json_schema["pattern"], str(duration))


@settings(deadline=None)
@given(st.integers(0, 10**15 - 1))
def test_a_size_is_what_it_prints(count: int) -> None:
    size = ByteSize(count)
    assert ByteSize.parse(str(size)) == size
    assert re.fullmatch(ByteSize.json_schema["pattern"], str(size))


# ── hosts ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "host"),
    [
        pytest.param("app.test", "app.test", id="plain"),
        pytest.param("APP.Example.COM", "app.example.com", id="F172: case"),
        pytest.param("app.test.", "app.test", id="F172: trailing dot"),
        pytest.param("bücher.example", "xn--bcher-kva.example", id="F172: IDN"),
        pytest.param("xn--bcher-kva.example", "xn--bcher-kva.example", id="F172: IDN that is encoded already"),
        pytest.param("my_app", "my_app", id="underscore, as containers are called"),
        pytest.param("127.0.0.1", "127.0.0.1", id="IPv4"),
        pytest.param("[::1]", "[::1]", id="IPv6"),
        pytest.param("[0:0::0:1]", "[::1]", id="IPv6 at length"),
        pytest.param("[2001:DB8::A]", "[2001:db8::a]", id="IPv6 in capitals"),
    ],
)
def test_hosts_have_one_spelling(text: str, host: str) -> None:
    assert canonical_host(text) == host
    assert canonical_host(host) == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a..b",
        ".app.test",
        "app.test..",
        "-app.test",
        "app.test-",
        "a b",
        "a\tb",
        "a\n",
        "\0",
        "a@b",
        "a,b",
        "a/b",
        "a:80",
        "*.test",
        "::1",
        "[::1",
        "[::1x",
        "[::g]",
        "[]",
        "[::1%eth0]",
        "[127.0.0.1]",
        "x" * 64,
        "\udcff.test",
    ],
)
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # ipaddress has sentences of its own
        canonical_host(text)


# ── origins ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "printed", "port"),
    [
        ("https://app.test", "https://app.test", 443),
        ("https://App.Test:443/", "https://app.test", 443),
        ("HTTPS://app.test.", "https://app.test", 443),
        ("http://app.test:80", "http://app.test", 80),
        ("http://app.test:443", "http://app.test:443", 443),
        ("https://app.test:8443", "https://app.test:8443", 8443),
        ("https://[0:0::1]:8443/", "https://[::1]:8443", 8443),
        ("https://bücher.example", "https://xn--bcher-kva.example", 443),
        ("http://localhost:65535", "http://localhost:65535", 65535),
    ],
)
def test_origins(text: str, printed: str, port: int) -> None:
    origin = Origin.parse(text)
    assert str(origin) == printed
    assert f"{origin.scheme}://{origin.authority}" == printed
    assert origin.port == port


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("app.test", id="no scheme"),
        pytest.param("//app.test", id="OR-9: no scheme, two slashes"),
        pytest.param("ftp://app.test", id="another scheme"),
        pytest.param("javascript:alert(1)", id="OR-10"),
        pytest.param("https:app.test", id="OR-6"),
        pytest.param("https:///app.test", id="OR-7: three slashes"),
        pytest.param("https://app.test/x", id="a path"),
        pytest.param("https://app.test?x", id="a query"),
        pytest.param("https://app.test#x", id="a fragment"),
        pytest.param("https://u@app.test", id="OR-7: user info"),
        pytest.param("https://app.test:443@evil.test", id="OR-7: user info like a port"),
        pytest.param("https://app.test\\@evil.test", id="OR-8: backslash"),
        pytest.param("https://a b.test", id="a space"),
        pytest.param("https://app.test\n", id="a line end"),
        pytest.param(" https://app.test", id="white space in front"),
        pytest.param("https://app.test:", id="an empty port"),
        pytest.param("https://app.test:x", id="no port"),
        pytest.param("https://app.test:123456", id="too many digits"),
        pytest.param("https://app.test:４４３", id="digits of another script"),
        pytest.param("https://[::1", id="an open bracket"),
        pytest.param("https://", id="no host"),
        pytest.param("", id="empty"),
        pytest.param(443, id="no text"),
        pytest.param(None, id="nothing"),
    ],
)
def test_what_is_no_origin(text: object) -> None:
    with pytest.raises(ValueError, match="must be an origin without a path, such as"):
        Origin.parse(text)


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_ports_that_do_not_exist(port: str) -> None:
    with pytest.raises(ValueError, match="has a port outside 1 to 65535"):
        Origin.parse(f"https://app.test:{port}")


@pytest.mark.parametrize(
    ("text", "secure", "loopback"),
    [
        ("https://app.test", True, False),
        ("http://app.test", False, False),
        ("http://localhost:8080", False, True),
        ("http://a.localhost", False, True),
        ("http://127.0.0.1", False, True),
        ("http://127.8.9.1:81", False, True),
        ("http://[::1]:81", False, True),
        ("http://10.0.0.1", False, False),
        ("http://[2001:db8::1]", False, False),
        ("http://localhost.evil.test", False, False),
        ("http://notlocalhost", False, False),
        ("http://127.0.0.1.evil.test", False, False),
        ("http://127.1", False, False),  # inet_aton would take it for 127.0.0.1; nobody needs that spelling
    ],
)
def test_what_is_secure_and_what_is_this_machine(text: str, secure: bool, loopback: bool) -> None:
    assert (Origin.parse(text).secure, Origin.parse(text).loopback) == (secure, loopback)


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(lambda text: text[2:4] != "--")
HOST = st.one_of(
    st.lists(LABEL, min_size=1, max_size=4).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)


@settings(deadline=None)
@given(st.sampled_from(["http", "https"]), HOST, st.integers(1, 65535))
def test_an_origin_is_what_it_prints(scheme: str, host: str, port: int) -> None:
    origin = Origin.parse(f"{scheme.upper()}://{host.upper()}:{port}/")
    assert Origin.parse(str(origin)) == origin == Origin(scheme, canonical_host(host), port)


# ── as settings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_words_are_field_types() -> None:
    given_ = {"secret": "s", "wait": "1h30m", "size": "64KiB", "origin": "https://App.test:443"}
    settings = Everything.model_validate(given_)
    assert settings == Everything(
        secret=Secret("s"), wait=Duration(5400), size=ByteSize(65_536), origin=Origin("https", "app.test", 443)
    )
    assert settings.model_dump(mode="json") == {**given_, "secret": "***", "origin": "https://app.test"}
    assert json.loads(settings.model_dump_json(exclude={"secret"}))["wait"] == "1h30m"


@pytest.mark.parametrize(
    ("field", "value"), [("wait", "soon"), ("size", 5), ("origin", "app.test"), ("secret", ""), ("surprise", 1)]
)
def test_lt_25_settings_refuse_what_they_do_not_understand(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Everything.model_validate({field: value})
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Everything().wait = Duration(1)  # type: ignore[misc]


def test_words_say_what_they_look_like() -> None:
    properties = Everything.model_json_schema()["properties"]
    assert properties["size"]["type"] == "string"
    assert properties["wait"]["examples"] == ["15m"]
    assert properties["origin"]["anyOf"][0] == {"type": "string"}


def test_a_word_must_know_how_to_read_itself() -> None:
    with pytest.raises(NotImplementedError):
        _Word.parse("x")

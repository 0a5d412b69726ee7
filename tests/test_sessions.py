"""Tickets, lifetimes, seals: what opens what, and for how long."""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from oidc_proxy.oidc import PendingLogin, Tokens, begin_login
from oidc_proxy.sessions import (
    CookieSettings,
    Freshness,
    LoginSealer,
    Session,
    SessionSettings,
    Ticket,
    Unreadable,
    derive_key,
    freshness,
    login_suffix,
    quiet_until,
    seal,
    unseal,
)
from oidc_proxy.tokens import VerifiedClaims
from oidc_proxy.values import Duration

NOW = 1_700_000_000.0
NONCE = bytes(range(12))
TICKET = Ticket.mint(bytes(range(64)))
OTHER = Ticket.mint(bytes(range(64, 128)))


def tokens(**changed: Any) -> Tokens:
    held = {"access_token": "AT", "expires_at": NOW + 300, "refresh_token": "RT", "id_token": "IT"}
    return Tokens(**{**held, **changed})


def session(**changed: Any) -> Session:
    made = {
        "claims": VerifiedClaims({"iss": "https://idp.test", "sub": "248289761001", "n": [1, 2.5, None, {"é": True}]}),
        "tokens": tokens(),
        "origin": "https://app.test",
        "nonce": "TheNonce",
        "created_at": NOW,
        "seen_at": NOW,
        "ends_at": NOW + 86_400,
    }
    return Session(**{**made, **changed})


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["", "a b", "a;b", "a=b", "é", "a\n", "x" * 65])
def test_names_that_no_cookie_can_have(name: str) -> None:
    with pytest.raises(ValidationError):
        CookieSettings(name=name)


@pytest.mark.parametrize(
    ("given_", "seconds"),
    [({}, 2880), ({"idle_timeout": "10m"}, 60), ({"touch_interval": "5s"}, 5), ({"touch_interval": "0"}, 0)],
)
def test_ss_16_use_is_written_down_at_intervals(given_: dict[str, str], seconds: float) -> None:
    assert SessionSettings.model_validate(given_).touch_after == seconds


def test_f58_defaults() -> None:
    made = SessionSettings()
    assert (made.idle_timeout, made.absolute_timeout) == (Duration(28_800), Duration(86_400))
    assert (made.cookie.domain, made.cookie.same_site, made.cookie.persistent) == (None, "Lax", False)


# ── the ticket ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_ticket_is_what_its_cookie_says() -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}\.[A-Za-z0-9_-]{43}", TICKET.cookie_value)
    assert Ticket.read(TICKET.cookie_value) == TICKET
    assert (TICKET.handle, TICKET.key) == (bytes(range(32)), bytes(range(32, 64)))


@hypothesis_settings(deadline=None)
@given(st.binary(min_size=64, max_size=64))
def test_every_ticket_comes_back(random: bytes) -> None:
    ticket = Ticket.mint(random)
    assert Ticket.read(ticket.cookie_value) == ticket


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_se_22_a_ticket_takes_512_random_bits(size: int) -> None:
    with pytest.raises(ValueError, match="64 random bytes"):
        Ticket.mint(bytes(size))


GOOD = TICKET.cookie_value


@pytest.mark.parametrize(
    "cookie",
    [
        pytest.param(None, id="no cookie"),
        pytest.param("", id="SS-23: empty"),
        pytest.param("*", id="SS-1: a pattern"),
        pytest.param("..", id="SS-1: dots"),
        pytest.param("sess:*", id="SS-1: a pattern of keys"),
        pytest.param("oidc:txn:abc", id="SS-1: the name of another key"),
        pytest.param("a\r\nFLUSHALL", id="SS-1: a command"),
        pytest.param("%s%n", id="SS-1, AV-18: a format"),
        pytest.param("\0", id="SS-1: NUL"),
        pytest.param("x" * 1_000_000, id="SS-1: a megabyte"),
        pytest.param("é" * 43 + "." + "é" * 43, id="SS-1: not ASCII"),
        pytest.param("٣" * 43 + "." + "٣" * 43, id="SS-1: digits of another script"),
        pytest.param(GOOD[:-1], id="SS-23: truncated"),
        pytest.param(GOOD + "=", id="SS-23: padded"),
        pytest.param(GOOD + "\n", id="SS-23: a line end"),
        pytest.param(GOOD + " ", id="SS-23: white space"),
        pytest.param(f'"{GOOD}"', id="SS-23: in quotes"),
        pytest.param(GOOD + "." + GOOD[:43], id="SS-24: one part too many"),
        pytest.param(GOOD.replace(".", "-"), id="SS-23: without the dot"),
        pytest.param("+" + GOOD[1:], id="SS-23: another alphabet"),
        pytest.param(GOOD[:42] + "9" + GOOD[43:], id="JW-17: stray bits at the end"),
        pytest.param("chunks=99999999", id="SS-24, AV-13"),
    ],
)
def test_f148_what_is_no_ticket(cookie: str | None) -> None:
    assert Ticket.read(cookie) is None


def test_ss_1_se_26_the_store_knows_a_session_by_a_hash() -> None:
    assert TICKET.record_id == hashlib.sha256(b"oidc_proxy record\0" + TICKET.handle).hexdigest()
    assert TICKET.record_id != OTHER.record_id
    assert Ticket(TICKET.handle, OTHER.key).record_id == TICKET.record_id


def test_ss_19_a_ticket_is_not_shown() -> None:
    assert repr(TICKET) == str(TICKET) == f"Ticket({TICKET.record_id[:8]}…)"
    assert not {*GOOD.split("."), TICKET.handle.hex(), TICKET.key.hex()} & set(re.findall(r"[\w-]+", f"{[TICKET]}"))


# ── the session ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ss_19_a_session_is_not_shown() -> None:
    shown = repr(session())
    assert shown == f"Session(created_at={NOW}, ends_at={NOW + 86_400})"


def test_ss_16_use_moves_only_the_idle_end() -> None:
    assert session().touched(NOW + 60) == session(seen_at=NOW + 60)


def test_ss_29_a_refresh_brings_new_tokens_and_claims() -> None:
    claims = VerifiedClaims({"iss": "https://idp.test", "sub": "248289761001", "groups": []})
    fresh = tokens(
        access_token="AT2", expires_at=NOW + 900, refresh_token="RT2", refresh_expires_at=NOW + 1800, id_token="IT2"
    )
    renewed = session().refreshed(claims, fresh, NOW + 300)
    assert renewed == session(claims=claims, tokens=fresh, seen_at=NOW + 300)


def test_ho_35_what_a_refresh_does_not_bring_is_kept() -> None:
    held = tokens(refresh_expires_at=NOW + 1800)
    came = Tokens(access_token="AT2", expires_at=None)
    renewed = session(tokens=held).refreshed(session().claims, came, NOW).tokens
    assert renewed == Tokens(
        access_token="AT2", expires_at=None, refresh_token="RT", refresh_expires_at=NOW + 1800, id_token="IT"
    )


def test_ho_35_the_end_of_an_old_refresh_token_does_not_outlive_it() -> None:
    held = tokens(refresh_expires_at=NOW + 1800)
    renewed = session(tokens=held).refreshed(session().claims, tokens(refresh_token="RT2"), NOW).tokens
    assert (renewed.refresh_token, renewed.refresh_expires_at) == ("RT2", None)


@pytest.mark.parametrize(
    ("changed", "now", "seconds"),
    [
        ({}, NOW, 28_800),
        ({"seen_at": NOW + 60}, NOW + 60, 28_800),
        ({"seen_at": NOW + 80_000}, NOW + 80_000, 6400),
        ({"ends_at": NOW + 10}, NOW, 10),
        ({}, NOW + 28_800, 0.001),
        ({}, NOW + 1e9, 0.001),
    ],
)
def test_ss_7_the_store_always_gets_a_life_time(changed: dict[str, Any], now: float, seconds: float) -> None:
    assert session(**changed).time_to_live(SessionSettings(), now) == seconds


SHORT = SessionSettings(idle_timeout=Duration(600), absolute_timeout=Duration(3600))


@pytest.mark.parametrize(
    ("changed", "token", "after", "expected"),
    [
        pytest.param({}, {}, 0, Freshness.LIVE, id="new"),
        pytest.param({}, {}, 269.999, Freshness.LIVE, id="before the leeway"),
        pytest.param({}, {}, 270, Freshness.STALE, id="within the leeway"),
        pytest.param({}, {}, 299.999, Freshness.STALE, id="the last moment of the token"),
        pytest.param({}, {}, 300, Freshness.SPENT, id="the token has expired"),
        pytest.param({}, {}, 599.999, Freshness.SPENT, id="the last moment before idle"),
        pytest.param({}, {}, 600, Freshness.IDLE, id="SE-24: idle"),
        pytest.param({"seen_at": NOW + 3500}, {}, 3599.999, Freshness.SPENT, id="the last moment of all"),
        pytest.param({"seen_at": NOW + 3500}, {}, 3600, Freshness.OVER, id="SE-24, SS-16: over, though in use"),
        pytest.param({}, {}, 1e9, Freshness.OVER, id="long over"),
        pytest.param({}, {"expires_at": None}, 599, Freshness.LIVE, id="a token without an end"),
        pytest.param({}, {"expires_at": None}, 600, Freshness.IDLE, id="a token without an end, idle"),
        pytest.param({}, {"refresh_token": None}, 270, Freshness.LIVE, id="not renewable, still good"),
        pytest.param({}, {"refresh_token": None}, 300, Freshness.UNRENEWABLE, id="not renewable, expired"),
        pytest.param({}, {"expires_at": NOW - 5}, 0, Freshness.SPENT, id="SS-17: expired on arrival"),
        pytest.param({}, {}, -120, Freshness.LIVE, id="SS-17: the clock was put back"),
    ],
)
def test_freshness(changed: dict[str, Any], token: dict[str, Any], after: float, expected: Freshness) -> None:
    held = session(ends_at=NOW + 3600, tokens=tokens(**token), **changed)
    assert freshness(held, SHORT, NOW + after) is expected


@hypothesis_settings(deadline=None)
@given(st.floats(0, 4000), st.one_of(st.none(), st.floats(0, 4000)), st.floats(0, 4000))
def test_until_it_is_no_longer_quiet_a_session_lives_and_needs_nothing(
    seen: float, expiry: float | None, after: float
) -> None:
    expires_at = None if expiry is None else NOW + expiry
    held = session(ends_at=NOW + 3600, seen_at=NOW + seen, tokens=tokens(expires_at=expires_at))
    quiet = NOW + after < quiet_until(held, SHORT)
    if quiet:
        assert freshness(held, SHORT, NOW + after) is Freshness.LIVE
        assert NOW + after - held.seen_at < SHORT.touch_after
    elif NOW + after - held.seen_at < SHORT.touch_after and held.renewable:
        assert freshness(held, SHORT, NOW + after) is not Freshness.LIVE


@pytest.mark.parametrize("fresh", Freshness)
def test_the_reasons_for_which_a_session_ends(fresh: Freshness) -> None:
    assert fresh.dead == (fresh.value in {"idle_timeout", "absolute_timeout", "token_expired"})


@hypothesis_settings(deadline=None)
@given(st.floats(0, 4000), st.floats(0, 4000))
def test_ss_16_a_session_that_is_over_stays_over(first: float, later: float) -> None:
    held = session(ends_at=NOW + 3600)
    if freshness(held, SHORT, NOW + first).dead:
        assert freshness(held, SHORT, NOW + first + later).dead


# ── sealing ───────────────────────────────────────────────────────────────────────────────────────────────────────────

RECORD = seal(session(), TICKET, NONCE)


def test_a_sealed_session_comes_back() -> None:
    assert unseal(RECORD, TICKET) == session()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@hypothesis_settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=8), JSON, max_size=4),
    st.none() | st.floats(0, 1e11),
    st.none() | st.text(),
    st.binary(min_size=64, max_size=64),
    st.binary(min_size=12, max_size=12),
)
def test_every_session_comes_back(
    claims: dict[str, Any], expires_at: float | None, refresh_token: str | None, random: bytes, nonce: bytes
) -> None:
    ticket = Ticket.mint(random)
    held = session(claims=VerifiedClaims(claims), tokens=tokens(expires_at=expires_at, refresh_token=refresh_token))
    assert unseal(seal(held, ticket, nonce), ticket) == held


@hypothesis_settings(deadline=None)
@given(st.integers(0, len(RECORD) - 1), st.integers(1, 255))
def test_ss_2_a_record_with_any_byte_changed_does_not_open(position: int, change: int) -> None:
    damaged = bytearray(RECORD)
    damaged[position] ^= change
    with pytest.raises(Unreadable):
        unseal(bytes(damaged), TICKET)


@hypothesis_settings(deadline=None)
@given(st.integers(0, len(RECORD) - 1))
def test_ss_2_a_record_that_is_cut_off_does_not_open(size: int) -> None:
    with pytest.raises(Unreadable):
        unseal(RECORD[:size], TICKET)


@hypothesis_settings(deadline=None)
@given(st.binary(max_size=200))
def test_ss_2_what_is_no_record_does_not_open(data: bytes) -> None:
    for record in (data, b"\x01" + data):
        with pytest.raises(Unreadable):
            unseal(record, TICKET)


@pytest.mark.parametrize(
    "ticket",
    [
        pytest.param(OTHER, id="another ticket"),
        pytest.param(Ticket(TICKET.handle, OTHER.key), id="F142: the handle without its key"),
        pytest.param(Ticket(OTHER.handle, TICKET.key), id="SS-3: the key at another record"),
    ],
)
def test_ss_3_a_record_opens_with_its_own_ticket_only(ticket: Ticket) -> None:
    with pytest.raises(Unreadable, match="not sealed with this key for this record"):
        unseal(RECORD, ticket)


def test_ss_26_two_seals_of_one_session_differ() -> None:
    other = seal(session(), TICKET, NONCE[::-1])
    assert RECORD[13:] != other[13:]
    assert unseal(other, TICKET) == unseal(RECORD, TICKET)


def test_f142_a_record_shows_nothing_of_the_session() -> None:
    held = session(tokens=tokens(access_token="TheAccessToken", refresh_token="TheRefreshToken"))
    record = seal(held, TICKET, NONCE)
    words = [
        b"248289761001",
        b"TheAccessToken",
        b"TheRefreshToken",
        b"TheNonce",
        b"app.test",
        TICKET.handle,
        TICKET.key,
    ]
    assert not [word for word in words if word in record]


@pytest.mark.parametrize("size", [0, 8, 11, 13])
def test_av_19_a_nonce_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="12 random bytes"):
        seal(session(), TICKET, bytes(size))


@pytest.mark.parametrize(
    ("version", "sentence"),
    [(b"\x02", "record of version 02; this release reads 01"), (b"{", "version 7b"), (b"", "version none")],
)
def test_f149_a_record_of_another_version_is_told_apart(version: bytes, sentence: str) -> None:
    with pytest.raises(Unreadable, match=sentence):
        unseal(version + RECORD[1:] if version else b"", TICKET)


class _Later(Session):
    """The session of a release to come: one thing more."""

    added: str = ""


def test_f149_a_record_with_something_more_is_readable_during_an_upgrade() -> None:
    later = _Later(**{name: getattr(session(), name) for name in Session.__struct_fields__}, added="x")
    assert unseal(seal(later, TICKET, NONCE), TICKET) == session()


class _NoSession(msgspec.Struct):
    claims: int


def test_f149_a_record_of_something_else_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="does not hold a session"):
        unseal(seal(_NoSession(1), TICKET, NONCE), TICKET)  # type: ignore[arg-type]


def test_ss_19_unreadable_does_not_say_what_it_read() -> None:
    with pytest.raises(Unreadable) as caught:
        unseal(RECORD, OTHER)
    assert caught.value.__suppress_context__
    assert RECORD.hex() not in str(caught.value)


# ── sign-ins under way ────────────────────────────────────────────────────────────────────────────────────────────────

ISSUER = "https://idp.test/realms/main"
CALLBACK = "https://app.test/oauth2/callback"
KEY, NEW_KEY = b"k" * 32, b"n" * 32
SEALER = LoginSealer([KEY], ISSUER)


def pending(**changed: Any) -> PendingLogin:
    login = begin_login(
        random=bytes(range(96)), now=NOW, issuer=ISSUER, redirect_uri=CALLBACK, return_to="https://app.test/deep?x=1"
    )
    return msgspec.structs.replace(login, **changed)


LOGIN = pending()
COOKIE = SEALER.seal(LOGIN, NONCE)


def test_a_sign_in_comes_back() -> None:
    assert SEALER.open(COOKIE, LOGIN.state, CALLBACK) == LOGIN


@pytest.mark.parametrize(
    "return_to",
    [
        "https://app.test/",
        "https://app.test//evil.test/x",
        "https://app.test/\\evil.test",
        "https://app.test/wiki/a%2Fb?x=%2F#y",
        "https://other.test/x",
        "https://app.test:8443/x",
        "https://app.test.other.test/x",
        "https://app.tester/x",
        "https://app.test",
    ],
)
def test_or_21_the_way_back_is_the_one_that_was_sealed(return_to: str) -> None:
    login = pending(return_to=return_to)
    assert SEALER.open(SEALER.seal(login, NONCE), login.state, CALLBACK) == login


@pytest.mark.parametrize("callback", ["http://localhost:4180/oauth2/callback", "https://[::1]:1/cb", "http://a/cb"])
@pytest.mark.parametrize("issuer", [ISSUER, ISSUER + "/", "https://other.test"])
def test_every_deployment_gets_its_sign_in_back(callback: str, issuer: str) -> None:
    login = pending(redirect_uri=callback, issuer=issuer, return_to=callback.replace("callback", "x"))
    assert SEALER.open(SEALER.seal(login, NONCE), login.state, callback) == login


@hypothesis_settings(deadline=None)
@given(
    st.binary(min_size=96, max_size=96),
    st.integers(0, 10**11),
    st.text(max_size=40),
    st.binary(min_size=12, max_size=12),
)
def test_every_sign_in_comes_back(random: bytes, now: int, path: str, nonce: bytes) -> None:
    login = begin_login(
        random=random, now=now, issuer=ISSUER, redirect_uri=CALLBACK, return_to=f"https://app.test/{path}"
    )
    assert SEALER.open(SEALER.seal(login, nonce), login.state, CALLBACK) == login


@pytest.mark.parametrize(
    ("state", "callback"),
    [
        pytest.param("another", CALLBACK, id="LT-6: another state"),
        pytest.param("", CALLBACK, id="no state"),
        pytest.param(LOGIN.state, "https://other.test/oauth2/callback", id="SS-25, AV-8: moved to another host"),
        pytest.param(LOGIN.state, "http://app.test/oauth2/callback", id="SS-25: another scheme"),
    ],
)
def test_a_sign_in_is_bound_to_its_state_and_place(state: str, callback: str) -> None:
    assert SEALER.open(COOKIE, state, callback) is None


BEGAN, SEALED = COOKIE.split(".")


@pytest.mark.parametrize(
    ("state", "began", "callback"),
    [
        (LOGIN.state + BEGAN[:1], BEGAN[1:], CALLBACK),
        (LOGIN.state[:-1], LOGIN.state[-1] + BEGAN, CALLBACK),
        (LOGIN.state, BEGAN[:-1], BEGAN[-1] + CALLBACK),
        (f"{LOGIN.state}\0{BEGAN}", "", CALLBACK),
        ("", f"{LOGIN.state}\0{BEGAN}", CALLBACK),
    ],
)
def test_ss_25_what_a_sign_in_is_bound_to_cannot_be_shifted(state: str, began: str, callback: str) -> None:
    assert SEALER.open(f"{began}.{SEALED}", state, callback) is None


@pytest.mark.parametrize(
    "cookie",
    [
        pytest.param("", id="SS-23: empty"),
        pytest.param(BEGAN, id="SS-23: no seal"),
        pytest.param("." + SEALED, id="no beginning"),
        pytest.param(f"{int(BEGAN) + 1}.{SEALED}", id="a later beginning"),
        pytest.param(f"0{BEGAN}.{SEALED}", id="the same beginning, spelt otherwise"),
        pytest.param(f"{BEGAN}.{SEALED[:-4]}", id="SS-23: cut off"),
        pytest.param(f"{BEGAN}.{SEALED}A", id="SS-23: a length that base64 cannot have"),
        pytest.param(f"{BEGAN}.{SEALED[:20]}", id="SS-23: too short for a seal"),
        pytest.param(f"{BEGAN}.é", id="SS-23: not ASCII"),
        pytest.param("é.é", id="SS-23: not ASCII at all"),
        pytest.param("x" * 100_000, id="SS-1: huge"),
        pytest.param("\0.\0", id="SS-1: NUL"),
    ],
)
def test_f148_what_is_no_sign_in(cookie: str) -> None:
    assert SEALER.open(cookie, LOGIN.state, CALLBACK) is None


@hypothesis_settings(deadline=None)
@given(st.integers(0, len(SEALED) - 2), st.sampled_from("ABCxyz019-_"))
def test_a_changed_seal_does_not_open(position: int, letter: str) -> None:
    changed = SEALED[:position] + letter + SEALED[position + 1 :]
    opened = SEALER.open(f"{BEGAN}.{changed}", LOGIN.state, CALLBACK)
    assert (opened is None) == (changed != SEALED)


@pytest.mark.parametrize(
    ("keys", "opens"),
    [
        pytest.param([KEY], True, id="the same key"),
        pytest.param([NEW_KEY, KEY], True, id="SS-21, F143: the old one opens"),
        pytest.param([NEW_KEY], False, id="SS-21, F143: the old one is gone"),
    ],
)
def test_ss_21_keys_are_replaced_without_losing_sign_ins(keys: list[bytes], opens: bool) -> None:
    sealer = LoginSealer(keys, ISSUER)
    assert (sealer.open(COOKIE, LOGIN.state, CALLBACK) is not None) == opens
    # What is sealed from now on takes the first key.
    assert LoginSealer(keys[:1], ISSUER).open(sealer.seal(LOGIN, NONCE), LOGIN.state, CALLBACK) == LOGIN


def test_a_seal_that_holds_something_else_is_no_sign_in() -> None:
    from oidc_proxy import sessions

    sealed = sessions.seal_bytes(KEY, NONCE, msgspec.msgpack.encode([1]), sessions._login(LOGIN.state, BEGAN, CALLBACK))
    cookie = f"{BEGAN}.{urlsafe_b64encode(sealed).decode().rstrip('=')}"
    assert SEALER.open(cookie, LOGIN.state, CALLBACK) is None


def test_ss_26_two_seals_of_one_sign_in_differ() -> None:
    assert SEALER.seal(LOGIN, NONCE[::-1]) != COOKIE


def test_se_19_twenty_sign_ins_fit_into_a_cookie_header() -> None:
    assert len(SEALER.seal(pending(return_to="https://app.test/some/page?x=1"), NONCE)) < 250


def test_ss_19_the_cookie_gives_nothing_away() -> None:
    for secret in (LOGIN.state, LOGIN.nonce, LOGIN.verifier, "deep"):
        assert secret not in COOKIE


@pytest.mark.parametrize(
    ("cookie", "began"),
    [
        (COOKIE, int(NOW)),
        ("5.x", 5),
        ("5", 5),
        ("", 0),
        (".x", 0),
        ("-5.x", 0),
        ("5_0.x", 0),
        ("٣.x", 0),
        (" 5.x", 0),
        ("9" * 12 + ".x", 999_999_999_999),
        ("9" * 13 + ".x", 0),
        ("9" * 5000 + ".x", 0),
    ],
)
def test_ss_24_when_a_sign_in_says_it_began(cookie: str, began: int) -> None:
    assert LoginSealer.began(cookie) == began


def test_lt_7_lt_15_the_cookie_is_called_after_a_hash_of_the_state() -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{12}", login_suffix(LOGIN.state))
    assert login_suffix(LOGIN.state) == login_suffix(LOGIN.state) != login_suffix(LOGIN.state + "x")
    assert login_suffix(LOGIN.state)[:6] not in LOGIN.state


@hypothesis_settings(max_examples=5, deadline=None)
@given(st.text(max_size=10))
def test_every_replica_derives_the_same_key(secret: str) -> None:
    key = derive_key(secret, "login")
    assert key == derive_key(secret, "login")
    assert len(key) == 32
    assert key not in {derive_key(secret, "other"), derive_key(secret + "x", "login")}

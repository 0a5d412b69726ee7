"""Records through the ages (F149), and what is known of a session without its ticket: cards and names."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oidc_proxy import sessions
from oidc_proxy.oidc import Tokens
from oidc_proxy.sessions import (
    RECORD_VERSION,
    Card,
    Freshness,
    Registry,
    Session,
    SessionSettings,
    Ticket,
    Unreadable,
    freshness,
    seal,
    unseal,
)
from oidc_proxy.tokens import VerifiedClaims
from tests.gateway import running_world

CORPUS = Path(__file__).parent / "corpus" / "records"
NONCE = bytes(12)
NOW = 1_700_000_000.0


def frozen(version: int) -> tuple[bytes, Ticket]:
    """A record as the release that introduced this version wrote it, and the ticket that opens it."""
    ticket = Ticket.read((CORPUS / f"v{version}.ticket").read_text().strip())
    assert ticket is not None
    return (CORPUS / f"v{version}.bin").read_bytes(), ticket


OLDEST = Session(
    claims=VerifiedClaims(
        {
            "iss": "https://idp.example.com",
            "sub": "248289761001",
            "sid": "s-1",
            "name": "Ännchen",
            "groups": ["/staff"],
            "auth_time": 1699999990,
            "realm_access": {"roles": ["admin"]},
        }
    ),
    tokens=Tokens(
        access_token="the-access-token",
        expires_at=NOW + 300,
        refresh_token="the-refresh-token",
        refresh_expires_at=NOW + 1800,
        id_token="the.id.token",
        scope="openid email",
    ),
    origin="https://app.example.com",
    nonce="the-nonce",
    created_at=NOW,
    seen_at=NOW + 60.5,
    ends_at=NOW + 86400,
)


# ── versions ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_f149_the_record_of_the_first_release_is_read() -> None:
    assert unseal(*frozen(1)) == OLDEST


def test_f149_every_version_that_is_read_has_its_frozen_record() -> None:
    assert {f"v{version[0]}.bin" for version in sessions._READERS} <= {path.name for path in CORPUS.iterdir()}
    assert RECORD_VERSION in sessions._READERS


def test_f149_the_frozen_record_is_what_is_written_today() -> None:
    """Whoever changes what a record says without a new version number reads of it here."""
    record, ticket = frozen(RECORD_VERSION[0])
    assert seal(OLDEST, ticket, record[1:13]) == record


class Next(Session, frozen=True, omit_defaults=True):
    """The session of a release to come: a field more, with a default."""

    amr: tuple[str, ...] = ()


def test_f149_a_field_with_a_default_needs_no_new_version(monkeypatch: pytest.MonkeyPatch) -> None:
    record, ticket = frozen(1)
    fields = {name: getattr(OLDEST, name) for name in Session.__struct_fields__}
    newer = seal(Next(**fields, amr=("otp",)), ticket, NONCE)
    assert unseal(newer, ticket) == OLDEST, "the older gateway passes over the field"
    monkeypatch.setitem(sessions._READERS, b"\x01", msgspec.msgpack.Decoder(Next).decode)  # type: ignore[arg-type]
    assert unseal(record, ticket) == Next(**fields), "the newer gateway fills it in"


def test_f149_the_previous_version_is_read_by_its_own_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that writes version 2 (here: times in milliseconds) and still reads 1."""

    def in_milliseconds(plain: bytes) -> Session:
        values = msgspec.msgpack.decode(plain)
        for name in ("created_at", "seen_at", "ends_at"):
            values[name] /= 1000
        return msgspec.convert(values, Session)

    old, ticket = frozen(1)
    monkeypatch.setattr(sessions, "RECORD_VERSION", b"\x02")
    monkeypatch.setitem(sessions._READERS, b"\x02", in_milliseconds)  # type: ignore[arg-type]
    late = {name: getattr(OLDEST, name) * 1000 for name in ("created_at", "seen_at", "ends_at")}
    new = seal(msgspec.structs.replace(OLDEST, **late), ticket, NONCE)
    assert new[:1] == b"\x02"
    assert unseal(new, ticket) == unseal(old, ticket) == OLDEST


def test_f149_a_version_is_part_of_the_seal() -> None:
    record, ticket = frozen(1)
    for version in range(256):
        if bytes([version]) != RECORD_VERSION:
            with pytest.raises(Unreadable, match="this release reads 01"):
                unseal(bytes([version]) + record[1:], ticket)


def test_f149_the_version_cannot_be_exchanged_for_another_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    record, ticket = frozen(1)
    monkeypatch.setitem(sessions._READERS, b"\x02", sessions._READERS[b"\x01"])  # type: ignore[index]
    with pytest.raises(Unreadable, match="not sealed"):
        unseal(b"\x02" + record[1:], ticket)


def sealed(plain: bytes, ticket: Ticket) -> bytes:
    """Anything at all, sealed as a record."""
    bound_to = b"session" + RECORD_VERSION + ticket.record_id.encode()
    return RECORD_VERSION + sessions.seal_bytes(ticket.key, NONCE, plain, bound_to)


def changed(**members: Any) -> bytes:
    """The plain text of a record with some members set, or without them where they are None."""
    values = {**msgspec.msgpack.decode(msgspec.msgpack.encode(OLDEST)), **members}
    return msgspec.msgpack.encode({name: value for name, value in values.items() if value is not None})


UNREADABLE = {
    "nothing": b"",
    "not MessagePack": b"\xc1",
    "an array": msgspec.msgpack.encode([1, 2]),
    "cut off": changed()[:-1],
    "something after it": changed() + b"\x00",
    "a key that is no UTF-8": b"\x81\xa1\xff\x01",
    "nested without end": b"\x81\xa1x" + b"\x91" * 100_000,
    "no claims": changed(claims=None),
    "claims of another kind": changed(claims=[1]),
    "no tokens": changed(tokens=None),
    "no access token": changed(tokens={"expires_at": 1.0}),
    "times as text": changed(ends_at="tomorrow"),
    "no end": changed(ends_at=None),
}


@pytest.mark.parametrize("plain", UNREADABLE.values(), ids=UNREADABLE)
def test_f149_what_is_no_session_is_unreadable_and_nothing_worse(plain: bytes) -> None:
    _, ticket = frozen(1)
    with pytest.raises(Unreadable):
        unseal(sealed(plain, ticket), ticket)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda record: b"\x02" + record[1:], id="of a later version"),
        pytest.param(lambda record: record[:-1], id="cut off"),
        pytest.param(lambda record: record[:20] + bytes([record[20] ^ 1]) + record[21:], id="a bit turned"),
        pytest.param(lambda record: b"", id="empty"),
        pytest.param(lambda record: b"\x01", id="a version and nothing more"),
        *(pytest.param(plain, id=name) for name, plain in UNREADABLE.items()),
        pytest.param(changed(claims={"values": {"iss": "https://idp.example.com"}}), id="nobody's"),
        pytest.param(changed(claims={"values": {"sub": "1"}}), id="of no issuer"),
    ],
)
async def test_f149_what_cannot_be_read_leads_to_sign_in(damage: Any) -> None:
    async with running_world() as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        ticket = Ticket.read(ann.cookies.named("oidc_proxy")[0].value)
        assert ticket is not None
        store, key = world.app._store, f"session:{ticket.record_id}"
        record = await store.get(key)
        assert record is not None
        await store.put(key, sealed(damage, ticket) if isinstance(damage, bytes) else damage(record), 3600)
        assert (await ann.fetch(f"{world.url}/echo")).status == 401
        again = await ann.navigate(f"{world.url}/echo")
        assert again.status == 200, "the provider still knows her"
        assert again.url == f"{world.url}/echo"
        assert world.lines(event="session.unreadable")
        assert not world.lines(status=500)


async def test_f149_a_record_of_the_first_release_goes_on() -> None:
    """A gateway is replaced by a newer one while somebody is signed in."""
    async with running_world() as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        ticket = Ticket.read(ann.cookies.named("oidc_proxy")[0].value)
        assert ticket is not None
        old = msgspec.structs.replace(
            OLDEST,
            origin=world.url,
            created_at=world.clock(),
            seen_at=world.clock(),
            ends_at=world.clock() + 3600,
            tokens=msgspec.structs.replace(OLDEST.tokens, expires_at=world.clock() + 300),
        )
        await world.app._store.put(f"session:{ticket.record_id}", seal(old, ticket, NONCE), 3600)
        page = await ann.fetch(f"{world.url}/echo")
        assert page.status == 200
        assert dict(page.json()["headers"])["X-Forwarded-User"] == "248289761001"


async def test_f65_a_browser_whose_name_is_no_text_signs_in_all_the_same() -> None:
    async with running_world() as world, world.browser() as ann:
        form = await ann.navigate(f"{world.url}/echo")
        sent = ann.request

        async def request(method: str, url: str, **options: Any) -> Any:
            if "/oauth2/callback" not in url:
                return await sent(method, url, **options)
            return await _raw(url, ann.cookies.header(url))

        ann.request = request  # type: ignore[method-assign]
        with pytest.raises(_Answered) as answered:
            await ann.fill_sign_in(form, "ann", "ann")
        assert answered.value.args[0].startswith(b"HTTP/1.1 303 ")


class _Answered(Exception):
    pass


async def _raw(url: str, cookies: str | None) -> None:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = (
        f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nCookie: {cookies}\r\nConnection: close\r\n"
    )
    writer.write(head.encode() + b"User-Agent: \xff\xfe\r\n\r\n")
    answer = await reader.read()
    writer.close()
    raise _Answered(answer)


# ── the session's own words ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("claims", "sid"), [({"sid": "s-1"}, "s-1"), ({"sid": ""}, None), ({"sid": 7}, None), ({}, None)]
)
def test_f102_the_providers_session_id_is_text_or_nothing(claims: dict[str, Any], sid: str | None) -> None:
    changed_claims = VerifiedClaims({"iss": "i", "sub": "s", **claims})
    assert msgspec.structs.replace(OLDEST, claims=changed_claims).sid == sid


class Known(msgspec.Struct, frozen=True):
    """What a worker keeps of a session: no token, and enough to decide."""

    seen_at: float
    ends_at: float
    expires_at: float | None
    renewable: bool


@pytest.mark.parametrize("after", [0, 269, 270, 299, 300, 301, 8 * 3600 + 60.5, 86400])
@pytest.mark.parametrize("renewable", [True, False])
@pytest.mark.parametrize("expires", [True, False])
def test_f138_what_is_in_memory_is_judged_as_the_session_would_be(after: float, renewable: bool, expires: bool) -> None:
    settings = SessionSettings()
    tokens = msgspec.structs.replace(
        OLDEST.tokens,
        refresh_token="RT" if renewable else None,
        expires_at=OLDEST.tokens.expires_at if expires else None,
    )
    session = msgspec.structs.replace(OLDEST, tokens=tokens)
    known = Known(session.seen_at, session.ends_at, session.expires_at, session.renewable)
    assert known.renewable is renewable
    assert freshness(known, settings, NOW + after) is freshness(session, settings, NOW + after)


@pytest.mark.parametrize(
    ("after", "renewable", "expected"),
    [
        (269, True, Freshness.LIVE),
        (270, True, Freshness.STALE),
        (300, True, Freshness.SPENT),
        (270, False, Freshness.LIVE),
        (300, False, Freshness.UNRENEWABLE),
        (8 * 3600 + 61, True, Freshness.IDLE),
        (86400, True, Freshness.OVER),
    ],
)
def test_f156_f58_what_the_times_mean(after: float, renewable: bool, expected: Freshness) -> None:
    known = Known(OLDEST.seen_at, OLDEST.ends_at, OLDEST.expires_at, renewable)
    assert freshness(known, SessionSettings(), NOW + after) is expected


# ── cards and names ───────────────────────────────────────────────────────────────────────────────────────────────────

CARD = Card(
    record_id="a" * 64,
    issuer="https://idp.example.com",
    subject="248289761001",
    sid="s-1",
    user="ann",
    origin="https://app.example.com",
    created_at=NOW,
    ends_at=NOW + 86400,
    address="192.0.2.1",
    user_agent="Chrome",
)
FIRST, SECOND = Registry([bytes(32)]), Registry([bytes([1]) * 32])


def test_f66_a_card_comes_back_for_its_own_record_only() -> None:
    kept = FIRST.seal(CARD, NONCE)
    assert FIRST.open(kept, CARD.record_id) == CARD
    assert FIRST.open(kept, "b" * 64) is None
    assert SECOND.open(kept, CARD.record_id) is None
    assert FIRST.open(kept[:-1], CARD.record_id) is None
    assert FIRST.open(b"", CARD.record_id) is None


def test_f66_a_card_gives_nothing_away_to_whoever_reads_the_store() -> None:
    kept = FIRST.seal(CARD, NONCE)
    for word in (CARD.subject, CARD.user, CARD.address, CARD.record_id, CARD.issuer):
        assert word.encode() not in kept


def test_f66_the_key_before_still_opens_cards() -> None:
    kept = FIRST.seal(CARD, NONCE)
    assert Registry([bytes([1]) * 32, bytes(32)]).open(kept, CARD.record_id) == CARD


@pytest.mark.parametrize("content", [[1], {"record_id": "a" * 64}, {"record_id": 1}, "text"])
def test_f66_what_is_no_card_is_none(content: object) -> None:
    kept = sessions.seal_bytes(bytes(32), NONCE, msgspec.msgpack.encode(content), f"card\0{CARD.record_id}".encode())
    assert FIRST.open(kept, CARD.record_id) is None


def test_f66_a_card_without_what_later_releases_may_add_is_read() -> None:
    bare = msgspec.structs.replace(CARD, address="", user_agent="", sid=None)
    assert FIRST.open(FIRST.seal(bare, NONCE), bare.record_id) == bare


def test_f66_names_are_alike_at_every_replica_and_say_nothing() -> None:
    name = FIRST.of_subject("https://idp.example.com", "248289761001")
    assert name == Registry([bytes(32)]).of_subject("https://idp.example.com", "248289761001")
    assert name != SECOND.of_subject("https://idp.example.com", "248289761001")
    assert "248289761001" not in name
    assert FIRST.ended(name) == f"ended:{name}"


def test_f102_names_of_different_things_differ() -> None:
    names = [
        FIRST.of_subject("i", "x"),
        FIRST.of_subject("ix", ""),
        FIRST.of_subject("", "ix"),
        FIRST.of_subject("i", "y"),
        FIRST.of_sid("i", "x"),
        FIRST.used_logout_token("i", "x"),
        FIRST.of_sid("i", "\ud800"),
    ]
    assert len(set(names)) == len(names)
    assert len({name.partition(":")[2] for name in names}) == len(names)

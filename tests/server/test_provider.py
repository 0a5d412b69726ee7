"""What is fetched from the provider: once for all who ask, bounded, from nowhere else, and over verified TLS."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from oidc_proxy import __version__, oidc
from oidc_proxy.demo.faults import Faults, dripping, hanging, having, redirecting, saying
from oidc_proxy.errors import ProviderFault
from oidc_proxy.identity import IdentitySettings
from oidc_proxy.server.provider import RETRY_AFTER, Kept, ProviderClient
from tests.wire import Peer, recorder
from tests.world import Clock, Provider, running_provider

# ── Kept ──


class Source:
    """Something to fetch, which can be slow or broken."""

    def __init__(self) -> None:
        self.fetched = 0
        self.lifetime = 60.0
        self.fault: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self) -> tuple[str, float]:
        self.fetched += 1
        number = self.fetched
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return f"value {number}", self.lifetime


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def source() -> Source:
    return Source()


@pytest.fixture
async def kept(source: Source, clock: Clock) -> Kept[str]:
    return Kept(source.fetch, clock)


DOWN = ProviderFault("provider_unavailable", "down")


async def test_nothing_is_fetched_before_it_is_needed(source: Source, kept: Kept[str]) -> None:
    assert kept.known is None
    assert kept.age is None
    assert source.fetched == 0


async def test_a_value_is_kept_for_its_lifetime(source: Source, kept: Kept[str], clock: Clock) -> None:
    assert await kept.get() == "value 1"
    clock.advance(59)
    assert (await kept.get(), kept.age, kept.known) == ("value 1", 59, "value 1")
    clock.advance(1)
    assert (await kept.get(), kept.age) == ("value 2", 0)
    assert source.fetched == 2


async def test_all_who_ask_at_once_share_one_fetch(source: Source, kept: Kept[str]) -> None:
    source.gate.clear()
    waiting = [asyncio.create_task(kept.get()) for _ in range(50)]
    await asyncio.sleep(0)
    source.gate.set()
    assert set(await asyncio.gather(*waiting)) == {"value 1"}
    assert source.fetched == 1


async def test_the_one_who_asked_first_may_go_away(source: Source, kept: Kept[str]) -> None:
    source.gate.clear()
    first, second = asyncio.create_task(kept.get()), asyncio.create_task(kept.get())
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    source.gate.set()
    assert await second == "value 1"
    assert source.fetched == 1


async def test_everyone_may_go_away_and_the_value_is_there_all_the_same(source: Source, kept: Kept[str]) -> None:
    source.gate.clear()
    first = asyncio.create_task(kept.get())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    source.gate.set()
    await asyncio.sleep(0.01)
    assert kept.known == "value 1"
    assert await kept.get() == "value 1"
    assert source.fetched == 1


async def test_a_failure_nobody_waits_for_is_no_error_in_the_log(
    source: Source, kept: Kept[str], caplog: pytest.LogCaptureFixture
) -> None:
    import gc

    source.gate.clear()
    source.fault = DOWN
    first = asyncio.create_task(kept.get())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    source.gate.set()
    await asyncio.sleep(0.01)
    gc.collect()
    assert not caplog.records


async def test_f16_what_was_fetched_once_serves_when_it_cannot_be_fetched_anew(
    source: Source, kept: Kept[str], clock: Clock
) -> None:
    await kept.get()
    source.fault = DOWN
    clock.advance(61)
    for _ in range(20):
        assert await kept.get() == "value 1"
    assert source.fetched == 2, "the failure is remembered"
    assert kept.age == 61
    clock.advance(RETRY_AFTER)
    assert await kept.get() == "value 1"
    assert source.fetched == 3
    source.fault = None
    clock.advance(RETRY_AFTER)
    assert await kept.get() == "value 4"


async def test_rx7_an_outage_costs_the_provider_one_request_a_moment(
    source: Source, kept: Kept[str], clock: Clock
) -> None:
    source.fault = DOWN
    for _ in range(20):
        with pytest.raises(ProviderFault) as caught:
            await kept.get()
        assert caught.value.code == "provider_unavailable"
    assert caught.value.retry_after == RETRY_AFTER
    assert source.fetched == 1
    source.fault = None
    clock.advance(RETRY_AFTER)
    assert await kept.get() == "value 2"


async def test_all_who_share_a_fetch_share_its_failure(source: Source, kept: Kept[str]) -> None:
    source.gate.clear()
    source.fault = DOWN
    waiting = [asyncio.create_task(kept.get()) for _ in range(10)]
    await asyncio.sleep(0)
    source.gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [ProviderFault] * 10
    assert source.fetched == 1


async def test_f15_a_search_fetches_once_in_the_cool_down(source: Source, kept: Kept[str], clock: Clock) -> None:
    await kept.get()
    assert await kept.search(30) == "value 2", "an ordinary fetch does not stand in its way"
    for _ in range(20):
        assert await kept.search(30) == "value 2"
    clock.advance(30)
    assert await kept.search(30) == "value 3"
    assert source.fetched == 3


async def test_f15_those_who_search_together_share_one_fetch(source: Source, kept: Kept[str]) -> None:
    await kept.get()
    source.gate.clear()
    waiting = [asyncio.create_task(kept.search(30)) for _ in range(20)]
    await asyncio.sleep(0)
    source.gate.set()
    assert set(await asyncio.gather(*waiting)) == {"value 2"}


async def test_a_clock_that_goes_back_locks_nothing(source: Source, kept: Kept[str], clock: Clock) -> None:
    source.fault = DOWN
    with pytest.raises(ProviderFault):
        await kept.get()
    source.fault = None
    clock.advance(-3600)
    assert await kept.get() == "value 2"


# ── the wire ──


@asynccontextmanager
async def client_of(provider: Provider, clock: Clock | None = None, **settings: Any) -> AsyncIterator[ProviderClient]:
    given = {"issuer": provider.issuer, "client_id": "app", "client_secret": "s", **settings}
    made = ProviderClient(oidc.ProviderSettings.model_validate(given), IdentitySettings(), clock or Clock())
    try:
        yield made
    finally:
        await made.close()


async def fault_of(client: ProviderClient) -> ProviderFault:
    with pytest.raises(ProviderFault) as caught:
        await asyncio.wait_for(client.warm_up(), 5)
    return caught.value


async def test_warm_up_fetches_metadata_and_keys_once() -> None:
    async with running_provider(path="/realms/x") as provider, client_of(provider) as client:
        await asyncio.gather(*(client.warm_up() for _ in range(10)))
        assert [call.endpoint for call in provider.requests] == ["discovery", "jwks"]
        for call in provider.requests:
            assert call.headers["Accept-Encoding"] == "identity"
            assert call.headers["User-Agent"] == f"oidc-proxy/{__version__}"
            assert "Cookie" not in call.headers
            assert "Authorization" not in call.headers


JSON = "application/json"
INVALID = "provider_response_invalid"


@pytest.mark.parametrize(
    ("row", "faults", "code"),
    [
        ("HO-6 too large", Faults(discovery=saying(JSON, b" " * 70_000 + b"{}")), INVALID),
        ("HO-27 too large", Faults(jwks=saying(JSON, b'{"keys": [' + b" " * 10**7)), INVALID),
        ("HO-6 a page", Faults(discovery=saying("text/html", b"<h1>Sign in</h1>")), INVALID),
        ("RX-6 a bomb", Faults(jwks=saying(JSON, gzip.compress(b" " * 10**6))), INVALID),
        ("HO-27 empty", Faults(key_set=having(keys=[])), INVALID),
        ("RX-6 a slow drip", Faults(discovery=dripping(0.05)), "provider_timeout"),
        ("RX-6 no answer", Faults(jwks=hanging), "provider_timeout"),
        ("HO-29 an error", Faults(jwks=saying("text/html", b"oh", 503)), "provider_unavailable"),
    ],
)  # fmt: skip
async def test_answers_are_bounded_in_size_and_time(row: str, faults: Faults, code: str) -> None:
    async with (
        running_provider(path="/realms/x") as provider,
        client_of(provider, timeout="300ms", response_limit="64KiB") as client,
    ):
        provider.faults = faults
        assert (await fault_of(client)).code == code, row


async def test_an_answer_of_just_the_limit_passes() -> None:
    body_limit = 64 * 1024
    async with running_provider() as provider, client_of(provider, response_limit="64KiB") as client:
        provider.faults = Faults(jwks=lambda answer: answer.but(body=answer.body.ljust(body_limit)))
        await client.warm_up()
    async with running_provider() as provider, client_of(provider, response_limit="64KiB") as client:
        provider.faults = Faults(jwks=lambda answer: answer.but(body=answer.body.ljust(body_limit + 1)))
        assert "larger" in (await fault_of(client)).detail


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_ho7_redirects_are_not_followed(status: int) -> None:
    async with recorder() as elsewhere, running_provider() as provider, client_of(provider) as client:
        provider.faults = Faults(discovery=redirecting(status, f"{elsewhere.url}/metadata"))
        assert (await fault_of(client)).status in {502, 503}
        assert elsewhere.connections == 0


async def test_out5_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorder() as elsewhere, running_provider() as provider, client_of(provider) as client:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, elsewhere.url)
        await client.warm_up()
        assert elsewhere.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/keys",
        "file:///etc/passwd",
        "https://elsewhere.test/keys",
        "gopher://x/",
        "//x/keys",
        7,
        "",
    ],
)
async def test_out1_endpoints_are_where_the_issuer_is(url: object) -> None:
    async with running_provider() as provider, client_of(provider) as client:
        for name in ("jwks_uri", "token_endpoint"):
            provider.faults = Faults(metadata=having(**{name: url}))
            fault = await fault_of(client)
            assert fault.code == "provider_misconfigured"
            assert name in fault.detail
            client._clock.advance(10)  # type: ignore[attr-defined]
        assert not provider.calls("jwks")


async def test_a_provider_that_breaks_off_is_unavailable() -> None:
    async def break_off(peer: Peer) -> None:
        await peer.head()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")

    async with recorder(break_off) as provider:
        settings = oidc.ProviderSettings(issuer=provider.url, client_id="app")
        client = ProviderClient(settings, IdentitySettings(), Clock())
        fault = await fault_of(client)
        assert (fault.code, fault.retry_after) == ("provider_unavailable", RETRY_AFTER)
        await client.close()


async def test_nobody_there_is_unavailable_and_comes_back() -> None:
    clock = Clock()
    async with running_provider() as provider, client_of(provider, clock) as client:
        await provider.close()
        assert (await fault_of(client)).code == "provider_unavailable"
        await provider.open()
        assert (await fault_of(client)).retry_after == RETRY_AFTER, "not asked again at once"
        clock.advance(RETRY_AFTER)
        await client.warm_up()


# ── TLS ──


class Authority:
    """A certificate authority of the tests' own, its certificate in ``file``."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.file = folder, folder / f"{name}.pem"
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _name(name)
        made = self._certificate(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def server(self, *names: x509.GeneralName, days: int = 1) -> ssl.SSLContext:
        """A context for a server with a certificate for these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._certificate(_name("server"), key, x509.SubjectAlternativeName(names), days)
        plain = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file = self.folder / "server.pem"
        file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + plain)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        return context

    def _certificate(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType, days: int = 1
    ) -> x509.Certificate:
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self._name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_after(until)
        builder = builder.not_valid_before(until - datetime.timedelta(days=30)).add_extension(extension, critical=False)
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(own, critical=False).add_extension(issuer, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


HERE = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


async def test_out6_a_certificate_of_our_own_authority(authority: Authority) -> None:
    async with running_provider(ssl_context=authority.server(HERE)) as provider:
        assert provider.issuer.startswith("https://")
        async with client_of(provider, tls={"ca_file": authority.file}) as client:
            await client.warm_up()


@pytest.mark.parametrize("case", ["an unknown authority", "another authority", "another name", "expired"])
async def test_out6_a_certificate_that_proves_nothing(authority: Authority, tmp_path: Path, case: str) -> None:
    name = x509.DNSName("elsewhere.test") if case == "another name" else HERE
    context = authority.server(name, days=-1 if case == "expired" else 1)
    trusted = Authority(tmp_path, "theirs").file if case == "another authority" else authority.file
    tls = {} if case == "an unknown authority" else {"ca_file": trusted}
    async with running_provider(ssl_context=context) as provider, client_of(provider, tls=tls) as client:
        fault = await fault_of(client)
        assert fault.code == "provider_unavailable"
        assert "Certificate" in fault.detail
        assert not provider.requests


async def test_verification_can_be_switched_off_for_trials(authority: Authority) -> None:
    context = authority.server(x509.DNSName("elsewhere.test"), days=-1)
    async with running_provider(ssl_context=context) as provider, client_of(provider, tls={"verify": False}) as client:
        await client.warm_up()

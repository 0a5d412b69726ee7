"""Talks to the OpenID Provider: discovery and keys kept fresh, requests that oidc builds sent, answers verified.

Metadata and keys are fetched when they are first needed, so the gateway starts while the provider is down. What was
fetched once goes on serving when the provider fails; a failure is remembered for a moment, so that an outage costs each
request nothing and the provider one request a second.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import aiohttp
from yarl import URL

from .. import __version__, oidc, tokens
from ..errors import LoginFault, ProviderFault, SettingsFault
from ..identity import IdentitySettings, claim_path, missing_claims
from ..tokens import KeySet, KeyUnknown, LogoutClaims, VerifiedClaims
from ..values import Instant, Secret


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint of the provider answered, whole."""

    status: int
    content_type: str
    body: bytes
    cache_control: str | None
    retry_after: str | None


T = TypeVar("T")
RETRY_AFTER = 2
"""Seconds that a browser is asked to wait, and that a failed fetch is not tried again."""


class Kept(Generic[T]):
    """A value that is fetched when it is needed, kept for a while, and kept longer when it cannot be fetched anew."""

    def __init__(self, fetch: Callable[[], Awaitable[tuple[T, float]]], clock: Callable[[], Instant]) -> None:
        self._fetch, self._clock = fetch, clock
        self._value: T | None = None
        self._fresh_until: Instant = 0
        self._fetched_at: Instant = 0
        self._searched_at: Instant = float("-inf")
        self._failed: tuple[Instant, ProviderFault] | None = None
        self._flight: asyncio.Task[T] | None = None

    @property
    def known(self) -> T | None:
        """The last value that was fetched."""
        return self._value

    @property
    def age(self) -> float | None:
        """Seconds since it was fetched."""
        return self._clock() - self._fetched_at if self._value is not None else None

    async def get(self) -> T:
        """The value; ProviderFault only if there never was one."""
        now = self._clock()
        if self._value is not None and now < self._fresh_until:
            return self._value
        try:
            return await self._fetch_shared()
        except ProviderFault:
            if self._value is None:
                raise
            return self._value

    async def search(self, cooldown: float) -> T:
        """The value fetched now, because the one we have lacks something; as it is if that was done in the cool-down.

        Only searches count: what changes at the provider soon after an ordinary fetch is found at once.
        """
        if self._flight is None and self._value is not None and 0 <= self._clock() - self._searched_at < cooldown:
            return self._value
        value = await self._fetch_shared()
        self._searched_at = self._clock()
        return value

    async def _fetch_shared(self) -> T:
        """Fetch now. All who ask meanwhile share one fetch, and a failure is not repeated at once."""
        now = self._clock()
        if self._failed is not None and 0 <= now - self._failed[0] < RETRY_AFTER:
            fault = self._failed[1]
            raise ProviderFault(fault.code, fault.detail, retry_after=RETRY_AFTER)
        if self._flight is None:
            self._flight = asyncio.create_task(self._fetch_once())
            self._flight.add_done_callback(self._landed)
        # Shielded: the one who asked first may go away, the others still want it.
        return await asyncio.shield(self._flight)

    async def _fetch_once(self) -> T:
        try:
            value, lifetime = await self._fetch()
        except ProviderFault as fault:
            self._failed = self._clock(), fault
            raise
        self._value, self._fetched_at, self._failed = value, self._clock(), None
        self._fresh_until = self._fetched_at + lifetime
        return value

    def _landed(self, flight: asyncio.Task[T]) -> None:
        self._flight = None
        if not flight.cancelled():
            flight.exception()  # seen, even if everyone who waited for it is gone


class ProviderClient:
    """One provider, as this client knows it. All methods may raise ProviderFault."""

    def __init__(
        self,
        settings: oidc.ProviderSettings,
        identity: IdentitySettings,
        clock: Callable[[], Instant],
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.settings = settings
        self._identity, self._clock, self._random = identity, clock, random
        self._http: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None
        self.metadata = Kept(self._discover, clock)
        self.keys = Kept(self._fetch_keys, clock)

    def renew_tls(self) -> None:
        """Read the CA file again, for connections from now on. SettingsFault, and no change, when it is bad."""
        self._tls = _tls(self.settings.tls)

    def renew_secret(self, secret: Secret) -> None:
        """The client secret, for requests from now on."""
        self.settings = self.settings.model_copy(update={"client_secret": secret})

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    async def warm_up(self) -> None:
        """Fetch metadata and keys if they are not known yet; for readiness."""
        await self.metadata.get()
        await self.keys.get()

    # ── signing in ──

    async def begin(self, redirect_uri: str, return_to: str) -> tuple[oidc.Provider, oidc.PendingLogin]:
        """A sign-in that is about to start, and the provider it starts at."""
        provider = await self.metadata.get()
        pending = oidc.begin_login(
            random=self._random(96),
            now=self._clock(),
            issuer=provider.issuer,
            redirect_uri=redirect_uri,
            return_to=return_to,
        )
        return provider, pending

    async def redeem(self, code: str, pending: oidc.PendingLogin) -> tuple[oidc.Tokens, VerifiedClaims]:
        """Spend the code; the tokens, and what they prove about the user. Raises LoginFault too."""
        provider = await self.metadata.get()
        auth = oidc.client_auth(self.settings, provider)
        answer = await self._send(oidc.code_request(provider, auth, code=code, pending=pending))
        received = self._read_tokens(answer)
        if received.id_token is None:
            raise LoginFault("id_token_invalid", "the token response has no ID token")
        raw = received.id_token
        claims = await self._with_keys(
            lambda keys: tokens.verify_id_token(
                raw,
                keys,
                self._expectation(provider),
                now=self._clock(),
                nonce=pending.nonce,
                not_before=pending.started_at,
                access_token=received.access_token,
            )
        )
        return received, await self._enrich(provider, received, claims)

    async def refresh(
        self, held: oidc.Tokens, previous: VerifiedClaims, nonce: str
    ) -> tuple[oidc.Tokens, VerifiedClaims]:
        """New tokens for the refresh token, and what they prove. LoginFault: the provider, or the proof, refuses."""
        if held.refresh_token is None:
            raise LoginFault("code_refused", "there is no refresh token")
        provider = await self.metadata.get()
        auth = oidc.client_auth(self.settings, provider)
        answer = await self._send(oidc.refresh_request(provider, auth, refresh_token=held.refresh_token))
        try:
            received = self._read_tokens(answer)
        except LoginFault as fault:
            if fault.code == "code_refused":
                raise
            # Only invalid_grant says that the token is no good; any other refusal says nothing about the session.
            raise ProviderFault("provider_unavailable", fault.detail, retry_after=RETRY_AFTER) from None
        claims = previous
        if received.id_token is not None:
            raw = received.id_token
            try:
                claims = await self._with_keys(
                    lambda keys: tokens.verify_refreshed_id_token(
                        raw,
                        keys,
                        self._expectation(provider),
                        now=self._clock(),
                        previous=previous,
                        nonce=nonce,
                        access_token=received.access_token,
                    )
                )
            except KeyUnknown as fault:
                # It proves nothing, neither for nor against the user: the key may be published by the next time.
                raise ProviderFault("provider_unavailable", fault.detail, retry_after=RETRY_AFTER) from None
            claims = await self._enrich(provider, received, claims)
        return received, claims

    # ── signing out ──

    async def revoke(self, token: str, hint: str) -> None:
        """Tell the provider to forget a token (RFC 7009); nothing happens where it has no such endpoint."""
        provider = await self.metadata.get()
        auth = oidc.client_auth(self.settings, provider)
        request = oidc.revocation_request(provider, auth, token=token, hint=hint)
        if request is not None:
            answer = await self._send(request)
            oidc.check_revocation(answer.status, answer.content_type, answer.body, retry_after=answer.retry_after)

    async def verify_logout_token(self, raw: str) -> LogoutClaims:
        """What a logout token wants to be ended. Raises TokenInvalid too."""
        provider = await self.metadata.get()
        expect = self._expectation(provider)
        return await self._with_keys(lambda keys: tokens.verify_logout_token(raw, keys, expect, now=self._clock()))

    def _read_tokens(self, answer: Answer) -> oidc.Tokens:
        return oidc.read_token_response(
            answer.status, answer.content_type, answer.body, now=self._clock(), retry_after=answer.retry_after
        )

    # ── proof ──

    def _expectation(self, provider: oidc.Provider) -> tokens.Expectation:
        return tokens.Expectation(
            issuer=provider.issuer,
            client_id=self.settings.client_id,
            algorithms=tokens.allowed_algorithms(self.settings.id_token, provider.id_token_algorithms),
            trusted_audiences=frozenset(self.settings.id_token.trusted_audiences),
            skew=self.settings.clock_skew,
        )

    async def _with_keys(self, verify: Callable[[KeySet], T]) -> T:
        """Verify; if the key is not among those we know, fetch them once more, at most once in the cool-down."""
        try:
            return verify(await self.keys.get())
        except KeyUnknown:
            return verify(await self.keys.search(self.settings.jwks.refetch_cooldown))

    async def _enrich(self, provider: oidc.Provider, received: oidc.Tokens, claims: VerifiedClaims) -> VerifiedClaims:
        """The ID token's claims, and what userinfo and the access token add to them."""
        wanted = self._identity.userinfo
        if wanted == "always" or (wanted == "if_missing" and missing_claims(claims, self._identity)):
            claims = tokens.merge(claims, *await self._userinfo(provider, received, claims))
        if self._identity.roles_from_access_token and received.access_token.count(".") == 2:
            claims = tokens.merge(claims, *await self._roles(provider, received, claims))
        return claims

    async def _userinfo(
        self, provider: oidc.Provider, received: oidc.Tokens, claims: VerifiedClaims
    ) -> list[VerifiedClaims]:
        if provider.userinfo_endpoint is None:
            return []
        headers = {"Authorization": f"Bearer {received.access_token}"}
        answer = await self._exchange("GET", provider.userinfo_endpoint, headers)
        found = oidc.read_userinfo(answer.status, answer.content_type, answer.body)
        if isinstance(found, dict):
            return [tokens.accept_userinfo(found, claims)]
        signed = await self._with_keys(
            lambda keys: tokens.verify_userinfo_token(found, keys, self._expectation(provider), now=self._clock())
        )
        return [tokens.accept_userinfo(signed.values, claims)]

    async def _roles(
        self, provider: oidc.Provider, received: oidc.Tokens, claims: VerifiedClaims
    ) -> list[VerifiedClaims]:
        """Groups and roles of the access token. One that we cannot verify is meant for others, and adds nothing."""
        try:
            verified = await self._with_keys(
                lambda keys: tokens.verify_access_token(
                    received.access_token, keys, self._expectation(provider), now=self._clock(), subject=claims.subject
                )
            )
        except LoginFault:
            return []
        paths = (*self._identity.groups_claims, *self._identity.roles_claims)
        return [verified.only(set(paths) | {claim_path(path)[0] for path in paths})]

    # ── the wire ──

    async def _discover(self) -> tuple[oidc.Provider, float]:
        fixed = oidc.provider_without_discovery(self.settings)
        if fixed is not None:
            return fixed, float("inf")
        answer = await self._exchange("GET", oidc.discovery_url(self.settings), {})
        document = oidc.read_document("metadata", answer.status, answer.content_type, answer.body)
        return oidc.read_metadata(document, self.settings), self.settings.metadata_ttl

    async def _fetch_keys(self) -> tuple[KeySet, float]:
        provider = await self.metadata.get()
        answer = await self._exchange("GET", provider.jwks_uri, {})
        keys = KeySet.parse(oidc.read_document("JWKS", answer.status, answer.content_type, answer.body))
        if not keys.keys:
            raise ProviderFault("provider_response_invalid", "the JWKS has no usable key")
        return keys, oidc.cache_seconds(answer.cache_control, self.settings.jwks)

    async def _send(self, request: oidc.TokenRequest) -> Answer:
        return await self._exchange("POST", request.url, request.headers, request.body)

    async def _exchange(self, method: str, url: str, headers: dict[str, str], body: bytes | None = None) -> Answer:
        """The whole answer. Redirects are not followed, the body is bounded."""
        limit = self.settings.response_limit
        try:
            async with self._session().request(
                method, URL(url, encoded=True), headers=headers, data=body, allow_redirects=False, ssl=self._trust(url)
            ) as response:
                content = await response.content.read(limit + 1)
                while len(content) <= limit and (more := await response.content.read(limit + 1 - len(content))):
                    content += more
                if len(content) > limit:
                    raise ProviderFault("provider_response_invalid", f"an answer is larger than {limit}")
                told = response.headers
                return Answer(
                    response.status,
                    told.get("Content-Type", ""),
                    content,
                    told.get("Cache-Control"),
                    told.get("Retry-After"),
                )
        except TimeoutError:
            raise ProviderFault("provider_timeout", f"no answer within {self.settings.timeout}") from None
        except (aiohttp.ClientError, OSError) as error:
            reason = f"{type(error).__name__} at {URL(url).origin()}"
            raise ProviderFault("provider_unavailable", reason, retry_after=RETRY_AFTER) from None

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=32),
                timeout=aiohttp.ClientTimeout(total=self.settings.timeout),
                headers={
                    "Accept": "application/json, application/jwt",
                    "Accept-Encoding": "identity",
                    "User-Agent": f"oidc-proxy/{__version__}",
                },
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._http

    def _trust(self, url: str) -> ssl.SSLContext | bool:
        """Connections are kept for the context that they were made with: a new one is asked over new connections."""
        if not url.startswith("https:"):
            return True  # nobody to trust, and reading the system's certificates takes a while
        if self._tls is None:
            try:
                self._tls = _tls(self.settings.tls)
            except SettingsFault as fault:
                raise ProviderFault("provider_unavailable", str(fault), retry_after=RETRY_AFTER) from None
        return self._tls


def _tls(settings: oidc.TlsSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ValueError) as error:
        raise SettingsFault([f"provider.tls cannot be set up with {settings.ca_file}: {error}"]) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context

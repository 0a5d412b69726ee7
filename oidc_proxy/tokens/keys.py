"""The public keys of a provider, and the algorithms that they are used with. Only this file knows joserfc."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from joserfc.jwa import JWS_ALGORITHMS
from joserfc.jwk import ECKey, OKPKey, RSAKey
from pydantic import Field, field_validator

from oidc_proxy.errors import ProviderFault
from oidc_proxy.tokens.faults import KeyUnknown, TokenInvalid
from oidc_proxy.tokens.text import base64url
from oidc_proxy.values import Settings

MAX_KEYS = 100


class Algorithm(NamedTuple):
    key: str
    """What a key must be: its ``crv``, or RSA."""
    digest: str
    """The hash behind ``at_hash`` (OpenID Connect Core 3.1.3.6). EdDSA names none; Ed25519 hashes with SHA-512."""


ALGORITHMS: Mapping[str, Algorithm] = {
    "RS256": Algorithm("RSA", "sha256"),
    "RS384": Algorithm("RSA", "sha384"),
    "RS512": Algorithm("RSA", "sha512"),
    "PS256": Algorithm("RSA", "sha256"),
    "PS384": Algorithm("RSA", "sha384"),
    "PS512": Algorithm("RSA", "sha512"),
    "ES256": Algorithm("P-256", "sha256"),
    "ES384": Algorithm("P-384", "sha384"),
    "ES512": Algorithm("P-521", "sha512"),
    "ES256K": Algorithm("secp256k1", "sha256"),
    "EdDSA": Algorithm("Ed25519", "sha512"),
    "Ed25519": Algorithm("Ed25519", "sha512"),
}
"""All asymmetric. `none` and HS* are not refused somewhere: they are not here (RFC 8725 §3.1)."""

_JOSE = {algorithm.name: algorithm for algorithm in JWS_ALGORITHMS}


class IdTokenSettings(Settings):
    """What is expected of ID tokens."""

    algorithms: tuple[str, ...] = Field(
        default=(),
        description="Signature algorithms that are accepted. "
        "Empty means every asymmetric one that the provider announces; `none` and HS* are never accepted.",
        examples=[["RS256"], ["ES256", "EdDSA"]],
    )
    trusted_audiences: tuple[str, ...] = Field(
        default=(),
        description="Client ids that may stand beside ours in the audience of a token.",
        examples=[["mobile-app"]],
    )

    @field_validator("algorithms")
    @classmethod
    def _asymmetric(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in ALGORITHMS:
                raise ValueError(f"“{name}” is not accepted here; choose from {', '.join(ALGORITHMS)}")
        return names


def allowed_algorithms(settings: IdTokenSettings, announced: Sequence[str] | None) -> frozenset[str]:
    """The algorithms that tokens of this provider may use.

    ``announced`` is `id_token_signing_alg_values_supported`; a provider that says nothing uses RS256 (OpenID Connect
    Core 2). Raises ProviderFault when nothing acceptable is left.
    """
    wanted = settings.algorithms or (("RS256",) if announced is None else announced)
    allowed = frozenset(ALGORITHMS).intersection(wanted)
    if not allowed:
        raise ProviderFault(
            "provider_misconfigured",
            f"id_token_signing_alg_values_supported has no acceptable algorithm: {list(wanted)!r:.200}; "
            f"acceptable are {', '.join(ALGORITHMS)}",
        )
    return allowed


class _Unusable(Exception):
    """Why a key of a JWKS is skipped."""


@dataclass(frozen=True, slots=True)
class Key:
    """A public signature key of a provider, and the algorithms that it may be used with."""

    kid: str | None
    algorithms: frozenset[str]
    native: RSAKey | ECKey | OKPKey

    def verifies(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """Whether the signature is good. Whatever the library raises is a signature that is not."""
        try:
            return _JOSE[algorithm].verify(message, signature, self.native)
        except Exception:
            return False


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of one provider (RFC 7517 §5)."""

    keys: tuple[Key, ...]
    skipped: tuple[str, ...]
    """`kid: reason` of every key that is not used."""

    @classmethod
    def parse(cls, document: object) -> KeySet:
        """Read a JWKS, key by key: one that cannot be used is skipped and takes no other with it.

        Raises ProviderFault when there is no key that can be used, so that an empty set never replaces a good one.
        """
        entries = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(entries, list) or len(entries) > MAX_KEYS:
            raise ProviderFault("provider_response_invalid", f"the JWKS has no list `keys` of at most {MAX_KEYS} keys")
        keys, skipped = [], []
        for entry in entries:
            name = entry.get("kid") if isinstance(entry, dict) else None
            try:
                keys.append(_import_key(entry))
            except _Unusable as reason:
                skipped.append(f"{name!r:.80}: {reason}")
            except Exception as error:
                skipped.append(f"{name!r:.80}: cannot be read ({type(error).__name__})")
        if not keys:
            raise ProviderFault("provider_response_invalid", f"the JWKS has no usable key; skipped: {skipped!r:.500}")
        return cls(tuple(keys), tuple(skipped))

    def check(self, kid: str | None, algorithm: str, message: bytes, signature: bytes) -> None:
        """Raise unless a key made the signature: one of this id, where the token names one, and for this algorithm.

        Two keys may share an id, and a token that names none may be of any key that fits (RFC 7515 §4.1.4). Then a bad
        signature is also what a rotation of keys looks like, hence KeyUnknown.
        """
        named = [key for key in self.keys if kid is None or key.kid == kid]
        fitting = [key for key in named if algorithm in key.algorithms]
        if any(key.verifies(algorithm, message, signature) for key in fitting):
            return
        fault = KeyUnknown if kid is None or not named else TokenInvalid
        raise fault(
            "signature" if fitting else "key",
            f"of {len(named)} keys with the id {kid!r:.80}, {len(fitting)} are for {algorithm}, and none signed this",
        )


_IMPORTERS: Mapping[str, tuple[type[RSAKey | ECKey | OKPKey], tuple[str, ...]]] = {
    "RSA": (RSAKey, ("n", "e")),
    "EC": (ECKey, ("crv", "x", "y")),
    "OKP": (OKPKey, ("crv", "x")),
}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


def _import_key(jwk: object) -> Key:
    """One entry of a JWKS; raises _Unusable, or whatever the library raises."""
    if not isinstance(jwk, dict) or jwk.get("kty") not in _IMPORTERS:
        raise _Unusable("its type (kty) is not used here")
    if not _PRIVATE.isdisjoint(jwk):
        raise _Unusable("a private key was published")
    kid = jwk.get("kid")
    if not isinstance(kid, str | None):
        raise _Unusable("kid is not a string")
    if jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ["verify"]):
        raise _Unusable("it is not for signatures (use, key_ops)")
    material = jwk["crv"] if jwk["kty"] != "RSA" else _rsa(jwk)
    algorithms = frozenset(name for name, algorithm in ALGORITHMS.items() if algorithm.key == material)
    if "alg" in jwk:
        algorithms &= {jwk["alg"]}
    if not algorithms:
        raise _Unusable("its algorithm or curve (alg, crv) is not used here")
    importer, members = _IMPORTERS[jwk["kty"]]
    native = importer.import_key({"kty": jwk["kty"], **{name: jwk[name] for name in members}})
    if "x5c" in jwk and _certified(importer, jwk["x5c"]).public_key != native.public_key:
        raise _Unusable("its certificate (x5c) is of another key")
    return Key(kid, algorithms, native)


def _rsa(jwk: Mapping[str, Any]) -> str:
    """RFC 7518 §3.3 for the size; FIPS 186-5 A.1.1 for the exponent; the upper bound limits the work per token."""
    modulus, exponent = (int.from_bytes(base64url(jwk[name]), "big") for name in ("n", "e"))
    if not 2048 <= modulus.bit_length() <= 8192 or not 2**16 < exponent < 2**64:
        raise _Unusable("RSA with fewer than 2048 or more than 8192 bits, or an unusual exponent")
    return "RSA"


def _certified(importer: type[RSAKey | ECKey | OKPKey], chain: Sequence[str]) -> RSAKey | ECKey | OKPKey:
    """The key of the first certificate (RFC 7517 §4.7). Its dates mean nothing: the JWKS says which keys are in use."""
    certificate = base64.b64encode(base64.b64decode(chain[0])).decode()
    return importer.import_key(f"-----BEGIN CERTIFICATE-----\n{certificate}\n-----END CERTIFICATE-----\n")

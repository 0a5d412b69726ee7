"""Signing keys of the demo's provider, and the writing of compact tokens, well-formed or not."""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import secrets
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey, import_key
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64decode, urlsafe_b64encode

Jwk = dict[str, Any]

_HASHES = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}


@dataclass(frozen=True, slots=True)
class SigningKey:
    """Something that signs: the `alg` and `kid` it puts into headers, and the JWK that it is published as."""

    alg: str
    kid: str | None
    public: Jwk
    """What the JWKS shows: the public part only, with `kid`, `use` and `alg`."""
    private: Jwk
    sign: Callable[[bytes], bytes]

    @property
    def public_pem(self) -> bytes:
        return RSAKey.import_key(dict(self.public)).as_pem(private=False)


def b64(raw: bytes) -> str:
    """Base64url without padding (RFC 7515 §2)."""
    return urlsafe_b64encode(raw).decode()


def compact(header: object, payload: object, key: SigningKey) -> str:
    """A JWS in compact form. Header and payload are JSON values, or bytes that are taken as they are."""
    parts = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload))
    text = ".".join(b64(part) for part in parts)
    return f"{text}.{b64(key.sign(text.encode()))}"


def half_hash(value: str, alg: str) -> str:
    """`at_hash` of an access token (OpenID Connect Core 3.1.3.6)."""
    digest = _HASHES.get(alg[-3:], hashlib.sha512)(value.encode()).digest()
    return b64(digest[: len(digest) // 2])


def generate(alg: str = "RS256", *, bits: int = 2048, kid: str | None = None) -> SigningKey:
    """A fresh key for RS*, PS*, ES256 or EdDSA. RSA keys below 2048 bit are made without complaint."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        key = _generate(alg, bits)
    model = JWSRegistry.algorithms[alg]
    kid = kid or secrets.token_urlsafe(12)
    words = {"kid": kid, "use": "sig", "alg": alg}
    public, private = ({**key.as_dict(private=part), **words} for part in (False, True))
    return SigningKey(alg, kid, public, private, lambda message: model.sign(message, key))


def _generate(alg: str, bits: int) -> RSAKey | ECKey | OKPKey:
    if alg.startswith("ES"):
        return ECKey.generate_key({"256": "P-256", "384": "P-384", "512": "P-521"}[alg[2:]])
    if alg in {"EdDSA", "Ed25519"}:
        return OKPKey.generate_key("Ed25519")
    return RSAKey.generate_key(bits)


def symmetric(secret: bytes, *, alg: str = "HS256", kid: str | None = None) -> SigningKey:
    """An HMAC key of any bytes; its JWK is of type `oct`, which no JWKS should ever show."""
    jwk = {"kty": "oct", "k": b64(secret), "alg": alg, "use": "sig"} | ({"kid": kid} if kid else {})
    return SigningKey(alg, kid, jwk, jwk, lambda message: hmac.digest(secret, message, f"sha{alg[2:]}"))


def unsigned() -> SigningKey:
    """`alg: none`."""
    return SigningKey("none", None, {}, {}, lambda _: b"")


def exponent_one(kid: str = "e-is-1") -> SigningKey:
    """An RSA key whose public exponent is 1: everybody can sign with it, a signature being the padded hash itself."""
    base = generate(kid=kid)

    def sign(message: bytes) -> bytes:
        digest_info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(message).digest()
        return b"\x00\x01" + b"\xff" * (256 - 3 - len(digest_info)) + b"\x00" + digest_info

    return replace(base, public={**base.public, "e": b64(b"\x01")}, sign=sign)


@functools.cache
def attacker_key() -> SigningKey:
    """A sound key that belongs to somebody else than the provider."""
    return generate(kid="attacker")


@functools.cache
def small_key() -> SigningKey:
    """RSA with 1024 bit."""
    return generate(bits=1024, kid="small")


@functools.cache
def leaked_key() -> SigningKey:
    """A sound key, for a JWKS that publishes its private part."""
    return generate(kid="leaked")


class KeyRing:
    """The provider's keys: one signs, retired ones stay published until dropped, and one is for encryption only.

    Keycloak's JWKS always carries such an encryption key; a client that takes "the RSA key" picks the wrong one.
    """

    def __init__(self, signing: SigningKey | None = None, encryption: Jwk | None = None) -> None:
        self.current = signing or generate()
        self.retired: list[SigningKey] = []
        self.encryption = encryption or _encryption_jwk()

    def copy(self) -> KeyRing:
        """A ring of its own with the same keys (making keys is slow)."""
        return KeyRing(self.current, self.encryption)

    def rotate(self, key: SigningKey | None = None, *, keep: bool = True) -> SigningKey:
        """Sign with a new key from now on; without `keep` the old one vanishes from the JWKS at once."""
        self.retired = [self.current, *self.retired] if keep else []
        self.current = key or generate(self.current.alg)
        return self.current

    def document(self) -> dict[str, Any]:
        """The JWKS."""
        return {"keys": [self.encryption, *(key.public for key in (self.current, *self.retired))]}

    def read(self, token: str) -> dict[str, Any]:
        """The claims of a token that one of these keys has signed, however old it is.

        Raises ValueError for anything else.
        """
        try:
            header = json.loads(urlsafe_b64decode(token.partition(".")[0].encode()))
            key = self.find(header.get("kid"))
            if key is None:
                raise ValueError("no such key")
            registry = JWSRegistry(algorithms=[key.alg], strict_check_header=False)
            claims = jwt.decode(token, import_key(dict(key.public)), algorithms=[key.alg], registry=registry).claims
        except (JoseError, ValueError, KeyError, AttributeError) as error:
            raise ValueError("not a token of ours") from error
        return dict(claims)

    def find(self, kid: str | None) -> SigningKey | None:
        return next((key for key in (self.current, *self.retired) if key.kid == kid), None)


def _encryption_jwk() -> Jwk:
    words = {"kid": secrets.token_urlsafe(12), "use": "enc", "alg": "RSA-OAEP"}
    return {**RSAKey.generate_key(2048).as_dict(private=False), **words}

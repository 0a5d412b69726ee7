"""What can be wrong with a provider: hooks into each thing that it says.

A hook gets the right value and returns the wrong one; each named fault (`named_faults.py`) uses just one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from oidc_proxy.demo.directory import Client
from oidc_proxy.demo.keys import KeyRing, SigningKey
from oidc_proxy.demo.listener import Answer, Pairs, json_answer

Claims = dict[str, Any]
OnValue = Callable[[Claims], object]
OnAnswer = Callable[[Answer], Answer]


def _same_value(value: Claims) -> object:
    return value


def _same_answer(answer: Answer) -> Answer:
    return answer


def _same_text(text: str) -> str:
    return text


def _same_object(text: str) -> object:
    return text


def _same_pairs(pairs: Pairs) -> Pairs:
    return pairs


def _current_key(ring: KeyRing, client: Client) -> SigningKey:
    del client
    return ring.current


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Every field breaks one thing; without any, the provider is a good one.

    Hooks on headers and claims may return `bytes`, which then stand in the token as they are.
    """

    metadata: OnValue = _same_value
    """The discovery document."""
    key_set: OnValue = _same_value
    """The JWKS document."""
    callback: Callable[[Pairs], Pairs] = _same_pairs
    """The parameters that the browser carries back to the client."""
    token_values: OnValue = _same_value
    """The members of the answer to a code."""
    refresh_values: OnValue = _same_value
    """The members of the answer to a refresh token."""
    signing_key: Callable[[KeyRing, Client], SigningKey] = _current_key
    """The key that signs ID tokens and logout tokens."""
    id_token_header: OnValue = _same_value
    id_token_claims: OnValue = _same_value
    id_token: Callable[[str], object] = _same_object
    """The last word on the finished ID token."""
    refreshed_claims: OnValue = _same_value
    """The claims of ID tokens that come of a refresh, only."""
    userinfo_claims: OnValue = _same_value
    logout_header: OnValue = _same_value
    logout_claims: OnValue = _same_value
    logout_token: Callable[[str], str] = _same_text

    discovery: OnAnswer = _same_answer
    jwks: OnAnswer = _same_answer
    authorization: OnAnswer = _same_answer
    token: OnAnswer = _same_answer
    """The answer to a code."""
    refresh: OnAnswer = _same_answer
    """The answer to a refresh token; what it has changed at the provider stays changed."""
    userinfo: OnAnswer = _same_answer
    introspection: OnAnswer = _same_answer
    revocation: OnAnswer = _same_answer
    end_session: OnAnswer = _same_answer

    def on(self, endpoint: str) -> OnAnswer:
        """The hook on the answers of an endpoint, by its name."""
        hook: OnAnswer = getattr(self, endpoint, _same_answer)
        return hook


def having(**members: Any) -> OnValue:
    """The value with these members set."""
    return lambda value: {**value, **members}


def lacking(*names: str) -> OnValue:
    """The value without these members."""
    return lambda value: {name: member for name, member in value.items() if name not in names}


def moved(name: str, seconds: float) -> OnValue:
    """The value with one number moved."""
    return lambda value: {**value, name: value[name] + seconds}


def answering(status: int, value: object, *headers: tuple[str, str]) -> OnAnswer:
    """A JSON answer in place of the right one."""
    return lambda answer: json_answer(value, status, headers).but(count=answer.count)


def refusing(status: int, code: str, *headers: tuple[str, str]) -> OnAnswer:
    """An OAuth error in place of the right answer."""
    return answering(status, {"error": code, "error_description": "A fault that was asked for"}, *headers)


def saying(content_type: str, body: bytes, status: int = 200) -> OnAnswer:
    """Any body in place of the right one."""
    return lambda answer: answer.but(status=status, body=body).with_header("Content-Type", content_type)


def redirecting(status: int, location: str) -> OnAnswer:
    return lambda answer: Answer(status=status, headers=(("Location", location),), count=answer.count)


def late(seconds: float) -> OnAnswer:
    return lambda answer: answer.but(delay=seconds)


def hanging(answer: Answer) -> Answer:
    """Never an answer."""
    return answer.but(hang=True)


def dripping(seconds: float) -> OnAnswer:
    """The right answer, with so many seconds between any two bytes of its body."""
    return lambda answer: answer.but(drip=seconds)


def cut(bytes_sent: int) -> OnAnswer:
    """The connection breaks in the middle of the body."""
    return lambda answer: answer.but(cut=bytes_sent)


def flapping(status: int = 503) -> OnAnswer:
    """The first answer is right, the second fails, and so on."""
    return lambda answer: answer if answer.count % 2 else answer.but(status=status, body=b"")

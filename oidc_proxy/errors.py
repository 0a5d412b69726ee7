"""Everything that can go wrong, by whose fault it is.

Each family has a table of its codes: HTTP status, the title and the sentence that the visitor reads, and what whoever
runs the gateway can do about it. Codes are stable: pages, logs, metrics and docs/errors.md share them.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple


class Entry(NamedTuple):
    """What one code means."""

    status: int
    title: str
    public: str
    remedy: str


class ProxyError(Exception):
    """Something that ends the request with an answer of our own.

    ``public`` is for the visitor, ``detail`` for the log only; neither ever carries a token, code, state or cookie.
    ``retry_after`` is in seconds.
    """

    codes: ClassVar[dict[str, Entry]] = {}

    def __init__(self, code: str, detail: str = "", *, retry_after: int | None = None) -> None:
        entry = self.codes[code]
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code, self.detail, self.retry_after = code, detail, retry_after
        self.status, self.title, self.public, self.remedy = entry


class RequestFault(ProxyError):
    """The browser, or whoever wrote the request."""

    codes: ClassVar = {
        "bad_request": Entry(
            400,
            "Bad request",
            "The request could not be understood.",
            "The log line names what was wrong with the request.",
        ),
        "path_ambiguous": Entry(
            400,
            "Ambiguous address",
            "This address can be read in more than one way, so it was not followed.",
            "Some reading of the path (decoded, dot segments resolved, slashes merged) falls under another route. "
            "`oidc-proxy policy test` shows which.",
        ),
        "wrong_host": Entry(
            421,
            "Unknown host",
            "This server does not answer for that host name.",
            "Add the host to `public_url`, or let the proxy in front send the public Host header.",
        ),
        "not_found": Entry(
            404, "Not found", "There is nothing at this address.", "No route matches: add one under `routes`."
        ),
        "method_not_allowed": Entry(
            405,
            "Method not allowed",
            "This address cannot be used that way.",
            "The endpoint takes other methods; see Allow.",
        ),
        "sign_in_required": Entry(
            401, "Sign-in required", "Please sign in to continue.", "Nothing: the request came without a valid session."
        ),
        "access_denied": Entry(
            403,
            "Access denied",
            "You are signed in, but your account may not open this page.",
            "The log line names the rule. Grant the group or role at the provider, or change the route.",
        ),
        "cross_site": Entry(
            403,
            "Request from another site",
            "This action can only be started from this site itself.",
            "Another site tried to act for the visitor; nothing happened. On a route with `cross_site: refuse`, "
            "programs must send Origin, and other sites of yours go into `allowed_origins`; where a WebSocket may come "
            "from is `routes[].websocket`.",
        ),
        "proxy_untrusted": Entry(
            403,
            "Not for browsers",
            "This address is only for the proxy in front.",
            "Whoever asked is not in `forward_auth.trusted_proxies`; the log line has the address.",
        ),
        "request_timeout": Entry(
            408,
            "Request too slow",
            "The request took too long to arrive. Please try again.",
            "`http.timeouts.header` and `http.timeouts.body` are the limits.",
        ),
        "body_too_large": Entry(
            413,
            "Request too large",
            "What was sent is too large.",
            "`http.limits.body_bytes` is the limit.",
        ),
        "uri_too_long": Entry(
            414,
            "Address too long",
            "The address is too long.",
            "`http.limits.url_bytes` is the limit; larger forms are sent by POST.",
        ),
        "headers_too_large": Entry(
            431,
            "Headers too large",
            "The browser sent more header data than is accepted. Clearing the cookies of this site usually helps.",
            "Often an application that sets many cookies. `http.limits.header_bytes` and `http.limits.headers` are the "
            "limits.",
        ),
        "websocket_version": Entry(
            426,
            "Another WebSocket version",
            "Only version 13 of the WebSocket protocol is understood.",
            "The program that opens the WebSocket is older than RFC 6455.",
        ),
        "expectation_failed": Entry(
            417,
            "Expectation failed",
            "The request expects something that is not offered.",
            "Only 100-continue is understood.",
        ),
    }


class LoginFault(ProxyError):
    """This sign-in cannot finish; another try may."""

    codes: ClassVar = {
        "callback_malformed": Entry(
            400,
            "Sign-in answer not understood",
            "The answer of the sign-in service was incomplete or malformed.",
            "Parameters of the callback were missing, repeated or contradictory.",
        ),
        "login_unknown": Entry(
            400,
            "Sign-in not recognised",
            "This sign-in was not started in this browser, or it has already been completed.",
            "A reload, a bookmark of the callback, cookies that are blocked, or somebody else's link.",
        ),
        "login_expired": Entry(
            401,
            "Sign-in took too long",
            "Too much time passed before the sign-in was completed.",
            "`login.timeout` is the limit.",
        ),
        "login_loop": Entry(
            400,
            "Sign-in keeps starting again",
            "The sign-in was completed several times, but this browser did not keep the result. "
            "Please allow cookies for this site.",
            "Cookies do not come back: `public_url` is https but the browser uses http, or they are blocked.",
        ),
        "issuer_mismatch": Entry(
            401,
            "Wrong sign-in service",
            "The answer came from another sign-in service than the one that was asked.",
            "`iss` of the callback differs from the issuer (RFC 9207).",
        ),
        "provider_refused": Entry(
            401,
            "Sign-in refused",
            "The sign-in service refused the sign-in.",
            "The log line has the provider's error code.",
        ),
        "access_denied_by_provider": Entry(
            403,
            "Sign-in cancelled",
            "The sign-in was cancelled or not permitted.",
            "The provider answered access_denied.",
        ),
        "code_refused": Entry(
            401,
            "Sign-in no longer valid",
            "The sign-in service no longer accepts this sign-in.",
            "invalid_grant: the code expired, was used before, or the redirect URI differs.",
        ),
        "id_token_invalid": Entry(
            401,
            "Sign-in not verified",
            "The sign-in could not be verified.",
            "The log line names the check that failed: signature, issuer, audience, time, nonce, …",
        ),
        "userinfo_mismatch": Entry(
            401,
            "Sign-in not verified",
            "The sign-in service gave contradictory answers about who you are.",
            "`sub` of userinfo differs from the ID token's (OpenID Connect Core 5.3.2).",
        ),
        "identity_unusable": Entry(
            403,
            "Account cannot be used here",
            "Your account has a name or property that cannot be passed on safely.",
            "The log line names the claim: control characters, white space at the ends, or a size over the limit.",
        ),
    }


class ProviderFault(ProxyError):
    """The OpenID Provider, or the way to it. Ends no session."""

    codes: ClassVar = {
        "provider_unavailable": Entry(
            503,
            "Sign-in service unavailable",
            "The sign-in service cannot be reached at the moment. This page tries again by itself.",
            "Check `provider.issuer` and `provider.internal_base_url` from where the gateway runs.",
        ),
        "provider_timeout": Entry(
            504,
            "Sign-in service too slow",
            "The sign-in service did not answer in time. Please try again.",
            "`provider.timeout` is the limit.",
        ),
        "provider_misconfigured": Entry(
            502,
            "Sign-in service misconfigured",
            "The sign-in service is not set up correctly. Please tell the administrator.",
            "The log line names the key of the provider's metadata and both values.",
        ),
        "provider_response_invalid": Entry(
            502,
            "Unexpected answer of the sign-in service",
            "The sign-in service gave an answer that could not be used.",
            "The log line names what was wrong with the answer.",
        ),
        "client_rejected": Entry(
            502,
            "Sign-in service refused this gateway",
            "The sign-in service did not accept this gateway. Please tell the administrator.",
            "invalid_client: check `provider.client_id`, the client secret and `provider.client_auth`.",
        ),
    }


class UpstreamFault(ProxyError):
    """The application behind the gateway."""

    codes: ClassVar = {
        "upstream_unreachable": Entry(
            502,
            "Application unavailable",
            "The application cannot be reached at the moment.",
            "Check the upstream's address; the log line says what happened.",
        ),
        "upstream_invalid_response": Entry(
            502,
            "Unexpected answer of the application",
            "The application gave an answer that could not be used.",
            "The log line names the defect: framing, header, or an early end.",
        ),
        "upstream_timeout": Entry(
            504,
            "Application too slow",
            "The application did not answer in time.",
            "`upstreams.*.timeouts` are the limits.",
        ),
        "upstream_saturated": Entry(
            503,
            "Application busy",
            "The application is busy. Please try again in a moment.",
            "`upstreams.*.max_connections` and `upstreams.*.max_websockets` are the limits.",
        ),
    }


class StoreFault(ProxyError):
    """The session store. Ends no session."""

    codes: ClassVar = {
        "store_unavailable": Entry(
            503,
            "Temporarily unavailable",
            "The service cannot look up sign-ins at the moment. You stay signed in; this page tries again by itself.",
            "The session store (`store.url`) cannot be reached or refuses commands.",
        ),
    }


class InternalFault(ProxyError):
    """The gateway itself."""

    codes: ClassVar = {
        "internal_error": Entry(
            500,
            "Something went wrong",
            "The gateway made a mistake. Please try again.",
            "A defect: please report the log line `internal_error` with this request id.",
        ),
        "overloaded": Entry(
            503,
            "Busy",
            "The gateway is busy. Please try again in a moment.",
            "A check over gRPC took longer than the proxy waits (`timeout` of its `grpc_service`), or too many were "
            "under way.",
        ),
    }


FAMILIES: tuple[type[ProxyError], ...] = (
    RequestFault,
    LoginFault,
    ProviderFault,
    UpstreamFault,
    StoreFault,
    InternalFault,
)


class SettingsFault(Exception):
    """The operator's configuration: every problem at once, already rendered for reading. Exit status 78 (EX_CONFIG)."""

    def __init__(self, problems: list[object]) -> None:
        super().__init__("\n\n".join(map(str, problems)))
        self.problems = problems

"""HTTP as values: what was asked, what we answer, and the hygiene of headers in between.

Nothing here trusts a header because it is there. Forwarded headers are believed from trusted hops only (``arrival``);
names are compared in the one spelling that every backend could confuse them with (``headers``); cookies are read from
the raw bytes (``cookies``).
"""

from oidc_proxy.messages.arrival import (
    Network,
    client_address,
    forwarded_element,
    forwarded_for,
    is_trusted,
    request_id,
    trace_id,
)
from oidc_proxy.messages.cookies import OwnCookies
from oidc_proxy.messages.headers import (
    HOP_BY_HOP,
    NEVER_FROM_CLIENTS,
    NEVER_PREFIXES,
    HeaderFilter,
    HeaderPlan,
    canonical_name,
)
from oidc_proxy.messages.reply import Cookie, Reply, http_date
from oidc_proxy.messages.request import (
    EndpointSettings,
    Origins,
    RawHeaders,
    RequestHead,
    is_navigation,
    prefers_html,
    query_parameters,
    split_target,
)
from oidc_proxy.messages.return_to import ReturnTo

__all__ = [
    "HOP_BY_HOP",
    "NEVER_FROM_CLIENTS",
    "NEVER_PREFIXES",
    "Cookie",
    "EndpointSettings",
    "HeaderFilter",
    "HeaderPlan",
    "Network",
    "Origins",
    "OwnCookies",
    "RawHeaders",
    "Reply",
    "RequestHead",
    "ReturnTo",
    "canonical_name",
    "client_address",
    "forwarded_element",
    "forwarded_for",
    "http_date",
    "is_navigation",
    "is_trusted",
    "prefers_html",
    "query_parameters",
    "request_id",
    "split_target",
    "trace_id",
]

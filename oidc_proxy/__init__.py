"""oidc_proxy: an authenticating reverse proxy in front of a web application that knows nothing of OpenID Connect.

Decide with values, then do I/O. What can be a function of its arguments stands at the root: it takes ``now``, random
bytes, keys and settings, and never awaits. What awaits is in ``server``, and holds only the order of the awaits.

The floors. A module imports from floors below it, and within a floor only along an arrow:

    6  demo                                                  a provider and an application to try the gateway with
    5  cli -> server.workers -> server.app -> server.doors -> config         put together
    4  server.gateway -> server.account -> server.logout -> server.login -> server.sessions -> server.refresh
       -> server.archive; server.gateway -> server.forwarding -> server.streams, server.upgrade -> server.sessions;
       server.gateway -> server.handover -> server.login -> server.endpoints -> server.cookies, server.sessions;
       server.exchange and server.checks, which these share;
       server.gauges, server.admin: both read, admin ends sessions too   the order of the awaits
    3  server.front, server.provider, server.store, server.cache, server.upstream, server.pipe,
       server.files -> server.telemetry -> server.metrics, server.outlet; server.grpc -> server.front
    2  handover -> sessions -> oidc -> tokens; identity -> tokens; policy -> websocket; pages;
       forward_auth -> policy, identity, pages               what follows from what is known
    1  messages -> caching; rewriting                        HTTP as values
    0  errors, values                                        what can go wrong, and small words

The life of a request: ``server.front`` parses it, ``server.gateway`` reads its head (``messages``), finds the route
(``policy``) and the session (``server.sessions``), decides (``policy``), and passes it on (``server.forwarding``, by
``server.upstream``) with the headers that say who the user is (``identity``), under the path that the backend knows
(``rewriting``); a WebSocket (``websocket``) becomes two connections joined (``server.upgrade``, ``server.pipe``). A
proxy that only asks is told whether the request may pass (``forward_auth``). Without a session, ``server.login`` sends
the browser to the provider (``oidc``), and takes it back with a code that becomes verified claims (``tokens``) and a
session; where one origin signs in for several, ``server.handover`` brings it to the others (``handover``).

The life of a session: ``server.archive`` seals it into the store (``server.store``), ``server.cache`` keeps what was
read until the store announces a change, ``server.refresh`` renews its tokens, and ``server.logout`` ends it, for its
user (``server.account`` too) or for the provider; ``server.admin`` ends it for an administrator.

docs/architecture.md says more, and where to add what.
"""

__version__ = "0.1.0"

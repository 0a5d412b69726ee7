"""nginx that asks oidc_proxy about every request (auth_request), and passes it on itself."""

from __future__ import annotations

from bench.ground import PATH, Ground
from bench.peers import Stand, ours
from tests.real.parts import free_port

CONFIG = """
  upstream backend {{ server 127.0.0.1:{backend}; keepalive 64; keepalive_requests 1000000000; }}
  upstream oidc {{ server 127.0.0.1:{gateway}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    auth_request_set $user   $upstream_http_x_auth_request_user;
    auth_request_set $email  $upstream_http_x_auth_request_email;
    auth_request_set $groups $upstream_http_x_auth_request_groups;
    auth_request_set $token  $upstream_http_authorization;
    proxy_http_version 1.1;

    location /oauth2/ {{
      proxy_pass http://oidc;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-For $remote_addr;
    }}
    location = /_authz {{
      internal;
      proxy_pass http://oidc{endpoint};
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Original-URL $scheme://$http_host$request_uri;
      proxy_set_header X-Original-Method $request_method;
      proxy_set_header X-Forwarded-For $remote_addr;
    }}
    location / {{
      auth_request /_authz;
      proxy_pass http://backend;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-User $user;
      proxy_set_header X-Forwarded-Email $email;
      proxy_set_header X-Forwarded-Groups $groups;
      proxy_set_header Authorization $token;
    }}
  }}"""


class AuthRequest:
    name = "nginx + auth_request to oidc_proxy, Redis"
    setup = "one nginx worker and one of oidc_proxy, both counted; both keep connections alive"
    check = False

    async def start(self, ground: Ground) -> Stand:
        port = free_port()
        origin = f"http://127.0.0.1:{port}"
        gateway = ours.Ours(store="redis", access_log=False)
        behind, at = await gateway.serve(ground, "asked", origin, {}, **ours.ASKED)
        front = ground.start_nginx(
            "nginx-auth-request",
            CONFIG.format(backend=ground.backend, gateway=at, port=port, endpoint=ours.CHECK),
        )
        await front.ready(port)
        return Stand([front, behind], origin, sign_in=f"/oauth2/start?rd={PATH}")

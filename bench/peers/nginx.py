"""nginx that passes everything on and asks nobody: the floor."""

from __future__ import annotations

from bench.ground import Ground
from bench.peers import Stand
from tests.real.parts import free_port

PLAIN = """
  upstream backend {{ server 127.0.0.1:{backend}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-User "{user}";
    }}
  }}"""


class Plain:
    name = "nginx, no sign-in"
    setup = "proxy_pass, one worker, kept-alive connections to the backend, a fixed user name"
    check = False

    async def start(self, ground: Ground) -> Stand:
        port = free_port()
        config = PLAIN.format(backend=ground.backend, port=port, user=ground.user.username)
        program = ground.start_nginx("nginx", config)
        await program.ready(port)
        return Stand([program], f"http://127.0.0.1:{port}", sign_in=None)

"""What all peers stand on: one provider, one backend, one Redis, and the cores that each may use."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.process import Missing, Program, find
from oidc_proxy.demo.directory import ANN, Client, Lifetimes, User
from oidc_proxy.demo.provider import Provider
from tests.real.parts import Unavailable, free_port
from tests.real.redis import RedisServer
from tests.world import Browser

PATH = "/page"
"""The only address that the backend knows; everything else is 404."""
BODY = "x" * 1024
LIFETIME = 4 * 3600.0


@dataclass
class Ground:
    """Everything a peer needs to start. ``core`` is where the peers run; the load has the others."""

    folder: Path
    provider: Provider
    core: int | None
    nginx: str
    user: User = ANN
    backend: int = 0
    """The backend's port."""
    redis: RedisServer | None = None
    no_redis: str = ""
    _status: int = 0
    _asked: int = 0
    _databases: int = 0
    _programs: list[Program] = field(default_factory=list)
    _behind: list[Program] = field(default_factory=list)

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        behind: bool = False,
    ) -> Program:
        """A program of a peer, on the peers' core. ``behind`` has it where the load is, as a backend must be."""
        return self._start(name, command, environment, behind=behind)

    def start_nginx(self, name: str, config: str, *, behind: bool = False) -> Program:
        """An nginx with one worker; ``config`` is what stands in its http block."""
        return self._start(name, self._nginx_command(name, config), behind=behind)

    def client(self, name: str, redirect_uri: str) -> Client:
        """Make a peer known to the provider."""
        return self.provider.register(
            Client(client_id=name, secret=secrets.token_urlsafe(24), redirect_uris=(redirect_uri,))
        )

    def load_cpu(self) -> float:
        """Seconds of CPU that the load and the backends have used so far."""
        times = os.times()  # of children: every wrk that has ended
        own = times.user + times.system + times.children_user + times.children_system
        return own + sum(program.cpu() for program in self._behind)

    def database(self) -> int:
        """A database of Redis that nobody else uses. Missing if there is no Redis."""
        if self.redis is None:
            raise Missing(self.no_redis)
        self._databases += 1
        return self._databases

    def redis_url(self) -> str:
        """Such a database, as a URL."""
        database = self.database()
        return self.redis.url_for(None, None, database) if self.redis else ""

    async def sign_in(self, url: str) -> str:
        """The Cookie header of a browser that has gone there and signed in."""
        async with Browser() as browser:
            page = await browser.sign_in(url, self.user.username, self.user.password)
            cookie = browser.cookies.header(url)
        if page.status != 200 or not cookie:
            raise RuntimeError(f"the sign-in ended with status {page.status}{'' if cookie else ', without a cookie'}")
        return cookie

    async def backend_requests(self, http: aiohttp.ClientSession) -> int:
        """How many requests the backend has answered so far, but for those to this very counter."""
        async with http.get(f"http://127.0.0.1:{self._status}/status") as response:
            counts = re.search(r"requests\s+\d+ \d+ (\d+)", await response.text())
        if counts is None:
            raise RuntimeError("the backend does not tell how many requests it has had")
        self._asked += 1
        return int(counts[1]) - self._asked

    def stop(self) -> None:
        for program in reversed(self._programs):
            program.stop()
        if self.redis is not None:
            self.redis.close()

    async def start_backend(self) -> None:
        """An nginx that answers 1 KiB, and only to requests that carry the user's name: anything else gets 403."""
        self.backend, self._status = free_port(), free_port()
        names = "".join(f'    "{name}" 1;\n' for name in (self.user.sub, self.user.username, self.user.email))
        config = f"""
  map $http_x_forwarded_user $known {{
    default 0;
{names}  }}
  server {{
    listen 127.0.0.1:{self.backend} backlog=4096;
    location / {{ return 404; }}
    location = {PATH} {{
      default_type text/plain;
      if ($known = 0) {{ return 403; }}
      return 200 "{BODY}";
    }}
  }}
  server {{
    listen 127.0.0.1:{self._status};
    location = /status {{ stub_status; }}
  }}"""
        program = self.start_nginx("backend", config, behind=True)
        await program.ready(self.backend)

    def _start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None, *, behind: bool
    ) -> Program:
        core = None if behind else self.core
        program = Program(command, self.folder / f"{name}.log", core=core, environment=environment)
        self._programs.append(program)
        if behind:
            self._behind.append(program)
        return program

    def _nginx_command(self, name: str, config: str) -> list[str]:
        folder = self.folder / f"{name}.d"
        folder.mkdir()
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        places = "".join(f"  {kind}_temp_path {folder}/{kind};\n" for kind in kinds)
        path = folder / "nginx.conf"
        path.write_text(f"""daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  server_tokens off;
  tcp_nodelay on;
  keepalive_timeout 75s;
  keepalive_requests 1000000000;
{places}{config}
}}
""")
        return [self.nginx, "-p", str(folder), "-e", "stderr", "-c", str(path)]


def cores() -> tuple[list[int], int | None]:
    """The cores of the load (this process, wrk, backend, Redis) and the one of the peers; the same if there is one."""
    mine = sorted(os.sched_getaffinity(0))
    return (mine[:-1], mine[-1]) if len(mine) > 1 else (mine, None)


def _folder(path: str) -> Path:
    folder = Path(path)
    folder.chmod(0o711)  # servers that were started by root serve as somebody else
    return folder


@asynccontextmanager
async def prepared(*, pinned: bool = True) -> AsyncIterator[Ground]:
    """The ground, and its end; unless ``pinned``, everybody may use every core. Missing if there is no nginx."""
    load, core = cores() if pinned else (sorted(os.sched_getaffinity(0)), None)
    os.sched_setaffinity(0, load)
    async with AsyncExitStack() as stack:
        folder = _folder(stack.enter_context(tempfile.TemporaryDirectory(prefix="oidc-proxy-bench-")))
        provider = await stack.enter_async_context(Provider(path="/realms/demo"))
        provider.lifetimes = Lifetimes(access_token=LIFETIME, id_token=LIFETIME, refresh_token=2 * LIFETIME)
        ground = Ground(folder, provider, core, find("nginx", "nginx"))
        stack.callback(ground.stop)
        try:
            ground.redis = RedisServer.launch()
        except Unavailable as reason:
            ground.no_redis = f"there is no Redis: {reason}"
        await ground.start_backend()
        yield ground

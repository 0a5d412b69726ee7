"""Applications that know nothing of the gateway, used through it as people use them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSServerHandshakeError

from tests.gateway import SECRET, Settings, client_for, merged
from tests.real.applications import Applications, output_of
from tests.serving import Serving, serving
from tests.world import Browser, Page, free_port, running_provider

MEGABYTE = 2**20
LOCK = (
    '<?xml version="1.0"?><lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope>'
    "<locktype><write/></locktype><owner>ann</owner></lockinfo>"
)


@dataclass
class Place:
    """A gateway that is a process of its own, and an application behind it."""

    url: str
    gateway: Serving

    async def cookie(self, browser: Browser, user: str = "ann") -> str:
        """Somebody signs in; their Cookie header."""
        page = await browser.sign_in(f"{self.url}/oauth2/session", user, user)
        assert page.status == 200, page.text
        return browser.cookies.header(self.url) or ""


@asynccontextmanager
async def behind(application: str, folder: Path, config: Settings | None = None, **public: str) -> AsyncIterator[Place]:
    """The gateway with this application behind it. ``public`` may give the URL that people use, and the address."""
    address = public.get("address", f"127.0.0.1:{free_port()}")
    url = public.get("url", f"http://{address}")
    async with running_provider(clients=[client_for(url)], path="/realms/demo") as provider:
        settings = {
            "public_url": url,
            "listen": {"address": address},
            "provider": {"issuer": provider.issuer, "client_id": "app", "client_secret": SECRET},
            "upstream": application,
        }
        async with serving(merged(settings, config or {}), folder / "gateway") as gateway:
            yield Place(url, gateway)
            assert not gateway.lines(event="internal_error")


# ── WebDAV ──


@asynccontextmanager
async def webdav(applications: Applications, folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """WsgiDAV on cheroot; its URL, and the folder that it serves."""
    files = folder / "files"
    files.mkdir(parents=True)
    config = {
        "provider_mapping": {"/": str(files)},
        "simple_dc": {"user_mapping": {"*": True}},
        "property_manager": True,
        "lock_storage": True,
    }
    (folder / "wsgidav.json").write_text(json.dumps(config))
    options = ("--host=127.0.0.1", "--port={port}", f"--config={folder / 'wsgidav.json'}", "-q")
    async with applications.running("wsgidav", *options, folder=folder) as url:
        yield url, files


@asynccontextmanager
async def carrying(cookie: Callable[[], str], port: int, gateway: int) -> AsyncIterator[None]:
    """On this port, what every client sends goes on to the gateway with a cookie: some cannot send one themselves."""

    async def there(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            line = f"Cookie: {cookie()}\r\n\r\n" if cookie() else "\r\n"
            writer.write(head[:-2] + line.encode())
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            for size in range(int(length[1]) if length else 0, 0, -65536):
                writer.write(await reader.readexactly(min(size, 65536)))
                await writer.drain()

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", gateway)
        ways = [asyncio.create_task(there(reader, to_writer)), asyncio.create_task(back(to_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            to_writer.close()
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


def verdicts(output: str, url: str) -> list[str]:
    """What litmus says of each of its tests, with its warnings."""
    lines = [line.rpartition("\r")[2].strip() for line in output.replace(url, "").splitlines()]
    return [line for line in lines if re.match(r"(\d+\. |<- summary|-> running|WARNING)", line)]


async def test_litmus_finds_the_webdav_server_to_be_the_same_through_the_gateway(
    applications: Applications, system_program: Callable[[str], str], tmp_path: Path
) -> None:
    litmus = system_program("litmus")
    port, inner = free_port(), free_port()
    url, cookie = f"http://127.0.0.1:{port}", ""
    async with (
        webdav(applications, tmp_path / "direct") as (direct, _),
        webdav(applications, tmp_path / "behind") as (upstream, files),
        behind(upstream, tmp_path, url=url, address=f"127.0.0.1:{inner}") as place,
        carrying(lambda: cookie, port, inner),
        Browser() as ann,
    ):
        with pytest.raises(AssertionError, match=r"MKCOL|could not|401"):
            await output_of([litmus, f"{url}/"], tmp_path)
        assert not list(files.iterdir()), "whoever is not signed in makes nothing"
        cookie = await place.cookie(ann)
        known, found = [
            verdicts(await output_of([litmus, "--keep-going", f"{to}/"], tmp_path), to) for to in (direct, url)
        ]
        assert found == known
        summaries = [line for line in known if line.startswith("<- summary")]
        assert len(summaries) == 5, known
        passed = [re.search(r"(\d+) passed", line) for line in summaries]
        assert sum(int(count[1]) for count in passed if count) >= 90, known


async def test_curl_gets_ranges_conditions_and_uploads_of_unknown_length(
    applications: Applications, system_program: Callable[[str], str], tmp_path: Path
) -> None:
    curl = system_program("curl")
    async with (
        webdav(applications, tmp_path / "dav") as (upstream, files),
        behind(upstream, tmp_path) as place,
        Browser() as ann,
    ):
        (tmp_path / "cookie").write_text(f"Cookie: {await place.cookie(ann)}")
        content = secrets.token_bytes(3 * MEGABYTE)
        (tmp_path / "content").write_bytes(content)

        async def run(path: str, *options: str, to: str = "answer") -> tuple[str, bytes, dict[str, list[str]]]:
            told = await output_of(
                [
                    curl,
                    "-sS",
                    "-H",
                    "@cookie",
                    "-o",
                    to,
                    "-w",
                    "%{http_code} %{header_json}",
                    *options,
                    place.url + path,
                ],
                tmp_path,
            )
            return told[:3], (tmp_path / to).read_bytes() if (tmp_path / to).exists() else b"", json.loads(told[4:])

        for path, header in {"/a": "X: y", "/b": "Transfer-Encoding: chunked", "/c": "Expect: 100-continue"}.items():
            assert (await run(path, "-T", "content", "-H", header))[0] == "201", header
            assert (files / path[1:]).read_bytes() == content, header
        status, _, headers = await run("/a", "-I")
        assert (status, headers["content-length"]) == ("200", [str(len(content))])
        status, part, headers = await run("/a", "-r", "1000000-1999999")
        assert (status, part) == ("206", content[1_000_000:2_000_000])
        assert headers["content-range"] == [f"bytes 1000000-1999999/{len(content)}"]
        (tmp_path / "half").write_bytes(content[: len(content) // 2])
        assert (await run("/a", "-C", "-", to="half"))[:2] == ("206", content)
        assert (await run("/a", "-r", "99999999-"))[0] == "416"
        (tmp_path / "none").touch()
        assert (await run("/a", "-H", f"If-None-Match: {headers['etag'][0]}", to="none"))[:2] == ("304", b"")
        assert (await run("/b", "-X", "DELETE"))[0] == "204"
        assert not (files / "b").exists()
        locked = await run("/a", "-X", "LOCK", "-H", "Timeout: Second-60", "-H", "Content-Type: text/xml", "-d", LOCK)
        token = locked[2]["lock-token"][0].strip("<>")
        assert (locked[0], token.startswith("opaquelocktoken:")) == ("200", True)
        assert (await run("/a", "-T", "content"))[0] == "423"
        assert (await run("/a", "-T", "content", "-H", f"If: <{place.url}/a> (<{token}>)"))[0] == "204"
        assert (await run("/a", "-X", "MOVE", "-H", "Destination: http://elsewhere.test/d"))[0] == "502"
        moved = await run("/c", "-X", "MOVE", "-H", f"Destination: {place.url}/d")
        assert (moved[0], (files / "d").read_bytes()) == ("201", content)


# ── large files ──

TUS_SERVER = """
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from tuspyserver import create_tus_router

app = FastAPI()
app.include_router(create_tus_router(prefix="files", files_dir="{files}", max_size=2**40))
app.mount("/kept", StaticFiles(directory="{files}"))
"""
TUS_CLIENT = """
import sys
from tusclient.client import TusClient
from tusclient.storage.filestorage import FileStorage

url, cookie, memory, name = sys.argv[1:]
client = TusClient(url, headers={"Cookie": cookie})
about = {"filename": "large", "filetype": "application/octet-stream"}
kept = FileStorage(memory)
uploader = client.uploader(name, chunk_size=256 * 2**20, metadata=about, store_url=True, url_storage=kept)
print("begins at", uploader.offset, flush=True)
uploader.upload()
print("ends at", uploader.url, flush=True)
"""


def large_file(path: Path, size: int) -> str:
    """Fill a file with bytes that nothing can compress; their SHA-256."""
    digest, block = hashlib.sha256(), secrets.token_bytes(MEGABYTE)
    with path.open("wb") as file:
        for number in range(size // MEGABYTE):
            piece = number.to_bytes(8, "big") + block[8:]
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


@pytest.mark.slow
async def test_an_upload_of_300_mb_is_interrupted_and_goes_on_where_it_was(
    applications: Applications, tmp_path: Path
) -> None:
    folder = tmp_path / "tus"
    files = folder / "files"
    files.mkdir(parents=True)
    (folder / "server.py").write_text(TUS_SERVER.format(files=files))
    (tmp_path / "client.py").write_text(TUS_CLIENT)
    size, source = 300 * MEGABYTE, tmp_path / "large"
    digest = await asyncio.to_thread(large_file, source, size)
    options = ("server:app", f"--app-dir={folder}", "--port={port}", "--forwarded-allow-ips=127.0.0.1")
    async with (
        applications.running("uvicorn", *options, folder=folder) as upstream,
        behind(upstream, tmp_path) as place,
        Browser() as ann,
    ):
        cookie = await place.cookie(ann)
        client = [str(applications.bin / "python"), str(tmp_path / "client.py"), f"{place.url}/files/", cookie]
        client += [str(tmp_path / "memory.json"), str(source)]

        def arrived() -> int:
            return sum(file.stat().st_size for file in files.iterdir() if not file.suffix)

        first = await asyncio.create_subprocess_exec(*client, stdout=asyncio.subprocess.DEVNULL)
        async with asyncio.timeout(60):
            while arrived() < size // 4:
                await asyncio.sleep(0.005)
        first.kill()
        await first.wait()
        await asyncio.sleep(0.5)  # the application notices
        kept = arrived()
        assert 0 < kept < size
        said = await output_of(client, tmp_path)
        began, address = re.findall("(?:begins|ends) at (.*)", said)
        assert 0 < int(began) <= kept, "it went on where it was"
        assert address.startswith(f"{place.url}/files/"), "the application knows how people call it"
        page = await ann.get(f"{place.url}/kept/{address.rpartition('/')[2]}")
        assert (page.status, hashlib.sha256(page.body).hexdigest()) == (200, digest)


# ── git ──

GIT_SERVER = """
import sys
from wsgiref.simple_server import make_server
from dulwich.web import WSGIRequestHandlerLogger, WSGIServerLogger
from klaus import make_app

port, project = sys.argv[1:]
app = make_app([project], "the projects", use_smarthttp=True, unauthenticated_push=True)
make_server("127.0.0.1", int(port), app, WSGIServerLogger, WSGIRequestHandlerLogger).serve_forever()
"""
AUTHOR = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    **{f"GIT_{role}_{field}": "ann@example.test" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")},
}


async def test_git_clones_pushes_and_fetches_and_people_see_it(
    applications: Applications, system_program: Callable[[str], str], tmp_path: Path
) -> None:
    git = system_program("git")

    async def run(*options: str, at: str = ".") -> str:
        return await output_of([git, "-C", at, *options], tmp_path, AUTHOR)

    await run("init", "--quiet", "--bare", "--initial-branch=main", "project.git")
    (tmp_path / "server.py").write_text(GIT_SERVER)
    options = (str(tmp_path / "server.py"), "{port}", str(tmp_path / "project.git"))
    async with (
        applications.running("python", *options, folder=tmp_path / "klaus") as upstream,
        behind(upstream, tmp_path) as place,
        Browser() as ann,
    ):
        with pytest.raises(AssertionError, match="could not read Username"):
            await run("clone", "--quiet", f"{place.url}/project", "stranger")
        signed_in = ("-c", f"http.extraHeader=Cookie: {await place.cookie(ann)}")
        await run(*signed_in, "clone", "--quiet", f"{place.url}/project", "mine")
        await run("checkout", "--quiet", "-b", "main", at="mine")
        (tmp_path / "mine" / "read me").write_text("six times seven\n" * 20_000)  # so that requests are compressed
        large = secrets.token_bytes(5 * MEGABYTE)  # beyond http.postBuffer, so that git sends chunks
        (tmp_path / "mine" / "large").write_bytes(large)
        await run("add", ".", at="mine")
        await run("commit", "--quiet", "--message", "The answer", at="mine")
        await run(*signed_in, "push", "--quiet", "origin", "main", at="mine")
        await run(*signed_in, "clone", "--quiet", f"{place.url}/project", "theirs")
        assert (tmp_path / "theirs" / "large").read_bytes() == large
        await run("commit", "--quiet", "--allow-empty", "--message", "And another", at="theirs")
        await run(*signed_in, "push", "--quiet", "origin", "main", at="theirs")
        await run(*signed_in, "pull", "--quiet", "origin", "main", at="mine")
        assert (await run("log", "--format=%s", at="mine")).split("\n")[:2] == ["And another", "The answer"]
        page = await ann.navigate(f"{place.url}/project/")
        assert (page.status, "And another" in page.text) == (200, True)
        raw = await ann.fetch(f"{place.url}/project/raw/main/large")
        assert raw.body == large


# ── calendars ──

EVENT = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//test//EN
BEGIN:VEVENT
UID:lunch
DTSTAMP:20260101T000000Z
DTSTART:20260102T120000Z
DTEND:20260102T130000Z
SUMMARY:{summary}
END:VEVENT
END:VCALENDAR
""".replace("\n", "\r\n")
PRINCIPAL = '<?xml version="1.0"?><propfind xmlns="DAV:"><prop><current-user-principal/></prop></propfind>'
QUERY = (
    '<?xml version="1.0"?><C:calendar-query xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:caldav"><D:prop><D:getetag/>'
    '<C:calendar-data/></D:prop><C:filter><C:comp-filter name="VCALENDAR"><C:comp-filter name="VEVENT">'
    '<C:time-range start="20260102T000000Z" end="20260103T000000Z"/></C:comp-filter></C:comp-filter></C:filter>'
    "</C:calendar-query>"
)


async def test_a_calendar_server_knows_who_is_there_from_the_header(applications: Applications, tmp_path: Path) -> None:
    folder = tmp_path / "radicale"
    options = ["--server-hosts=127.0.0.1:{port}", "--auth-type=http_x_remote_user", "--config="]
    options += [f"--storage-filesystem-folder={folder / 'kept'}", "--rights-type=owner_only", "--auth-delay=0"]
    names = {"identity": {"headers": {"X-Remote-User": "preferred_username"}}}
    async with (
        applications.running("radicale", *options, folder=folder) as upstream,
        behind(upstream, tmp_path, names) as place,
        Browser() as ann,
        Browser() as bob,
    ):
        await place.cookie(ann, "ann")
        await place.cookie(bob, "bob")
        calendar = f"{place.url}/ann/work/"

        async def dav(who: Browser, method: str, url: str, data: str = "", **headers: str) -> Page:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            return await who.request(method, url, headers=given, data=data.encode() or None)

        well_known = await dav(ann, "PROPFIND", f"{place.url}/.well-known/caldav")
        assert (well_known.status, well_known.location) == (301, "/")
        assert "/ann/" in (await dav(ann, "PROPFIND", f"{place.url}/", PRINCIPAL, Depth="0")).text
        assert (await dav(ann, "MKCALENDAR", calendar)).status == 201
        event = f"{calendar}lunch.ics"
        put = await dav(
            ann, "PUT", event, EVENT.format(summary="Lunch"), Content_Type="text/calendar", If_None_Match="*"
        )
        assert put.status == 201
        tag = put.headers["ETag"]
        again = await dav(
            ann, "PUT", event, EVENT.format(summary="No"), Content_Type="text/calendar", If_None_Match="*"
        )
        assert again.status == 412
        late = await dav(ann, "PUT", event, EVENT.format(summary="No"), Content_Type="text/calendar", If_Match='"old"')
        assert late.status == 412
        new = await dav(ann, "PUT", event, EVENT.format(summary="Dinner"), Content_Type="text/calendar", If_Match=tag)
        assert (new.status, new.headers["ETag"] != tag) == (204, True)
        report = await dav(ann, "REPORT", calendar, QUERY, Depth="1", Content_Type="text/xml")
        assert (report.status, "SUMMARY:Dinner" in report.text) == (207, True)
        assert (await dav(bob, "GET", event)).status == 403
        for spoof in ({"X_Remote_User": "ann"}, {"x-remote-user": "ann"}, {"X_REMOTE-USER": "ann"}):
            assert (await dav(bob, "GET", event, **spoof)).status == 403
        assert (await dav(bob, "MKCALENDAR", f"{place.url}/bob/mine/")).status == 201
        assert (await dav(ann, "DELETE", event, If_Match=new.headers["ETag"])).status == 200
        assert (await dav(ann, "GET", event)).status == 404


# ── Jupyter ──


async def executed(channels: Any, code: str) -> str:
    """What the kernel says that the code results in (Jupyter's messaging protocol 5.3)."""
    identifier = uuid.uuid4().hex
    header = {"msg_id": identifier, "username": "", "session": uuid.uuid4().hex, "msg_type": "execute_request"}
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    header |= {"version": "5.3", "date": "2026-01-01T00:00:00Z"}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    await channels.send_json({**message, "buffers": []})
    async with asyncio.timeout(60):
        while True:
            heard = await channels.receive_json()
            if heard["parent_header"].get("msg_id") == identifier and heard["msg_type"] == "execute_result":
                return str(heard["content"]["data"]["text/plain"])


async def test_a_notebook_server_runs_a_kernel_over_a_websocket(applications: Applications, tmp_path: Path) -> None:
    folder = tmp_path / "jupyter"
    options = ["server", "--allow-root", "--ServerApp.port={port}", "--ServerApp.port_retries=0", "--no-browser"]
    options += ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder / 'notebooks'}"]
    (folder / "notebooks").mkdir(parents=True)
    async with (
        applications.running("jupyter", *options, folder=folder) as upstream,
        behind(upstream, tmp_path) as place,
        Browser() as ann,
    ):
        await place.cookie(ann)
        assert (await ann.navigate(f"{place.url}/")).status == 200  # which gives the cookie against forgery
        forgery = {"X-XSRFToken": ann.cookies.get("_xsrf") or "", "Content-Type": "application/json"}
        started = await ann.fetch(f"{place.url}/api/kernels", method="POST", data=b"{}", headers=forgery)
        assert started.status == 201, started.text
        kernel = f"/api/kernels/{started.json()['id']}"
        assert started.location == kernel
        channels = await ann.websocket(f"{place.url.replace('http', 'ws')}{kernel}/channels")
        assert await executed(channels, "6 * 7") == "42"
        assert await executed(channels, "len('x' * 3_000_000)") == "3000000"
        assert len(await executed(channels, "'x' * 3_000_000")) == 3_000_002
        await channels.close()
        assert channels.close_code == 1000
        with pytest.raises(WSServerHandshakeError, match="403"):
            await ann.websocket(f"{place.url.replace('http', 'ws')}{kernel}/channels", origin="https://evil.test")
        interrupted = await ann.fetch(f"{place.url}{kernel}/interrupt", method="POST", headers=forgery)
        assert interrupted.status == 204
        ended = await ann.fetch(f"{place.url}{kernel}", method="DELETE", headers=forgery)
        assert ended.status == 204

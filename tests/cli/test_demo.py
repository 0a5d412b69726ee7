"""`oidc-proxy demo`: the first thing that people type, and what they then see with curl (F253)."""

from __future__ import annotations

import asyncio
import html
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urljoin

import pytest

from tests.real.parts import Process, free_port
from tests.serving import COMMAND

CURL = shutil.which("curl")
PEOPLE = [("ann", "/staff/ops"), ("bob", "/staff/sales"), ("eve", "")]

pytestmark = pytest.mark.skipif(CURL is None, reason="no curl")


class Demo:
    """A running demo, and a person at a terminal with curl and a cookie jar."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://localhost:{port}"
        self.jar, self._log = folder / "jar", folder / "output"
        self.process = Process([*COMMAND, "demo", "--port", str(port)], self._log)

    @property
    def output(self) -> str:
        return self._log.read_text()

    async def curl(self, *arguments: str) -> tuple[int, str, str]:
        """Status, final URL and body, with redirects followed as a browser does."""
        told = "\n%{http_code} %{url_effective}"
        command = [str(CURL), "-s", "-L", "-b", str(self.jar), "-c", str(self.jar), "-w", told]
        command += ["--max-time", "20", "-H", "Accept: text/html", *arguments]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, said = await process.communicate()
        assert process.returncode == 0, said.decode()
        body, _, end = out.decode().rpartition("\n")
        status, _, url = end.partition(" ")
        return int(status), url, body

    async def sign_in(self, path: str, name: str, password: str) -> tuple[int, str, str]:
        """Open the page, and fill in the form that comes."""
        status, url, body = await self.curl(f"{self.url}{path}")
        form = re.search(r'<form id="sign-in" method="post" action="([^"]+)"', body)
        assert form is not None, (status, body)
        fields = ["--data-urlencode", f"username={name}", "--data-urlencode", f"password={password}"]
        return await self.curl(*fields, urljoin(url, html.unescape(form[1])))


@asynccontextmanager
async def running_demo(folder: Path) -> AsyncIterator[Demo]:
    demo = Demo(folder)
    demo.process.start()
    try:
        for _ in range(1000):
            if "Open" in demo.output:
                break
            assert demo.process.running(), demo.output
            await asyncio.sleep(0.02)
        yield demo
    finally:
        await asyncio.to_thread(demo.process.stop)


@pytest.mark.parametrize(("name", "group"), PEOPLE)
async def test_f253_everybody_in_the_greeting_can_sign_in_with_curl(tmp_path: Path, name: str, group: str) -> None:
    async with running_demo(tmp_path) as demo:
        assert f"{demo.url}/\n" in demo.output
        assert re.search(rf"^ +{name} / {name} +{group or 'no groups'}$", demo.output, re.MULTILINE)
        status, url, body = await demo.sign_in("/wiki/a%2Fb?x=1&d=%20+", name, name)
        assert (status, url) == (200, f"{demo.url}/wiki/a%2Fb?x=1&d=%20+")
        assert "The proxy says that you are" in body
        assert f"{name}@example.test" in body
        assert '<th scope="row">Authorization</th><td>Bearer …(' in body
        status, _, body = await demo.curl(f"{demo.url}/admin/")
        assert status == (200 if group == "/staff/ops" else 403)
        assert "Traceback" not in demo.output


async def test_f253_the_public_page_a_wrong_password_and_signing_out(tmp_path: Path) -> None:
    async with running_demo(tmp_path) as demo:
        status, url, body = await demo.curl(f"{demo.url}/public/")
        assert (status, url) == (200, f"{demo.url}/public/")
        assert "The proxy names nobody" in body
        status, _, body = await demo.sign_in("/", "ann", "wrong")
        assert 'role="alert"' in body
        status, url, body = await demo.sign_in("/", "ann", "ann")
        assert (status, url) == (200, f"{demo.url}/")
        status, url, body = await demo.curl(f"{demo.url}/oauth2/sign_out")
        assert "<h1>Sign out?</h1>" in body
        status, url, body = await demo.curl("-H", f"Origin: {demo.url}", "--data", "", f"{demo.url}/oauth2/sign_out")
        assert (status, url.partition("?")[0]) == (200, f"{demo.url}/oauth2/signed_out")
        status, url, body = await demo.curl(f"{demo.url}/")
        assert 'name="password"' in body


async def test_f253_the_other_name_of_this_machine_works_as_well(tmp_path: Path) -> None:
    async with running_demo(tmp_path) as demo:
        demo.url = demo.url.replace("localhost", "127.0.0.1")
        status, url, body = await demo.sign_in("/x", "eve", "eve")
        assert (status, url) == (200, f"{demo.url}/x")
        assert "eve@example.test" in body


async def test_f253_control_c_ends_it(tmp_path: Path) -> None:
    async with running_demo(tmp_path) as demo:
        await demo.sign_in("/", "ann", "ann")
        demo.process._signal(signal.SIGINT)
        for _ in range(250):
            if not demo.process.running():
                break
            await asyncio.sleep(0.02)
        assert not demo.process.running()
        assert "Traceback" not in demo.output


def test_f253_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, "demo", "--port", str(port)], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert f"cannot listen on port {port}" in done.stderr
    assert "Traceback" not in done.stderr

"""Log lines on their way out, and readers that are slow, gone, or were never there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from oidc_proxy.server import outlet
from oidc_proxy.server.outlet import LIMIT, Outlet
from tests.serving import COMMAND
from tests.world import free_port

ROOT = Path(__file__).parent.parent.parent


class Pipe:
    """A pipe, of which the outlet has one end and a reader the other."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def read(self) -> bytes:
        """What is there now."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.reader, 1 << 20):
                data += piece
        return data

    def close(self) -> None:
        for end in (self.reader, self.writer):
            with contextlib.suppress(OSError):
                os.close(end)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def numbered(count: int, size: int = 100, start: int = 0) -> list[bytes]:
    return [b"%d %b\n" % (number, b"x" * size) for number in range(start, start + count)]


async def test_lines_are_written_together_and_soon(pipe: Pipe) -> None:
    out = Outlet(pipe.writer)
    for line in numbered(20):
        out.add(line)
    assert pipe.read() == b""
    await asyncio.sleep(outlet.PAUSE + 0.05)
    assert pipe.read() == b"".join(numbered(20))
    await asyncio.sleep(outlet.PAUSE + 0.05)
    assert pipe.read() == b""


async def test_much_is_not_kept_back(pipe: Pipe) -> None:
    out = Outlet(pipe.writer)
    for line in numbered(400):
        out.add(line)
    assert len(pipe.read()) >= outlet.FULL, "without a turn of the loop"


async def test_what_is_urgent_goes_at_once_and_after_what_came_before(pipe: Pipe) -> None:
    out = Outlet(pipe.writer)
    out.add(b"1\n")
    out.add(b"2\n", urgent=True)
    assert pipe.read() == b"1\n2\n"
    out.add(b"3\n")
    out.close()
    assert pipe.read() == b"3\n"


def test_without_a_loop_nothing_is_lost(pipe: Pipe) -> None:
    out = Outlet(pipe.writer)
    out.add(b"1\n")
    out.add(b"2\n")
    out.close()
    assert pipe.read() == b"1\n2\n"


async def test_a_slow_reader_stops_nobody_and_gets_whole_lines(pipe: Pipe) -> None:
    recovered: list[int] = []
    out = Outlet(pipe.writer, recovered.append)
    sent = numbered(20_000, 200)
    began = time.perf_counter()
    for line in sent:
        out.add(line)
    assert time.perf_counter() - began < 2
    await asyncio.sleep(0.3)
    assert out.lost > 0
    assert not recovered, "there is no room yet"
    data = b""
    for _ in range(2000):
        data += pipe.read()
        if recovered:
            break
        await asyncio.sleep(0.002)
    data += pipe.read()
    got = data.splitlines(keepends=True)
    assert got == sent[: len(got)], "the last ones are those that are lost"
    assert recovered == [out.lost] == [len(sent) - len(got)]
    assert LIMIT < len(data) < LIMIT + 2**17
    out.add(b"after\n", urgent=True)
    assert pipe.read() == b"after\n"


async def test_a_line_that_is_larger_than_the_pipe_arrives(pipe: Pipe) -> None:
    out = Outlet(pipe.writer)
    sent = [b"a\n", b"x" * 300_000 + b"\n", b"b\n"]
    for line in sent:
        out.add(line, urgent=True)
    data = b""
    while len(data) < sum(map(len, sent)):
        data += pipe.read()
        await asyncio.sleep(0.001)
    assert data == b"".join(sent)
    assert out.lost == 0


async def test_a_reader_that_went_away_is_said_once_and_counted(pipe: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    recovered: list[int] = []
    out = Outlet(pipe.writer, recovered.append)
    os.close(pipe.reader)
    for number in range(1, 4):
        out.add(b"a\n")
        out.add(b"b\n", urgent=True)
        assert out.lost == 2 * number
    assert capsys.readouterr().err == "oidc-proxy: standard output: Broken pipe; log lines are lost\n"
    assert not recovered


async def test_a_full_disk_that_is_emptied() -> None:
    """/dev/full takes nothing; what stands in its place takes all again."""
    device = os.open("/dev/full", os.O_WRONLY)
    recovered: list[int] = []
    out = Outlet(device, recovered.append)
    out.add(b"a\n", urgent=True)
    assert (out.lost, recovered) == (1, [])
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, out._descriptor)
    out.add(b"b\n", urgent=True)
    assert (out.lost, recovered) == (1, [1])
    out.add(b"c\n", urgent=True)
    assert recovered == [1], "it is told once"
    for descriptor in (device, null, out._descriptor):
        os.close(descriptor)


async def test_others_who_write_to_the_same_pipe_still_wait_as_they_are_used_to(pipe: Pipe) -> None:
    Outlet(pipe.writer).add(b"a\n", urgent=True)
    assert os.get_blocking(pipe.writer)


async def test_a_socket() -> None:
    """As of journald: it cannot be opened once more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        out = Outlet(ours.fileno())
        sent = numbered(3000, 200)
        for line in sent:
            out.add(line)
        theirs.setblocking(False)
        data = b""
        while len(data) < sum(map(len, sent)):
            with contextlib.suppress(BlockingIOError):
                data += theirs.recv(1 << 20)
            await asyncio.sleep(0.001)
        assert data == b"".join(sent)


async def test_a_file_behind_what_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("before\n")
    with file.open("ab") as opened:
        out = Outlet(opened.fileno())
        for line in numbered(5000):
            out.add(line)
        out.close()
    assert file.read_bytes() == b"before\n" + b"".join(numbered(5000))


WRITER = """
import asyncio, sys
from oidc_proxy.server.outlet import Outlet
async def main(name):
    out = Outlet(1)
    for number in range(6000):
        out.add(b"%d %d %b\\n" % (name, number, b"x" * (number * 37 % 700)))
        while out._size > 200_000:
            await asyncio.sleep(0.001)
    while out._size:
        await asyncio.sleep(0.001)
asyncio.run(main(int(sys.argv[1])))
"""


async def test_workers_that_share_a_slow_pipe_do_not_write_into_each_others_lines(pipe: Pipe) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(number)], stdout=pipe.writer, cwd=ROOT)
        for number in range(3)
    ]
    os.close(pipe.writer)
    data = b""
    os.set_blocking(pipe.reader, True)
    while piece := await asyncio.to_thread(os.read, pipe.reader, 5000):
        data += piece
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for line in data.splitlines():
        writer, number, rest = line.split(b" ")
        assert rest == b"x" * (int(number) * 37 % 700)
        seen[int(writer)].append(int(number))
    assert list(seen.values()) == [list(range(6000))] * 3


# ── stories of a whole gateway ──


@contextlib.asynccontextmanager
async def gateway(folder: Path, **process: Any) -> AsyncIterator[tuple[subprocess.Popen[bytes], str, str]]:
    """`oidc-proxy serve` with this standard output; its public and its administration address."""
    public, private = (f"127.0.0.1:{free_port()}" for _ in range(2))
    config = {
        "public_url": f"http://{public}",
        "listen": {"address": public},
        "admin": {"address": private},
        "provider": {"issuer": "https://op.test", "client_id": "app", "client_secret": "s" * 20},
        "upstream": "http://127.0.0.1:1",
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    file.chmod(0o600)
    with subprocess.Popen([*COMMAND, "serve", "--config", str(file)], **process) as running:
        try:
            await until_alive(running, f"http://{private}/livez")
            yield running, f"http://{public}", f"http://{private}"
        finally:
            running.terminate()
            await asyncio.to_thread(running.wait, 10)


async def until_alive(running: subprocess.Popen[bytes], url: str) -> None:
    async with aiohttp.ClientSession() as http, asyncio.timeout(20):
        while running.poll() is None:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(url) as answer:
                    assert answer.status == 200
                    return
            await asyncio.sleep(0.05)
    raise AssertionError(f"it ended with {running.returncode}")


async def lost_lines(admin: str) -> float:
    async with aiohttp.ClientSession() as http, http.get(f"{admin}/metrics") as answer:
        found = re.search(r"^oidc_proxy_log_lines_lost_total (.+)$", await answer.text(), re.MULTILINE)
        assert found
        return float(found[1])


async def test_a_gateway_whose_log_nobody_reads_goes_on_and_says_what_was_lost(pipe: Pipe, tmp_path: Path) -> None:
    agent = "x" * 8000
    async with gateway(tmp_path, stdout=pipe.writer) as (_, url, admin), aiohttp.ClientSession() as http:
        for _ in range(300):
            async with http.get(f"{url}/x", headers={"User-Agent": agent}) as answer:
                assert answer.status == 401
        lost = await lost_lines(admin)
        assert 0 < lost < 300
        data = b""
        async with asyncio.timeout(10):
            while b"log.lines_lost" not in data:
                data += pipe.read()
                await asyncio.sleep(0.01)
    told = [json.loads(line) for line in (data + pipe.read()).splitlines()]
    assert [line["event"] for line in told if line["type"] == "app"] == ["startup", "log.lines_lost", "shutdown"]
    assert [line["lines"] for line in told if line.get("event") == "log.lines_lost"] == [lost]
    assert len([line for line in told if line["type"] == "access"]) == 300 - lost


async def test_a_gateway_whose_log_is_closed_goes_on_and_says_so_on_standard_error(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    closed: dict[str, Any] = {"stderr": errors.open("wb"), "preexec_fn": lambda: os.close(1)}
    async with gateway(tmp_path, **closed) as (running, url, admin), aiohttp.ClientSession() as http:
        for _ in range(3):
            async with http.get(f"{url}/x") as answer:
                assert answer.status == 401
                assert b'"type":"access"' not in await answer.read(), "no socket was taken for standard output"
        async with asyncio.timeout(5):
            while await lost_lines(admin) < 4:
                await asyncio.sleep(0.05)
    closed["stderr"].close()
    assert running.returncode == 0
    said = [line for line in errors.read_text().splitlines() if line.startswith("oidc-proxy:")]
    assert said == ["oidc-proxy: standard output: Bad file descriptor; log lines are lost"]

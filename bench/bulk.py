"""Large bodies over blocking sockets, so cheap that only what is between them is measured. Linux only.

Bytes that nobody looks at are dropped in the kernel (MSG_TRUNC), and those that are sent come from a file (sendfile).
``python -m bench.bulk PORT FILE`` is the backend: GET gives the file, or as many bytes of it as the query says; PUT
takes a body and answers with its size and its SHA-256, or with the size only where the target is not /file.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PIECE = 1 << 20
PATIENCE = 120
"""Seconds that a socket may stand still."""
_PART = re.compile(rb"GET /file\?(\d+) ")
_LENGTH = re.compile(rb"(?im)^content-length:\s*(\d+)\s*$")


@dataclass(frozen=True, slots=True)
class Moved:
    """A body that has arrived whole; ``digest`` is SHA-256 as seen at its far end, or empty."""

    size: int
    seconds: float
    digest: str = ""


def download(port: int, head: str, *, digest: bool) -> Moved:
    """Ask for a file. RuntimeError for any answer but a whole 200."""
    began = time.perf_counter()
    with _connected(port) as line:
        line.sendall(f"GET /file HTTP/1.1\r\n{head}\r\n".encode())
        size, sum_ = _body_of_answer(line, digest=digest)
    return Moved(size, time.perf_counter() - began, sum_)


def upload(port: int, head: str, file: Path, *, digest: bool) -> Moved:
    """Send a file. RuntimeError for any answer but a 200 that tells what was received."""
    began, size = time.perf_counter(), file.stat().st_size
    with _connected(port) as line, file.open("rb") as body:
        line.sendall(f"PUT /{'file' if digest else 'count'} HTTP/1.1\r\n{head}Content-Length: {size}\r\n\r\n".encode())
        line.sendfile(body)
        start, rest = _head(line)
        expected = _expected(start)
        while len(rest) < expected:
            rest += line.recv(PIECE)
    seconds = time.perf_counter() - began
    received, sum_ = rest.decode().split(" ")
    if int(received) != size:
        raise RuntimeError(f"the backend got {received} bytes of {size}")
    return Moved(size, seconds, sum_)


@contextlib.contextmanager
def _connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port)) as line:
        _prepare(line)
        yield line


def _prepare(line: socket.socket) -> None:
    line.settimeout(None)  # Python's own would ask the kernel twice for every piece
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        line.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", PATIENCE, 0))
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _head(line: socket.socket) -> tuple[bytes, bytes]:
    """A head, and what has come with it of the body. EOFError where nothing comes."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = line.recv(65536)
        if not piece:
            raise EOFError
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n", rest


def _expected(head: bytes) -> int:
    found = _LENGTH.search(head)
    if not head.startswith(b"HTTP/1.1 200 ") or found is None:
        raise RuntimeError(f"not a 200 with a length: {head[:200]!r}")
    return int(found[1])


def _body_of_answer(line: socket.socket, *, digest: bool) -> tuple[int, str]:
    head, rest = _head(line)
    size = _expected(head)
    return size, _take(line, rest, size, digest=digest)


def _take(line: socket.socket, rest: bytes, size: int, *, digest: bool) -> str:
    """Read a body to its end; EOFError where it ends too early."""
    room, sum_, left = bytearray(PIECE), hashlib.sha256(rest), size - len(rest)
    view = memoryview(room)
    while left > 0:
        count = line.recv_into(view, min(left, PIECE), 0 if digest else socket.MSG_TRUNC)
        if not count:
            raise EOFError(f"{left} bytes of {size} are missing")
        if digest:
            sum_.update(view[:count])
        left -= count
    return sum_.hexdigest() if digest else ""


# ── slow readers ──


def read_slowly(port: int, head: str, readers: int, size: int, piece: int, pause: float, seconds: float) -> list[int]:
    """Each reader asks for so many bytes and takes a piece at a time; what each has got, head included, at the end.

    Their receive buffers are small, as a slow client's window is. EOFError when one loses its answer.
    """
    lines = []
    for _ in range(readers):
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * piece)
        line.connect(("127.0.0.1", port))
        line.sendall(f"GET /file?{size} HTTP/1.1\r\n{head}\r\n".encode())
        line.setblocking(False)
        lines.append(line)
    taken, end = [0] * readers, time.monotonic() + seconds
    while time.monotonic() < end:
        for number, line in enumerate(lines):
            with contextlib.suppress(BlockingIOError):
                got = len(line.recv(piece))
                if not got:
                    raise EOFError(f"reader {number} lost its answer after {taken[number]} bytes")
                taken[number] += got
        time.sleep(pause)
    for line in lines:
        line.close()
    return taken


# ── the backend ──


def serve(listening: socket.socket, file: Path) -> None:
    threading.stack_size(256 * 1024)
    while True:
        try:
            line, _ = listening.accept()
        except OSError:  # shut down
            return
        threading.Thread(target=_converse, args=(line, file), daemon=True).start()


def _converse(line: socket.socket, file: Path) -> None:
    with line, contextlib.suppress(EOFError, OSError):
        _prepare(line)
        while True:
            head, rest = _head(line)
            if head.startswith(b"GET"):
                asked = _PART.match(head)
                size = int(asked[1]) if asked else file.stat().st_size
                line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                with file.open("rb") as body:
                    line.sendfile(body, 0, size)
                continue
            found = _LENGTH.search(head)
            size = int(found[1]) if found else 0
            answer = f"{size} {_take(line, rest, size, digest=head.startswith(b'PUT /file'))}".encode()
            line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))


if __name__ == "__main__":
    serve(socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024), Path(sys.argv[2]))

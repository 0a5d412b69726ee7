"""Listening sockets, before anybody accepts from them: TCP ports, Unix domain sockets, and what was passed on."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

BACKLOG = 1024

Sockets: TypeAlias = Sequence[socket.socket]


def open_sockets(address: str, workers: int = 1, mode: int = 0o660) -> list[Sockets]:
    """What each of the workers listens on at this address; an OSError says why it cannot be had.

    Of a TCP port each worker gets a socket of its own: the kernel spreads connections evenly, and those that a worker
    has not accepted when it dies wait in the socket for its successor, as long as somebody else holds it. A Unix domain
    socket, or one that was passed on, is the same for all.
    """
    if address.startswith("unix:"):
        return [[_unix(Path(address.removeprefix("unix:")), mode)]] * workers
    if address.startswith("fd:"):
        return [[_passed_on(int(address.removeprefix("fd:")))]] * workers
    host, _, port = address.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    places = list(dict.fromkeys((family, place) for family, _, _, _, place in found))
    alone = [_tcp(family, place) for family, place in places]
    if workers == 1:
        return [alone]
    # Bound alone first: a port that others share already would be had without a word.
    taken = [(each.family, each.getsockname()) for each in alone]
    for each in alone:
        each.close()
    return [[_tcp(family, place, shared=True) for family, place in taken] for _ in range(workers)]


def reserve(address: str) -> Sockets:
    """A TCP port for several that will share it and listen by themselves: bound, so that nobody else can have it."""
    alone = open_sockets(address)[0]
    taken = [(each.family, each.getsockname()) for each in alone]
    for each in alone:
        each.close()
    return [_tcp(family, place, shared=True, listens=False) for family, place in taken]


def forget_socket(address: str) -> None:
    """Remove the file of a Unix domain socket that nobody listens on any more."""
    if address.startswith("unix:"):
        path = Path(address.removeprefix("unix:"))
        if _is_stale(path):
            path.unlink(missing_ok=True)


def _tcp(family: int, place: object, *, shared: bool = False, listens: bool = True) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(place)  # type: ignore[arg-type]
        return _listening(made) if listens else made
    except BaseException:
        made.close()
        raise


def _unix(path: Path, mode: int) -> socket.socket:
    if _is_stale(path):
        path.unlink()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)  # never open to more than it shall be, not even for a moment
    try:
        made.bind(str(path))
    except BaseException:
        made.close()
        raise
    finally:
        os.umask(before)
    return _listening(made)


def _is_stale(path: Path) -> bool:
    """Whether there is a socket file that nobody listens on."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _passed_on(number: int) -> socket.socket:
    """The socket with this number. It is closed for programs that we might start, as all of ours are."""
    wrong = OSError(errno.ENOTSOCK, f"descriptor {number} is no socket that listens for connections")
    try:
        passed = socket.socket(fileno=number)
    except OSError:
        raise wrong from None
    if not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or passed.type != socket.SOCK_STREAM:
        passed.detach()  # it is somebody else's
        raise wrong
    passed.set_inheritable(False)
    passed.setblocking(False)
    return passed


def _listening(made: socket.socket) -> socket.socket:
    made.setblocking(False)
    made.listen(BACKLOG)
    return made

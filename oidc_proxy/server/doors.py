"""Everything that a process listens on, opened before there are several of them."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Self

from ..config import Config
from .front import open_sockets
from .front.sockets import BACKLOG, Sockets, forget_socket, reserve


@dataclass(frozen=True, slots=True)
class Doors:
    """What one process listens on.

    ``peers`` has the names of the sockets on which the workers of this gateway ask one another, in their order, and
    ``worker`` says which of them this one is; with a single process there are none. ``ledger`` is memory, as a file, in
    which a worker leaves to its successor what it has counted.
    """

    public: Sockets
    redirect: Sockets
    admin: Sockets
    private: Sockets = ()
    peers: tuple[bytes, ...] = ()
    worker: int = 0
    ledger: int | None = None
    grpc: Sockets = ()
    """Nobody listens on these: they keep the port that workers share from everybody else."""
    checks: Sockets = ()
    """Where other proxies ask, if they have a listener to themselves."""

    @classmethod
    def open(cls, config: Config) -> list[Self]:
        """The doors of each worker. OSError when an address cannot be had."""
        listen, count = config.listen, config.listen.workers
        public = open_sockets(listen.address, count, int(listen.socket_mode, 8))
        redirect = open_sockets(listen.redirect_https, count) if listen.redirect_https else [()] * count
        # Whichever worker takes an administrator's connection answers for all.
        admin = open_sockets(config.admin.address)[0] if config.admin.address else ()
        private = [_private() for _ in range(count)] if count > 1 else []
        asked = config.forward_auth
        checks = open_sockets(asked.address, count, int(listen.socket_mode, 8)) if asked.address else [()] * count
        grpc = reserve(asked.grpc.address) if asked.grpc is not None and count > 1 else ()
        names = tuple(each.getsockname() for each in private)
        return [
            cls(
                public[number],
                redirect[number],
                admin,
                private[number : number + 1],
                names,
                number,
                _ledger(count),
                grpc,
                checks[number],
            )
            for number in range(count)
        ]

    @property
    def sockets(self) -> list[socket.socket]:
        """All of them."""
        return [*self.public, *self.redirect, *self.admin, *self.private, *self.grpc, *self.checks]

    def close(self) -> None:
        """Close them in this process."""
        for each in self.sockets:
            each.close()


def forget_doors(config: Config) -> None:
    """Remove what would be left in the file system."""
    asked = config.forward_auth
    for address in (config.listen.address, asked.address, asked.grpc and asked.grpc.address):
        if address:
            forget_socket(address)


def _ledger(workers: int) -> int | None:
    return os.memfd_create("oidc_proxy-ledger") if workers > 1 else None


def _private() -> socket.socket:
    """Without a file, since the root file system may be read-only; who may connect is asked of the kernel."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(b"\0oidc_proxy-" + os.urandom(16).hex().encode())
    made.setblocking(False)
    made.listen(BACKLOG)
    return made

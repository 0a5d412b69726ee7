"""Envoy asks over gRPC (`ext_authz`): a port of its own, and its messages as values. The only file that knows gRPC.

Every question gets an answer. An error of gRPC is none: Envoy lets the request pass where it is told to fail open.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote

from ..errors import SettingsFault
from ..forward_auth import Answer, GrpcSettings, GrpcTlsSettings, Question
from .front.sockets import Sockets
from .front.tls import server_context

MESSAGE_BYTES = 1 << 20
"""Longest question. Envoy takes no more than 60 KiB of headers unless it is told to."""
MOST = 1000
"""Checks under way, beyond which there is no time for another one."""
PATIENCE = 30.0
"""Seconds that a check may take, whatever the caller would wait."""
OF_DEADLINE = 0.9
"""Share of the caller's time after which it gets an answer: when that is over, it hears none."""

Check: TypeAlias = Callable[[str, Question, float | None], Awaitable[Answer]]

_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"
"""HealthCheckResponse (grpc.health.v1), as it is sent."""
_UNAUTHENTICATED, _PERMISSION_DENIED = 16, 7


class GrpcTls:
    """The certificate that Envoy sees, and whose it must show. Both can be exchanged: connections do not notice."""

    def __init__(self, settings: GrpcTlsSettings) -> None:
        """SettingsFault when a file cannot be used."""
        self._settings = settings
        self._current = self._load()

    @property
    def files(self) -> list[Path]:
        """What is read."""
        given = (self._settings.cert_file, self._settings.key_file, self._settings.client_ca_file)
        return [path for path in given if path is not None]

    def renew(self) -> None:
        """Read the files again, for handshakes from now on. SettingsFault, and the old ones stay, when they are bad."""
        self._current = self._load()

    def credentials(self) -> Any:
        """What gRPC listens with. It asks before each handshake whether there is something new."""
        import grpc

        used = self._current

        def renewed() -> Any:  # called in a thread of gRPC's own
            nonlocal used
            current = self._current
            if current is used:
                return None
            used = current
            return grpc.ssl_server_certificate_configuration(*current)

        first = grpc.ssl_server_certificate_configuration(*used)
        must_show = self._settings.client_ca_file is not None
        return grpc.dynamic_ssl_server_credentials(first, renewed, require_client_authentication=must_show)

    def _load(self) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        given = self._settings
        try:
            chain, *others = [path.read_bytes() for path in self.files]
        except OSError as error:
            raise SettingsFault([f"forward_auth.grpc.tls cannot be set up: {error}"]) from error
        # gRPC does not say what is wrong with a file; OpenSSL does.
        server_context("forward_auth.grpc.tls", given.cert_file, given.key_file, given.client_ca_file)
        key = others[0] if given.key_file is not None else chain
        return [(key, chain)], others[-1] if given.client_ca_file is not None else None


class GrpcDoor:
    """Where Envoy asks over gRPC. SettingsFault if what it takes is not installed, or a certificate cannot be used.

    ``mode`` has the permissions of a Unix domain socket's file.
    """

    def __init__(self, settings: GrpcSettings | None, check: Check, mode: int = 0o660) -> None:
        self._settings, self._check, self._mode = settings, check, mode
        if settings is not None and not (find_spec("grpc") and find_spec("envoy")):
            raise SettingsFault(["forward_auth.grpc needs grpcio and xds-protos: pip install oidc-proxy[grpc]"])
        self.tls = GrpcTls(settings.tls) if settings is not None and settings.tls is not None else None
        self.port = 0
        self.draining = False
        self._under_way = 0
        self._server: Any = None

    async def open(self, reserved: Sockets = ()) -> None:
        """Listen, if the settings say so; on the port that is ``reserved`` for several processes, if it is.

        OSError when the address cannot be had.
        """
        if self._settings is None:
            return
        # Imported here because a gateway that nobody asks this way need not pay for it, nor have it; and gRPC must not
        # have begun anything in a process that forks.
        import grpc

        # Without SO_REUSEPORT, unless there are several: a port that others have would be had without a word.
        options = [
            ("grpc.so_reuseport", int(bool(reserved))),
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.max_concurrent_streams", 2 * MOST),  # those beyond get an answer, too
        ]
        self._server = grpc.aio.server(options=options)
        services = {
            "envoy.service.auth.v3.Authorization": self._authorization(),
            "grpc.health.v1.Health": self._health,
        }
        for name, method in services.items():
            handler = grpc.unary_unary_rpc_method_handler(method)
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Check": handler}),))
        self.port = self._bind(_address(self._settings.address, reserved))
        await self._server.start()

    def _bind(self, address: str) -> int:
        before = os.umask(0o777 & ~self._mode) if address.startswith("unix:") else None
        try:
            if self.tls is not None:
                return int(self._server.add_secure_port(address, self.tls.credentials()))
            return int(self._server.add_insecure_port(address))
        except RuntimeError:
            raise OSError(errno.EADDRNOTAVAIL, f"{address} cannot be had for forward_auth.grpc") from None
        finally:
            if before is not None:
                os.umask(before)

    async def close(self, grace: float) -> None:
        """Take no more questions; those under way have ``grace`` seconds to be answered."""
        if self._server is not None:
            await self._server.stop(grace)

    # ── what it is called for ──

    def _authorization(self) -> Callable[[bytes, Any], Awaitable[bytes]]:
        from envoy.service.auth.v3 import external_auth_pb2
        from google.protobuf.message import DecodeError

        async def check(data: bytes, context: Any) -> bytes:
            try:
                question = _question(external_auth_pb2.CheckRequest.FromString(data))
            except DecodeError:
                question = Question()  # which is answered as what it is: a bad request
            self._under_way += 1
            try:
                patience = _patience(context.time_remaining()) if self._under_way <= MOST else None
                answer = await self._check(peer_address(context.peer()), question, patience)
            finally:
                self._under_way -= 1
            response = external_auth_pb2.CheckResponse()
            _fill(response, answer)
            return bytes(response.SerializeToString())

        return check

    async def _health(self, _data: bytes, _context: Any) -> bytes:
        return _NOT_SERVING if self.draining else _SERVING


def _address(address: str, reserved: Sockets) -> str:
    host, _, _ = address.rpartition(":")
    return f"{host}:{reserved[0].getsockname()[1]}" if reserved else address


def _patience(remaining: float | None) -> float:
    return PATIENCE if remaining is None else min(PATIENCE, remaining * OF_DEADLINE)


def peer_address(peer: str) -> str:
    """``ipv4:192.0.2.1:4711`` → 192.0.2.1; of a Unix domain socket, this machine's own. Empty for anything else."""
    kind, _, rest = peer.partition(":")
    if kind in {"unix", "unix-abstract"}:
        return "127.0.0.1"
    if kind not in {"ipv4", "ipv6"}:
        return ""
    return unquote(rest).rpartition(":")[0].strip("[]").partition("%")[0]


def _question(message: Any) -> Question:
    request = message.attributes.request.http
    raw = request.header_map.headers  # with encode_raw_headers: each line, and its very bytes
    return Question(
        method=request.method,
        host=request.host,
        target=request.path,
        headers=tuple((line.key.encode(), line.raw_value or line.value.encode()) for line in raw)
        or tuple((name.encode(), value.encode()) for name, value in request.headers.items()),
        extensions=dict(message.attributes.context_extensions),
    )


def _fill(response: Any, answer: Answer) -> None:
    if answer.status == 200:
        told = response.ok_response
        told.headers_to_remove.extend(answer.removed)
        told.SetInParent()
    else:
        response.status.code = _UNAUTHENTICATED if answer.status == 401 else _PERMISSION_DENIED
        told = response.denied_response
        told.status.code = answer.status
        told.body = answer.body.decode()
    for name, value in answer.headers:
        line = told.headers.add()
        line.header.key, line.header.value = name, value
        line.append_action = line.OVERWRITE_IF_EXISTS_OR_ADD

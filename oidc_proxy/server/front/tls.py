"""The certificate that clients see."""

from __future__ import annotations

import ssl
from pathlib import Path

from oidc_proxy.errors import SettingsFault
from oidc_proxy.server.front.settings import ListenTlsSettings

# With forward secrecy and authenticated encryption only; TLS 1.3 has no others (RFC 9325 §4.2).
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class ServerTls:
    """``context`` is for listeners. What it presents can be exchanged: connections that are there do not notice."""

    def __init__(self, settings: ListenTlsSettings) -> None:
        """SettingsFault when a file cannot be used."""
        self._settings = settings
        self.context = self._current = self._load()
        self.context.sni_callback = self._choose

    @property
    def files(self) -> list[Path]:
        """What is read."""
        return [path for path in (self._settings.cert_file, self._settings.key_file) if path is not None]

    def renew(self) -> None:
        """Read the files again, for handshakes from now on. SettingsFault, and the old ones stay, when they are bad."""
        self._current = self._load()

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        # OpenSSL asks here in every handshake, with the name that the client wants to see or without one.
        if self._current is not context:
            connection.context = self._current

    def _load(self) -> ssl.SSLContext:
        context = server_context("listen.tls", self._settings.cert_file, self._settings.key_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS)
        context.set_alpn_protocols(["http/1.1"])
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        return context


def server_context(
    setting: str, cert_file: Path, key_file: Path | None, client_ca_file: Path | None = None
) -> ssl.SSLContext:
    """A context for servers with what is in these files. SettingsFault when one of them cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A password callback of our own: without one, OpenSSL would ask for it on the terminal.
        context.load_cert_chain(cert_file, key_file, password=_no_password)
        if client_ca_file is not None:
            context.load_verify_locations(client_ca_file)
    except (OSError, ValueError) as error:
        names = " and ".join(str(path) for path in (cert_file, key_file, client_ca_file) if path is not None)
        raise SettingsFault([f"{setting} cannot be set up with {names}: {error}"]) from error
    return context


def _no_password() -> str:
    raise ValueError("the private key is encrypted; give one without a pass phrase")

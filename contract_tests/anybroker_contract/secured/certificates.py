"""Certificates made for one run, by the authority that clients trust and by another one."""

from __future__ import annotations

import datetime
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme

from ..brokers.tcp import PROBE_SECONDS
from .credentials import USER

__all__ = ["HOST", "OTHER_HOST", "Certificates", "Pair", "shakes_hands"]

HOST = "localhost"
"""The host that the servers' certificates are for."""
OTHER_HOST = "127.0.0.1"
"""The same server under a name that they are not for."""


@dataclass(frozen=True)
class Pair:
    """PEM files of a certificate with its chain, of its key, and of all together."""

    cert: Path
    key: Path
    both: Path


class Certificates:
    """The files, in one folder. Keys are PKCS #8, which every server reads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority, self._stranger = trustme.CA(), trustme.CA()
        self.authority = self._write("authority.pem", self._authority.cert_pem.bytes())
        """The authority of the server and of the client."""
        self.stranger = self._write("stranger.pem", self._stranger.cert_pem.bytes())
        """An authority that signed nothing here but :attr:`foreign_client`."""
        yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        self.server = self._pair("server", self._authority.issue_cert(HOST))
        self.expired = self._pair("expired", self._authority.issue_cert(HOST, not_after=yesterday))
        self.client = self._pair("client", self._authority.issue_cert("client@anybroker.test", common_name=USER))
        self.foreign_client = self._pair("foreign", self._stranger.issue_cert("client@anybroker.test"))

    def _pair(self, name: str, leaf: trustme.LeafCert) -> Pair:
        chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
        key = _pkcs8(leaf.private_key_pem.bytes())
        return Pair(
            self._write(f"{name}.pem", chain),
            self._write(f"{name}-key.pem", key),
            self._write(f"{name}-both.pem", key + chain),
        )

    def _write(self, name: str, data: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(data)
        path.chmod(0o644)  # a server that refuses root runs as another user
        return path


def shakes_hands(port: int, authority: Path) -> None:
    """One attempt at a TLS handshake, as a readiness probe: raises ``OSError``."""
    context = ssl.create_default_context(cafile=authority)
    with (
        socket.create_connection(("127.0.0.1", port), PROBE_SECONDS) as connection,
        context.wrap_socket(connection, server_hostname=HOST),
    ):
        pass


def _pkcs8(pem: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(pem, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

"""Small helpers for the probes, which speak each protocol by hand so that no client library is needed."""

from __future__ import annotations

import socket

from .waiting import NotYet

__all__ = ["connect", "exactly", "line"]

PROBE_SECONDS = 5.0
"""How long one step of one attempt may take."""


def connect(host: str, port: int) -> socket.socket:
    """A connection whose every operation ends within 5 s."""
    return socket.create_connection((host, port), PROBE_SECONDS)


def exactly(connection: socket.socket, size: int) -> bytes:
    """The next ``size`` bytes; raises ``NotYet`` when the peer closes before."""
    data = bytearray()
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise NotYet("it closed the connection")
        data += chunk
    return bytes(data)


def line(connection: socket.socket) -> str:
    """The next line, without its CR LF; raises ``NotYet`` when the peer closes before."""
    data = bytearray()
    while not data.endswith(b"\r\n"):
        data += exactly(connection, 1)
    return data[:-2].decode(errors="replace")

"""One attempt to log in to an AMQP 0-9-1 broker and open its default virtual host, by hand."""

from __future__ import annotations

import socket
import struct

from .tcp import connect, exactly
from .waiting import NotYet

__all__ = ["answers"]

START, START_OK = (10, 10), (10, 11)
TUNE, TUNE_OK = (10, 30), (10, 31)
OPEN, OPEN_OK = (10, 40), (10, 41)
CLOSE, CLOSE_OK = (10, 50), (10, 51)

FRAME_END = b"\xce"


def answers(host: str, port: int) -> None:
    """Log in as guest and open ``/``: the listener is up earlier than the queues. Raises ``OSError``, ``NotYet``."""
    with connect(host, port) as connection:
        connection.sendall(b"AMQP\0\0\x09\x01")
        _expect(connection, START)
        login = b"\0guest\0guest"
        _send(connection, START_OK, struct.pack(">I", 0) + b"\x05PLAIN" + _long(login) + b"\x05en_US")
        limits = _expect(connection, TUNE)[:8]
        _send(connection, TUNE_OK, limits)
        _send(connection, OPEN, b"\x01/\0\0")
        _expect(connection, OPEN_OK)
        _send(connection, CLOSE, struct.pack(">HBHH", 200, 0, 0, 0))
        _expect(connection, CLOSE_OK)


def _long(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _send(connection: socket.socket, method: tuple[int, int], arguments: bytes) -> None:
    payload = struct.pack(">HH", *method) + arguments
    connection.sendall(struct.pack(">BHI", 1, 0, len(payload)) + payload + FRAME_END)


def _expect(connection: socket.socket, method: tuple[int, int]) -> bytes:
    """The arguments of the next method frame, heartbeats left out."""
    while True:
        kind, _, size = struct.unpack(">BHI", exactly(connection, 7))
        payload = exactly(connection, size + 1)[:-1]
        if kind == 8:
            continue
        got = struct.unpack_from(">HH", payload)
        if kind != 1 or got != method:
            raise NotYet(f"it answers {payload[4:].decode('ascii', errors='replace')!r}")
        return payload[4:]

"""Commands of the NATS protocol that a member of a group writes: answers to deliveries, and pulls."""

from __future__ import annotations

from typing import Final

from .names import PRIORITY_GROUP

__all__ = ["ACK", "NAK", "PROGRESS", "pull_command", "pull_request", "touch_request"]

ACK: Final = b" 0\r\n\r\n"
"""What follows ``PUB <reply>`` to acknowledge a delivery, …"""
NAK: Final = b" 4\r\n-NAK\r\n"
"""… to have it delivered again at once, …"""
PROGRESS: Final = b" 4\r\n+WPI\r\n"
"""… and to start its lease anew."""

_LANE: Final = PRIORITY_GROUP.encode()


def pull_command(stream: str, consumer: str, inbox: bytes, body: bytes) -> bytes:
    """A pull, whose messages and end go to the inbox."""
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}".encode()
    return b"PUB %b %b %d\r\n%b\r\n" % (subject, inbox, len(body), body)


def pull_request(batch: int, expires: int, max_bytes: int, pin: bytes | None) -> bytes:
    """The body of a pull. ``expires`` in nanoseconds; ``pin``: None where the group is unordered, empty without one."""
    group = b',"group":"%b"' % _LANE if pin is not None else b""
    id = b',"id":"%b"' % pin if pin else b""
    return b'{"batch":%d,"expires":%d,"max_bytes":%d%b%b}' % (batch, expires, max_bytes, group, id)


def touch_request(pin: bytes) -> bytes:
    """The body of a pull that keeps the pin and gets nothing: no message fits."""
    return b'{"batch":1,"no_wait":true,"max_bytes":1,"group":"%b","id":"%b"}' % (_LANE, pin)

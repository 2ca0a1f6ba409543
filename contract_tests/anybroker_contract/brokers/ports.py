"""Free ports on loopback that stay reserved although nothing listens on them yet."""

from __future__ import annotations

import random
import socket
import sys
import threading

from .errors import BrokerFailed

__all__ = ["free_port"]

FIRST, LAST = 20000, 32000
"""Below the range from which Linux takes the local ports of outgoing connections (32768-60999): otherwise a client
that reconnects while its broker restarts could be given the broker's own port."""

_reserved: dict[int, int | None] = {}
"""Port -> the descriptor of its reservation, open until this process ends."""
_lock = threading.Lock()


def free_port() -> int:
    """A TCP port on 127.0.0.1 on which nothing listens, not given to anyone else until this process ends.

    On Linux that holds between processes too (ten suites side by side): the reservation is an abstract Unix socket,
    which the kernel takes back when its process ends, however it ends.
    """
    with _lock:
        # Not seeded: several processes that start together must not try the same ports in the same order.
        for port in random.SystemRandom().sample(range(FIRST, LAST), 500):
            if port in _reserved:
                continue
            claim = _claim(port)
            if claim is None and sys.platform == "linux":
                continue
            if not _unused(port):
                if claim is not None:
                    claim.close()
                continue
            # Without its object, which would complain about being unclosed when this process ends.
            _reserved[port] = None if claim is None else claim.detach()
            return port
    raise BrokerFailed(f"no free port between {FIRST} and {LAST} on 127.0.0.1")


def _claim(port: int) -> socket.socket | None:
    if sys.platform != "linux":
        return None
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(f"\0anybroker-port-{port}")
    except OSError:  # another process has it
        claim.close()
        return None
    return claim


def _unused(port: int) -> bool:
    # Both addresses: some brokers bind every interface, and 127.0.0.1 alone may be free while 0.0.0.0 is taken.
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True

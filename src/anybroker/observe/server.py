"""``bus.add(HealthServer("127.0.0.1:8080"))``: health and metrics over HTTP, from a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from ..errors import ConfigError, StateError
from .answers import Answers, Exposes, Healthy
from .health import BLOCKED_LIMIT

if TYPE_CHECKING:
    from ._http import Server

__all__ = ["HealthServer"]

_EVERY = 0.1
"""Seconds between two looks whether it is to end."""


class HealthServer:
    """A part that answers ``/live``, ``/ready``, ``/health`` and ``/metrics`` while the Bus starts, runs and closes,
    also while its event loop is blocked.

    :param address: ``host:port``. ``:8080`` listens on all interfaces, as a probe of Kubernetes needs; port 0 takes a
        free one (:attr:`port`).
    :param metrics: what ``/metrics`` is answered with: an object with ``exposition``.
    :param blocked_limit: seconds for which the event loop may be blocked until ``/live`` says 503.

    ``/live`` and ``/ready`` are 200 with ``ok``, or 503 with the reasons, a line each. ``/health`` is ``bus.health()``
    as JSON, 200 while the Bus is live and ready. GET and HEAD. Nothing asks for a password: keep strangers away.
    Raises ConfigError for a wrong address; the start of the Bus does where it cannot listen there.
    """

    name = "health"
    early = True

    def __init__(
        self,
        address: str = "127.0.0.1:8080",
        *,
        metrics: Exposes | None = None,
        blocked_limit: float = BLOCKED_LIMIT,
    ) -> None:
        self._address = address
        self._host, self._port = _parse(address)
        self._metrics = metrics
        if not blocked_limit > 0:
            raise ConfigError("HealthServer(blocked_limit=)", f"{blocked_limit!r} is not a number of seconds over 0")
        self._blocked_limit = blocked_limit
        self._answers: Answers | None = None
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    def attach(self, bus: Healthy, /) -> None:
        """Called by ``bus.add``. ConfigError where it is in a Bus already."""
        if self._answers is not None:
            raise ConfigError(f"HealthServer({self._address!r})", "is in a Bus already", "Make another one.")
        self._answers = Answers(bus, self._metrics, self._blocked_limit)

    @property
    def port(self) -> int:
        """Where it listens. StateError while it does not."""
        if self._server is None:
            raise StateError("HealthServer.port: it does not listen yet")
        return self._server.server_port

    @property
    def problem(self) -> str | None:
        """That its thread has ended; None otherwise."""
        if self._thread is None or self._thread.is_alive():
            return None
        return "its thread has ended: health checks are not answered"

    async def start(self) -> None:
        """Listen. ConfigError where that cannot be."""
        from ._http import Server  # here: not every Bus has a server, and http.server takes its time to import

        if self._answers is None:
            raise StateError("HealthServer: it belongs to no Bus. Use bus.add(HealthServer(…))")
        try:
            server = self._server = Server(self._host, self._port, self._answers)
        except OSError as exc:
            raise ConfigError(
                f"HealthServer({self._address!r})",
                f"cannot listen there: {exc.strerror or exc}",
                "Choose another port, or end what has it.",
            ) from exc
        self._thread = threading.Thread(
            target=server.serve_forever, args=(_EVERY,), name="anybroker health", daemon=True
        )
        self._thread.start()

    async def stop(self, _drain: float, /) -> None:
        """Listen no more."""
        server, self._server = self._server, None
        thread, self._thread = self._thread, None
        if server is not None:
            try:
                if thread is not None and thread.is_alive():
                    # Not in the loop's executor: what the program runs there may keep all of its threads.
                    threading.Thread(target=server.shutdown, name="anybroker health ends", daemon=True).start()
                    while thread.is_alive():  # noqa: ASYNC110 - a thread sets no event of the loop
                        await asyncio.sleep(_EVERY / 10)
            finally:
                server.server_close()


def _parse(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ConfigError(
            "HealthServer(address)",
            f"{address!r} is not host:port, the port at most 65535",
            "Write 127.0.0.1:8080, [::1]:8080 or :8080.",
        )
    return host, int(port)

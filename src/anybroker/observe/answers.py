"""What a health check is answered: the same over the Bus's own server and over ASGI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..adapter import Backlog
from ..engine.observing import Observer
from ..engine.seldom import Seldom
from ..errors import StateError
from ..printable import logger
from .health import BLOCKED_LIMIT, Health

__all__ = ["PATHS", "Answer", "Answers", "Exposes", "Healthy"]

_log = logger("anybroker.health")

PATHS = ("/live", "/ready", "/health", "/metrics")
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"


class Healthy(Protocol):
    """What is needed of a Bus."""

    def health(self, *, blocked_limit: float = BLOCKED_LIMIT) -> Health:
        """How it is now."""
        ...

    def observe(self, observer: Observer, /) -> None:
        """Attach an observer. StateError while the Bus runs."""
        ...


class Exposes(Protocol):
    """Metrics that can be scraped, such as :class:`anybroker.observe.PrometheusMetrics`."""

    def exposition(self, accept: str, /) -> tuple[bytes, str]:
        """The metrics and their content type, for a scraper that accepts this (its ``Accept`` header)."""
        ...


class _WantsLag(Observer):
    """That one is attached has the broker asked for the lag, which ``/health`` shows."""

    def lag(self, topic: str, group: str, backlog: Backlog) -> None:
        """The Bus keeps it."""


@dataclass(frozen=True)
class Answer:
    """To one request."""

    status: int
    content_type: str
    body: bytes


class Answers:
    """Those of one Bus. Called in any thread; never raises."""

    def __init__(self, bus: Healthy, metrics: Exposes | None, blocked_limit: float) -> None:
        self._bus = bus
        self._metrics = metrics
        self._blocked_limit = blocked_limit
        self._say = Seldom()
        try:
            bus.observe(_WantsLag())
        except StateError:  # it runs already: without the lag, then
            pass

    def to(self, method: str, path: str, accept: str) -> Answer:
        """What this is answered. ``path`` may have a query, which is ignored."""
        path = path.partition("?")[0]
        if path not in PATHS:
            return _text(404, f"there is {', '.join(PATHS)}")
        if method not in ("GET", "HEAD"):
            return _text(405, "only GET and HEAD")
        try:
            return self._scraped(accept) if path == "/metrics" else self._looked_at(path)
        except Exception:  # noqa: BLE001 - metrics are somebody else's
            if times := self._say():  # anybody may ask, as often as they like
                _log.exception("%s could not be answered (%d times since this was said last)", path, times)
            return _text(500, "it failed: see the log")

    def _looked_at(self, path: str) -> Answer:
        health = self._bus.health(blocked_limit=self._blocked_limit)
        if path == "/health":
            return Answer(_status(health.live and health.ready), _JSON, health.as_json().encode() + b"\n")
        well = health.live if path == "/live" else health.ready
        return _text(_status(well), "ok" if well else "\n".join(health.why))

    def _scraped(self, accept: str) -> Answer:
        if self._metrics is None:
            return _text(
                404,
                "no metrics are given here: HealthServer(…, metrics=PrometheusMetrics()), or anybroker run with "
                "the extra anybroker[prometheus] installed",
            )
        body, content_type = self._metrics.exposition(accept)
        return Answer(200, content_type, body)


def _status(well: bool) -> int:
    return 200 if well else 503


def _text(status: int, text: str) -> Answer:
    return Answer(status, _TEXT, text.encode("utf-8", "replace") + b"\n")

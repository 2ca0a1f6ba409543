"""Where each service shows its metrics and its health, and what they say while the shop runs (``--observe``)."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from prometheus_client.parser import text_string_to_metric_families as parse
from rich.table import Table

from anybroker import Bus
from anybroker.observe import HealthServer, PrometheusMetrics

__all__ = ["Figures", "Seen", "show", "table_of"]

_PLACE = "{}.port"
"""The file in which a service says where it answers."""
_LOOK_TIMEOUT = 1.0
"""Seconds that a service has to answer."""


def show(bus: Bus, name: str, folder: Path) -> None:
    """Let a service answer /metrics, /health, /ready and /live on a free port of 127.0.0.1, and write down which."""
    metrics = PrometheusMetrics()
    bus.observe(metrics)
    server = HealthServer("127.0.0.1:0", metrics=metrics)
    bus.add(server)
    bus.add(_Place(server, folder / _PLACE.format(name)))


class _Place:
    """A part that writes the server's port into a file."""

    name = "place"
    problem: str | None = None

    def __init__(self, server: HealthServer, file: Path) -> None:
        self._server = server
        self._file = file

    async def start(self) -> None:
        """The server is up: it starts early."""
        self._file.write_text(str(self._server.port), encoding="utf-8")

    async def stop(self, _drain: float, /) -> None:
        """The file stays: it says where the service was."""


@dataclass
class Figures:
    """One service, by its own metrics."""

    published: float = 0.0
    handled: float = 0.0
    """Starts that ended, whatever their outcome."""
    dead_letters: float = 0.0
    buckets: dict[float, float] = field(default_factory=dict)
    """Starts by the most seconds that they took."""
    ready: bool = False

    @classmethod
    def read(cls, text: str) -> Figures:
        """From what /metrics answered."""
        figures = cls()
        for family in parse(text):
            for sample in family.samples:
                if sample.name == "messaging_client_sent_messages_total":
                    figures.published += sample.value
                elif sample.name == "messaging_process_duration_seconds_count":
                    figures.handled += sample.value
                elif sample.name == "messaging_process_duration_seconds_bucket":
                    most = float(sample.labels["le"])
                    figures.buckets[most] = figures.buckets.get(most, 0.0) + sample.value
                elif sample.name == "anybroker_dead_letters_total":
                    figures.dead_letters += sample.value
                elif sample.name == "anybroker_ready":
                    figures.ready = bool(sample.value)
        return figures

    def within(self, part: float) -> float:
        """Seconds within which that part of the starts ended, as exactly as the buckets say."""
        return min((most for most, count in self.buckets.items() if count >= part * self.handled), default=0.0)


class Seen:
    """Looks at the services, one after the other."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self._folder = folder
        self._names = names
        self._before: dict[str, tuple[float, Figures]] = {}
        self.places: dict[str, str] = {}
        """By service, the URL of its metrics."""

    async def look(self) -> dict[str, tuple[Figures, float, float]]:
        """By service, its figures, and how many events a second it has published and handled since the last look. One
        that does not answer, such as one that was just killed, is left out."""
        found: dict[str, tuple[Figures, float, float]] = {}
        for name in self._names:
            try:
                port = (self._folder / _PLACE.format(name)).read_text(encoding="utf-8")
                self.places[name] = url = f"http://127.0.0.1:{port}/metrics"
                figures = Figures.read(await asyncio.to_thread(_get, url))
            except (OSError, ValueError):
                continue
            now = monotonic()
            then, before = self._before.get(name, (now, figures))
            seconds = max(now - then, 0.001)
            rates = [
                max(new - old, 0.0) / seconds
                for new, old in ((figures.published, before.published), (figures.handled, before.handled))
            ]
            self._before[name] = now, figures
            found[name] = figures, rates[0], rates[1]
        return found


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_LOOK_TIMEOUT) as answer:
        body: bytes = answer.read()
        return body.decode()


def table_of(looked: Mapping[str, tuple[Figures, float, float]], lag: Callable[[str], int | None]) -> Table:
    """One line for each service. ``lag``: the events that wait for it; None where the broker cannot say."""
    table = Table(box=None, pad_edge=False)
    table.add_column("service")
    for column in ("published/s", "handled/s", "lag", "p99 of a start", "dead letters", "ready"):
        table.add_column(column, justify="right")
    for name, (figures, published, handled) in looked.items():
        waits = lag(name)
        p99 = figures.within(0.99)
        slowest = f"≤ {p99 * 1000:,.0f} ms" if p99 < float("inf") else "> 10 s"
        table.add_row(
            name,
            f"{published:,.0f}",
            f"{handled:,.0f}",
            "?" if waits is None else f"{waits:,}",
            slowest if figures.handled else "–",
            f"{figures.dead_letters:,.0f}",
            "yes" if figures.ready else "[red]no[/]",
        )
    return table

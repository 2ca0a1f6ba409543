"""What being seen costs: microseconds per event in process, with nothing attached, logs, metrics and traces.

The events and the handler are those of ``in_process``. Processor time is measured, because nothing waits here. Traces
go to an SDK that samples each span and exports none, so that it is the library's part and the SDK's, and no exporter's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from unittest.mock import patch

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from anybroker import Bus, MemoryBroker, Observer, looking
from anybroker.observe import OpenTelemetryMetrics, PrometheusMetrics

from . import in_process

__all__ = ["CANDIDATES", "Candidate"]

Attach = Callable[[Bus], None]


def _no_more(_: Bus) -> None:
    """Every Bus has the logs."""


def _prometheus(bus: Bus) -> None:
    bus.observe(PrometheusMetrics())


def _opentelemetry(bus: Bus) -> None:
    bus.observe(OpenTelemetryMetrics())


@contextmanager
def _traced() -> Iterator[None]:
    """As if the program had set an SDK up, which it could not take back."""
    provider = TracerProvider()
    with patch.object(trace, "get_tracer_provider", lambda: provider):
        yield
    provider.shutdown()


@contextmanager
def _unlogged() -> Iterator[None]:
    """Every Bus has the logs: only here it has an observer that overrides nothing instead."""
    with patch.object(looking, "LogObserver", lambda _: Observer()):
        yield


class Candidate:
    """One thing to attach."""

    def __init__(self, attach: Attach, around: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self._attach = attach
        self._around = around

    def _bus(self, broker: MemoryBroker) -> Bus:
        bus = in_process.plain_bus(broker)
        self._attach(bus)
        return bus

    def publish(self) -> float:
        """µs an event."""
        with self._around():
            return in_process.publish(self._bus)

    def consume(self) -> float:
        """µs an event."""
        with self._around():
            return in_process.consume(self._bus)


CANDIDATES = {
    "nothing": Candidate(_no_more, _unlogged),
    "logs (the default)": Candidate(_no_more),
    "logs, Prometheus metrics": Candidate(_prometheus),
    "logs, OpenTelemetry metrics without an SDK": Candidate(_opentelemetry),
    "logs, traces": Candidate(_no_more, _traced),
}

"""``--health``: the health checks and the metrics of a Bus that a command runs."""

from __future__ import annotations

from importlib.util import find_spec

from ..bus import Bus
from ..observe import HealthServer, PrometheusMetrics
from ..printable import logger

__all__ = ["serve_health"]

_log = logger("anybroker.bus")


def serve_health(bus: Bus, address: str | None) -> None:
    """Answer there while the Bus runs; None: nowhere. Raises ConfigError."""
    if address is not None:
        bus.add(HealthServer(address, metrics=_metrics_of(bus)))


def _metrics_of(bus: Bus) -> PrometheusMetrics | None:
    """What /metrics answers with; None where the extra ``prometheus`` is not installed."""
    if find_spec("prometheus_client") is None:
        _log.warning("/metrics has nothing to show: pip install 'anybroker[prometheus]'")
        return None
    metrics = PrometheusMetrics()
    bus.observe(metrics)
    return metrics

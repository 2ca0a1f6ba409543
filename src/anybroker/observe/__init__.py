"""What a Bus tells of itself, for the person on call: logs, metrics and health.

>>> from anybroker.observe import HealthServer, PrometheusMetrics
>>> metrics = PrometheusMetrics()
>>> bus.observe(metrics)                                        # before it starts
>>> bus.add(HealthServer("127.0.0.1:8080", metrics=metrics))    # /live, /ready, /health, /metrics
"""

from __future__ import annotations

from .asgi import health_app
from .context import EventContext, add_event_context
from .health import Health, Lag, Problem, SubscriptionHealth
from .json_lines import JsonFormatter
from .metrics import Metrics
from .otel import OpenTelemetryMetrics
from .prometheus import PrometheusMetrics
from .server import HealthServer

__all__ = [
    "EventContext",
    "Health",
    "HealthServer",
    "JsonFormatter",
    "Lag",
    "Metrics",
    "OpenTelemetryMetrics",
    "Problem",
    "PrometheusMetrics",
    "SubscriptionHealth",
    "add_event_context",
    "health_app",
]

"""``anybroker observe``: a process that only watches, and the alert rules and the board that the package carries."""

from __future__ import annotations

import argparse
import logging
from importlib.resources import files

from ..errors import ConfigError
from ..observe import HealthServer, PrometheusMetrics
from ..printable import logger
from ._connect import looking_bus
from ._output import CONSOLE, log_to_stderr, write

__all__ = ["dashboard", "rules", "serve"]


def serve(options: argparse.Namespace) -> int:
    """Watch groups from outside, and serve their metrics until SIGTERM or Ctrl-C."""
    log_to_stderr(logging.INFO, CONSOLE, force=True)
    bus = looking_bus(options)
    metrics = PrometheusMetrics()
    bus.observe(metrics)
    for text in options.groups:
        topic, slash, group = text.partition("/")
        if not (topic and slash and group):
            raise ConfigError("TOPIC/GROUP", f"{text!r} names no group", "Write topic/group, such as orders/billing.")
        bus.watch(topic, group=group)
    bus.add(HealthServer(options.address, metrics=metrics))
    logger("anybroker.bus").info("watching %s; http://%s/metrics", ", ".join(options.groups), options.address)
    bus.run()
    return 0


def rules(_options: argparse.Namespace) -> int:
    """The alert rules for Prometheus, on stdout."""
    return _print("rules.yml")


def dashboard(_options: argparse.Namespace) -> int:
    """The board for Grafana, on stdout."""
    return _print("dashboard.json")


def _print(name: str) -> int:
    text = files("anybroker").joinpath("observe", "files", name).read_text(encoding="utf-8")
    for line in text.splitlines():
        write(line)
    return 0

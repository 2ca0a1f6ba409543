"""``anybroker describe``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from ..describe import BusDescription, PayloadDescription
from ._output import table, write, write_json
from ._run import find_bus

__all__ = ["describe"]


def describe(options: argparse.Namespace) -> int:
    """Say what a Bus is, without starting it."""
    found = find_bus(options.target).describe()
    if options.json:
        write_json(found.as_dict())
    else:
        _show(found)
    return 0


def _show(bus: BusDescription) -> None:
    write(f"source {bus.source or '(none)'}, broker {bus.broker}, provision {bus.provision}")
    if bus.publish_middleware:
        write(f"publish middleware: {_joined(bus.publish_middleware)}")
    if bus.topics:
        write()
        table(
            ("topic", "ordered", "key", "codec", "groups", "published here"),
            [
                (
                    topic.name,
                    "yes" if topic.ordered else "no",
                    topic.key or "",
                    topic.codec,
                    _joined(topic.groups),
                    _joined(map(_payload, topic.payloads)),
                )
                for topic in bus.topics
            ],
        )
    rows = [
        (
            f"{subscription.topic}/{subscription.group}",
            handler.name,
            _joined(handler.types) or "(the rest)",
            _joined(map(_payload, handler.payloads)),
            _joined(handler.middleware),
        )
        for subscription in bus.subscriptions
        for handler in subscription.handlers
    ]
    if rows:
        write()
        table(("subscription", "handler", "event types", "payload", "middleware"), rows)


def _joined(names: Iterable[str]) -> str:
    return ", ".join(names)


def _payload(payload: PayloadDescription) -> str:
    name = payload.name.rpartition(".")[2]
    return f"{name} (key {payload.key})" if payload.key else name

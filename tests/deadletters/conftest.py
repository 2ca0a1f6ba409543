"""Dead letters as they are read."""

from __future__ import annotations

from typing import Any

import pytest

from anybroker import DeadLetter, Event
from anybroker.adapter import Foreign, Inbound, Lane


def letter_of(event: Any = None, /, *, headers: dict[str, str] | None = None, **facts: str) -> DeadLetter:
    """A dead letter of "orders/billing"; ``facts`` by name, ``headers`` beside them."""
    if event is None or isinstance(event, dict | list):
        event = Event.create(event, source="shop", type="order.v1", id="o-1", key="k-1")
    told = {
        "reason": "no",
        "handler": "charge",
        "at": "2026-11-30T12:00:00.000Z",
        "topic": "orders",
        "group": "billing",
    }
    all_headers = {f"anybroker-dead-{name}": value for name, value in {**told, **facts}.items() if value}
    return DeadLetter.read(
        Inbound(event, Lane("orders", 0), 1, event.key, {**all_headers, **(headers or {})}, None), "orders", "billing"
    )


@pytest.fixture
def foreign() -> DeadLetter:
    return letter_of(Foreign(b"\xff", [("x", None)], "k"))

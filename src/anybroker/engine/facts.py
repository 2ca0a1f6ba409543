"""Which event a record of the log is about: the attributes by which it is found."""

from __future__ import annotations

from typing import Any, Final

from ..adapter import Foreign
from ..cloudevents.event import Event
from ..delivery import Delivery
from ..printable import printable
from .context import incoming

__all__ = ["FIELDS", "about", "about_delivery", "named", "short"]

FIELDS: Final = ("event_id", "event_type", "source", "topic", "group", "attempt", "trace_id", "correlation_id")
"""The attributes of a record."""
_LONGEST: Final = 512
"""Most characters of one of them."""
_LONGEST_IN_A_LINE: Final = 128
"""Most characters of an id or a type in a line."""


def about(
    topic: str, group: str, event: Event[Any] | Foreign | None = None, attempt: int | str = "", trace: str = ""
) -> dict[str, object]:
    """``extra`` of a record. What is not known is ``""``, so that a format can name every attribute."""
    if event is None or isinstance(event, Foreign):
        id_ = type_ = source = correlation = ""
    else:
        id_, type_, source = _text(event.id), _text(event.type), _text(event.source)
        correlation = _text(event.get("correlationid") or id_)
    values = (id_, type_, source, topic, group, attempt, trace, correlation)
    return dict(zip(FIELDS, values, strict=True))


def about_delivery(delivery: Delivery) -> dict[str, object]:
    """The same for a delivery."""
    parent = incoming(delivery).get("traceparent", "")
    return about(delivery.topic, delivery.group, delivery.event, delivery.attempt, parent[3:35])


def named(event: Event[Any] | Foreign) -> str:
    """It in a sentence."""
    if isinstance(event, Foreign):
        return "a message that is not a CloudEvent"
    return f"the event {short(event.id)!r} of type {short(event.type)!r}"


def short(text: str) -> str:
    """An id or a type, cut."""
    return text if len(text) <= _LONGEST_IN_A_LINE else f"{text[:_LONGEST_IN_A_LINE]}…"


def _text(value: object) -> str:
    text = str(value)
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")

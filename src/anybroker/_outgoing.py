"""Making an event of what ``publish`` was given: its key, its id when a handler publishes, its context."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

from .adapter import Foreign
from .config import TopicSettings
from .delivery import Delivery
from .errors import ConfigError
from .event import Event
from .middleware.trace import caused

__all__ = ["continue_cause", "key_reader"]


def continue_cause(event: Event[Any], cause: Delivery, topic: str, own_id: bool, headers: dict[str, str]) -> None:
    """Finish a new event that a handler publishes: causation, correlation, trace, and an id that a second run of the
    handler gives again, so that what it published before it crashed is recognised as a copy.

    Changes the event in place: it is new, and nobody else has it yet.
    """
    attributes = event._attributes
    source = cause.event
    cause.ordinal += 1
    if not own_id and not isinstance(source, Foreign):
        key = event.key or ""
        text = (
            f"{source.source}\0{source.id}\0{cause.group}\0{cause.handler}\0{topic}\0{event.type}"
            f"\0{key}\0{cause.ordinal}"
        )
        attributes["id"] = blake2b(text.encode(), digest_size=16).hexdigest()
    caused(cause, attributes, headers)


def key_reader(topic: str, settings: TopicSettings) -> Callable[[Event[Any]], str | None] | None:
    """The function for a topic's configured ``key``: ``data.field``, ``subject`` or an extension; None without one."""
    path = settings.key
    if path is None:
        return None
    first, *rest = path.split(".")
    if not all([first, *rest]) or (rest and first != "data") or (first == "data" and not rest):
        raise ConfigError(
            f"topics.{topic}.key", f"{path!r} is no path", "Write data.customer, subject, or an extension's name."
        )
    if not rest:
        return lambda event: _text(event.get(first), topic, path)

    def read(event: Event[Any]) -> str | None:
        value: Any = event.data
        for name in rest:
            if value is None:
                return None
            value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
        return _text(value, topic, path)

    return read


def _text(value: Any, topic: str, path: str) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool | float) or not isinstance(value, str | int):
        raise ConfigError(
            f"topics.{topic}.key", f"{path!r} of an event is a {type(value).__name__}", "Name a string or an integer."
        )
    return str(value)

"""Changing the data of a dead letter's event, and nothing else of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from ..adapter import Foreign
from ..cloudevents.event import Event, trusted_event
from ..cloudevents.media_type import media_type
from ..errors import ConfigError
from .letter import DeadLetter

__all__ = ["event_of", "is_json_event", "with_body", "with_fields"]

_ASSIGNMENT: Final = re.compile(r"\s*\.?data((?:\.[\w-]+|\[[0-9]{1,6}\])+)\s*=\s*(.*?)\s*", re.DOTALL)
_STEP: Final = re.compile(r"[\w-]+")


def event_of(letter: DeadLetter) -> Event[Any]:
    """Its event. ConfigError for a message that is not a CloudEvent."""
    if isinstance(letter.event, Foreign):
        raise ConfigError(
            "ID",
            f"{letter.id} is not a CloudEvent, and cannot be edited",
            "Export it, publish an event with its data, and discard it.",
        )
    return letter.event


def is_json_event(event: Event[Any]) -> bool:
    """Whether its data should be JSON: it says so, or says nothing."""
    return event.datacontenttype is None or media_type(event.datacontenttype).json


def with_body(event: Event[Any], body: bytes) -> Event[Any]:
    """The same event with these bytes as its data. ConfigError where they should be JSON, and are not."""
    if is_json_event(event):
        try:
            json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise ConfigError("--data", f"is not JSON, which is what the event holds: {exc}", "Correct it.") from None
    return trusted_event(dict(event.attributes), body)


def with_fields(event: Event[Any], assignments: Iterable[str]) -> Event[Any]:
    """The same event with fields of its data changed: ``data.customer.id=c-7``, ``data.items[0].cents=5``. A value is
    JSON, or else a text without quotes. The last name of a path may be new. ConfigError for what cannot be."""
    try:
        data = json.loads(event.body or b"") if is_json_event(event) else None
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict | list):
        raise ConfigError("--set", "the event's data are neither a JSON object nor an array", "Give --data instead.")
    for text in assignments:
        _assign(data, text)
    return trusted_event(dict(event.attributes), json.dumps(data, ensure_ascii=False).encode())


def _assign(data: Any, text: str) -> None:
    found = _ASSIGNMENT.fullmatch(text)
    if found is None:
        raise ConfigError(
            "--set", f"{text[:100]!r} is not an assignment", "Write data.cents=5, or data.items[0].sku=A-1."
        )
    value: Any
    try:
        value = json.loads(found[2])
    except (ValueError, RecursionError):
        value = found[2]
    *steps, last = _STEP.findall(found[1])
    there = data
    for step in steps:
        there = _below(there, step)
    if isinstance(there, dict):
        there[last] = value
    elif isinstance(there, list) and last.isdecimal() and int(last) < len(there):
        there[int(last)] = value
    else:
        raise _nowhere(text)


def _below(there: Any, step: str) -> Any:
    if isinstance(there, dict):
        return there.get(step)
    return there[int(step)] if isinstance(there, list) and step.isdecimal() and int(step) < len(there) else None


def _nowhere(text: str) -> ConfigError:
    return ConfigError(
        "--set", f"{text[:100]!r}: the event's data have no such place", "Only the last name may be new."
    )

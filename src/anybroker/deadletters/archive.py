"""Dead letters as lines of JSON, from which the same letters can be made again."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..adapter import Foreign
from ..cloudevents.attributes import check_attributes
from ..cloudevents.event import Event, trusted_event
from ..errors import ConfigError, EventError, InvalidEvent
from ..names import check_headers
from .letter import DeadLetter

__all__ = ["Archived", "line_of", "read_line"]

_FORMAT: Final = "anybroker dead letter 1"
_OURS: Final = "anybroker-dead-"


@dataclass(frozen=True)
class Archived:
    """A dead letter that was exported."""

    event: Event[Any] | Foreign
    headers: Mapping[str, str]
    """All transport headers, with the facts about its failure."""

    @property
    def id(self) -> str:
        """As :attr:`DeadLetter.id`."""
        if isinstance(self.event, Event):
            return self.event.id
        return f"{self.headers.get(_OURS + 'lane', '')}@{self.headers.get(_OURS + 'position', '')}"


def line_of(letter: DeadLetter) -> str:
    """The letter as one line, without its end: every attribute with its type, every header, and the body byte for
    byte, of a message that is not a CloudEvent too."""
    event = letter.event
    whole: dict[str, Any] = {"format": _FORMAT}
    if isinstance(event, Foreign):
        whole["foreign"] = [[name, None if value is None else _base64(value)] for name, value in event.headers]
        whole["key"] = event.key
    else:
        whole["attributes"] = {
            name: {"base64": _base64(value)} if isinstance(value, bytes) else value
            for name, value in event.attributes.items()
        }
    if event.body is not None:
        try:
            whole["body"] = event.body.decode()
        except UnicodeDecodeError:
            whole["body_base64"] = _base64(event.body)
    whole["headers"] = dict(letter.headers)
    return json.dumps(whole)


def read_line(line: str, number: int) -> Archived:
    """What :func:`line_of` wrote. ConfigError with the number of the line for anything else."""
    try:
        whole = json.loads(line)
        if whole["format"] != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT!r}")
        return Archived(_event(whole), _headers(whole["headers"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, EventError, ConfigError) as exc:
        raise ConfigError(
            f"line {number}",
            f"is not an exported dead letter: {type(exc).__name__}: {str(exc)[:200]}",
            "Give a file that 'anybroker dlq export' wrote.",
        ) from None


def _event(whole: Mapping[str, Any]) -> Event[Any] | Foreign:
    body: bytes | None = None
    if "body_base64" in whole:
        body = b64decode(whole["body_base64"], validate=True)
    elif "body" in whole:
        body = whole["body"].encode()
    if "foreign" in whole:
        headers = [
            (str.__str__(name), None if value is None else b64decode(value, validate=True))
            for name, value in whole["foreign"]
        ]
        if whole["key"] is not None and not isinstance(whole["key"], str):
            raise ValueError("its key is not text")
        return Foreign(body, headers, whole["key"], InvalidEvent("the message is not a CloudEvent; it was imported"))
    attributes: dict[str, Any] = {
        name: b64decode(value["base64"], validate=True) if isinstance(value, dict) else value
        for name, value in whole["attributes"].items()
    }
    check_attributes(attributes)
    return trusted_event(attributes, body)


def _headers(given: Mapping[str, Any]) -> dict[str, str]:
    """The user's, which must be fit for every broker, and the facts that the library wrote."""
    users = check_headers({name: value for name, value in given.items() if not name.startswith(_OURS)})
    facts = {name: value for name, value in given.items() if name.startswith(_OURS)}
    for name, value in facts.items():
        if not isinstance(value, str) or not value.isprintable() or not name.isascii() or not name.islower():
            raise ValueError(f"{name[:60]} is not what a dead letter says")
    return {**users, **facts}


def _base64(data: bytes) -> str:
    return b64encode(data).decode()

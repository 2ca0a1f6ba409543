"""Dead letters: what is written beside one, and how they are listed, shown and replayed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .adapter import Foreign, Inbound
from .delivery import Delivery
from .errors import DecodeError, InvalidEvent, Reject
from .event import Event

__all__ = ["DEAD_LETTER_GROUP", "DeadLetter", "dead_letter_headers", "dead_letter_topic"]

DEAD_LETTER_GROUP = "dlq"
"""The group that every dead-letter topic has, so that the dead letters wait for somebody to look."""

_PREFIX = "anybroker-dead-"
_REASON_LIMIT = 1024
_ERROR_LIMIT = 4096


def dead_letter_topic(topic: str, group: str) -> str:
    """The name of a group's dead-letter topic."""
    return f"{topic}.{group}.dlq"


def _reason(error: Exception) -> str:
    if isinstance(error, Reject):
        return error.reason
    if isinstance(error, InvalidEvent):
        return f"no CloudEvent: {error}"
    if isinstance(error, DecodeError):
        return f"undecodable: {error}"
    return f"{type(error).__name__}: {error}"


def _clip(text: str, limit: int) -> str:
    """Printable text of at most ``limit`` UTF-8 bytes; transport headers carry no line breaks."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    data = clean.encode("utf-8", "replace")
    return clean if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "…"


def _chain_of(error: BaseException) -> str:
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(parts) < 8:
        parts.append(f"{type(seen).__module__}.{type(seen).__qualname__}: {seen}")
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return " <- ".join(parts)


def dead_letter_headers(delivery: Delivery, error: Exception) -> dict[str, str]:
    """What stands beside a dead letter: the delivery's own transport headers, and the facts.

    ``reason`` is cut at 1 KiB and ``error`` (the exception with its causes) at 4 KiB.
    """
    headers = {name: value for name, value in delivery.headers.items() if not name.startswith("anybroker-")}
    facts = {
        "reason": _clip(_reason(error), _REASON_LIMIT),
        "error": _clip(_chain_of(error), _ERROR_LIMIT),
        "attempts": str(delivery.attempt),
        "topic": delivery.topic,
        "group": delivery.group,
        "handler": delivery.handler,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "lane": delivery.lane_state.lane.name,
        "position": str(delivery.inbound.position),
        "replays": delivery.headers.get("anybroker-replays", "0"),
    }
    headers.update((_PREFIX + name, value) for name, value in facts.items() if value)
    return headers


@dataclass(frozen=True)
class DeadLetter:
    """One dead letter, as it lies in the dead-letter topic."""

    event: Event[Any] | Foreign
    """The event, untouched; a Foreign where the message was no CloudEvent."""
    topic: str
    """Where it was published."""
    group: str
    """The group that failed."""
    reason: str
    error: str
    attempts: int
    """Handler starts."""
    handler: str
    died: str
    """When it was dead-lettered, RFC 3339."""
    replays: int
    """How often it was replayed before."""
    headers: Mapping[str, str]
    """All transport headers."""
    inbound: Inbound = field(repr=False)

    @classmethod
    def read(cls, inbound: Inbound, topic: str, group: str) -> DeadLetter:
        """From what a receiver of the dead-letter topic gave."""
        headers = inbound.headers

        def fact(name: str, default: str = "") -> str:
            return headers.get(_PREFIX + name, default)

        def number(name: str) -> int:
            text = fact(name, "0")
            return int(text) if text.isascii() and text.isdigit() else 0

        return cls(
            inbound.event,
            fact("topic", topic),
            fact("group", group),
            fact("reason", "unknown"),
            fact("error"),
            number("attempts"),
            fact("handler"),
            fact("at"),
            number("replays"),
            headers,
            inbound,
        )

    @property
    def id(self) -> str:
        """The event's id; for a foreign message the lane and position where it failed."""
        if isinstance(self.event, Foreign):
            lane = self.headers.get(_PREFIX + "lane", self.inbound.lane.name)
            return f"{lane}@{self.headers.get(_PREFIX + 'position', self.inbound.position)}"
        return self.event.id

    def replay_headers(self) -> dict[str, str]:
        """The transport headers of its way back: the facts of its death stay behind."""
        kept = {name: value for name, value in self.headers.items() if not name.startswith("anybroker-")}
        return {**kept, "anybroker-replays": str(self.replays + 1), "anybroker-replayed-at": f"{time.time():.3f}"}

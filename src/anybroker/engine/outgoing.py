"""What a published event needs besides its data: its configured key, its turn, and what a handler's event inherits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

from ..adapter import Foreign
from ..cloudevents.event import Event
from ..config.settings import TopicSettings
from ..delivery import Delivery
from ..errors import ConfigError
from .context import CONTEXT_HEADERS, caused

__all__ = ["Turn", "Turns", "continue_cause", "key_reader"]


class Turns:
    """Lets publishes through the publish middleware one at a time per topic and key, in the order of their calls."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], asyncio.Future[None]] = {}

    def take(self, topic: str, key: str) -> Turn:
        """A place at the end of the queue; its holder must :meth:`Turn.leave` it."""
        return Turn(self._last, (topic, key))


class Turn:
    """One place in the queue of a key."""

    __slots__ = ("_before", "_last", "_mine", "_where")

    def __init__(self, last: dict[tuple[str, str], asyncio.Future[None]], where: tuple[str, str]) -> None:
        self._last = last
        self._where = where
        self._before = last.get(where)
        self._mine = last[where] = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        """Wait until the publish before this one has left. Cancellation does not affect the others."""
        if self._before is not None and not self._before.done():
            await asyncio.wait((self._before,))

    def leave(self, _: object = None) -> None:
        """Let the next one go: at once, or after the one before has left if this one leaves early. Idempotent."""
        if self._before is not None and not self._before.done():
            self._before.add_done_callback(self._let_go)
        else:
            self._let_go()

    def _let_go(self, _: object = None) -> None:
        if not self._mine.done():
            self._mine.set_result(None)
            if self._last.get(self._where) is self._mine:
                del self._last[self._where]


def continue_cause(
    event: Event[Any], cause: Delivery, topic: str, own_id: bool, headers: dict[str, str], own_time: bool = False
) -> None:
    """Complete a new event that a handler publishes: causation, correlation, trace, and an id that a second run of the
    handler gives again, so that what it published before a crash is recognised as a copy.

    ``own_id``, ``own_time``: whether the caller gave them. Changes the event in place: it is new and not shared yet.
    """
    if not own_id and not isinstance(cause.event, Foreign):
        event._attributes["id"] = _derived_id(event, cause, topic, headers, own_time)
    caused(cause, event._attributes, headers)


def _derived_id(event: Event[Any], cause: Delivery, topic: str, headers: Mapping[str, str], own_time: bool) -> str:
    """A hash of the cause, the handler, and the event's content: attributes, data, headers.

    The position counts only among events with the same content. It must not tell other events apart: a second run may
    publish in another order, or publish one more, and an event with the id of another would be dropped as its copy.
    Data that differ between two runs cost a duplicate, never a loss.
    """
    source = cause.event
    said = event._attributes.copy()
    del said["id"]
    if not own_time:
        del said["time"]
    said.pop("traceparent", None)
    said.pop("tracestate", None)
    own_headers = sorted(pair for pair in headers.items() if pair[0] not in CONTEXT_HEADERS) if headers else ()
    body = event._body
    text = repr(
        (source.source, source.id, cause.topic, cause.group, cause.handler, topic, said, own_headers, body is None)
    )
    hashed = blake2b(text.encode(), digest_size=16)  # repr escapes what cannot be encoded
    if body:
        hashed.update(b"\0" + body)
    digest = hashed.digest()
    published = cause.published
    if published is None:
        published = cause.published = {}
    before = published.get(digest, 0)
    published[digest] = before + 1
    if not before:
        return digest.hex()
    return blake2b(b"%b%d" % (digest, before), digest_size=16).hexdigest()


def key_reader(topic: str, settings: TopicSettings) -> Callable[[Event[Any]], str | None] | None:
    """The function for a topic's configured ``key``: ``data.field``, ``subject`` or an extension; None without one."""
    path = settings.key
    if path is None:
        return None
    first, *rest = path.split(".")
    if not all([first, *rest]) or (rest and first != "data") or (first == "data" and not rest):
        raise ConfigError(
            f"topics.{topic}.key", f"{path!r} is not a path", "Write data.customer, subject, or an extension's name."
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

"""One dead letter: its headers, what is cut when they do not fit, and its fingerprint."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from socket import gethostname
from typing import Any

from ..adapter import Foreign, Inbound, count_of, number_of
from ..cloudevents.event import Event
from ..delivery import Attempt, Delivery
from ..engine import failures
from ..engine.failures import failures_of, now, titled
from ..errors import ConfigError, DecodeError, EventTooLarge, InvalidEvent, Reject, origin_of, text_of
from ..idempotency._parking import identity
from ..printable import clip, lines_again
from .reason import fingerprint_of
from .stack import Stack, stack_of

__all__ = [
    "DeadLetter",
    "ambiguous",
    "dead_letter_headers",
    "digest_of",
    "left_behind",
    "named",
    "reason_of",
    "replay_facts",
    "send_fitting",
]

_PREFIX = "anybroker-dead-"
_REPLAYS, _REPLAYED_AT, _EDITED = "anybroker-replays", "anybroker-replayed-at", "anybroker-edited"
_MOMENT = re.compile("[0-9]{1,12}[.][0-9]{3}")
_EDIT = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,12}Z from [0-9a-f]{16}")
_CLASS = re.compile(r"[\w.<>]{1,200}")
_REASON_LIMIT = 1024
_ERROR_LIMIT = 4096
_TRACEBACK_LIMIT = 8192
_HOST_LIMIT = 255
_PID_DIGITS = 10
_SHOWN = 10
"""Most dead letters named in one error."""
_PARKED = _PREFIX + "parked"
_REASON, _ERROR = _PREFIX + "reason", _PREFIX + "error"
_TRACEBACK, _HISTORY = _PREFIX + "traceback", _PREFIX + "history"
_CUT = {_TRACEBACK: 1024, _ERROR: 512, _REASON: 128}
"""The fewest bytes cut off at once: a broker may not say by how much a message is too large."""


def _reason(error: Exception) -> str:
    if isinstance(error, Reject):
        reason = getattr(error, "reason", error)  # a subclass may not have called our __init__
        return reason if isinstance(reason, str) else text_of(error)
    if isinstance(error, InvalidEvent):
        return f"not a CloudEvent: {error}"
    if isinstance(error, DecodeError):
        return f"undecodable: {error}"
    return f"{type(error).__name__}: {text_of(error)}"


def _chain_of(error: BaseException) -> str:
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(parts) < 8:
        parts.append(titled(seen))
        seen = origin_of(seen)
    return " <- ".join(parts)


def reason_of(error: Exception) -> str:
    """The reason in the dead letter: printable, at most 1 KiB."""
    return clip(_reason(error), _REASON_LIMIT)


@cache
def _where() -> Mapping[str, str]:
    """Where this program runs."""
    try:
        ours = version("anybroker")
    except PackageNotFoundError:  # a source tree on the path
        ours = ""
    return {"host": clip(gethostname(), _HOST_LIMIT), "version": ours}


def dead_letter_headers(delivery: Delivery, error: Exception) -> tuple[dict[str, str], Stack | None]:
    """The headers of a dead letter: the delivery's own transport headers, and the facts about its failure. And the
    traceback, from which :func:`send_fitting` cuts a shorter one.

    ``reason`` is cut at 1 KiB, ``error`` (the exception with its causes) at 4 KiB, and ``traceback`` at 8 KiB.
    """
    stack = stack_of(error)
    replayed = replay_facts(delivery)
    headers = dict(delivery.headers)
    facts = {
        "reason": reason_of(error),
        "error": clip(_chain_of(error), _ERROR_LIMIT),
        "attempts": str(delivery.attempt),
        "topic": delivery.topic,
        "group": delivery.group,
        "handler": delivery.handler,
        "at": now(),
        "lane": delivery.lane_state.lane.name,
        "position": str(delivery.inbound.position),
        "replays": replayed.get(_REPLAYS, "0"),
        "edited": replayed.get(_EDITED, ""),
        "traceback": "" if stack is None else stack.within(_TRACEBACK_LIMIT),
        "parked": getattr(delivery, "parked_as", ""),
        "history": failures.written(failures_of(delivery)),
        "pid": str(os.getpid()),
        **_where(),
    }
    headers.update((_PREFIX + name, value) for name, value in facts.items() if value)
    return headers, stack


def replay_facts(delivery: Delivery) -> dict[str, str]:
    """The headers that a replay added to the event; empty if it did not come through the inlet, because anybody may
    have written them then. Values that a replay never writes are left out."""
    inbound = delivery.inbound
    if not inbound.inlet:
        return {}
    headers = inbound.headers
    facts: dict[str, str] = {}
    if replays := count_of(headers.get(_REPLAYS, "")):
        facts[_REPLAYS] = str(replays)
    if _MOMENT.fullmatch(moment := headers.get(_REPLAYED_AT, "")) is not None:
        facts[_REPLAYED_AT] = moment
    if _EDIT.fullmatch(edited := headers.get(_EDITED, "")) is not None:
        facts[_EDITED] = edited
    return facts


def digest_of(event: Event[Any] | Foreign) -> str:
    """16 hexadecimal digits: a hash of the whole event."""
    return _hashed(event, [])


Send = Callable[[Event[Any] | Foreign, dict[str, str]], Awaitable[Any]]
"""Publishes a dead letter with these headers, confirmed."""


async def send_fitting(
    send: Send, event: Event[Any] | Foreign, headers: Mapping[str, str], stack: Stack | None = None
) -> list[str]:
    """Send a dead letter, or its replay, with as many headers as fit; return the names of those cut or left out.

    Each time it is too large for the broker, it loses more: first the middle of the traceback, then all of it, the last
    attempts, part of the error, the facts except the reason (those that name the group last), the user's headers, part
    of the reason, and then everything. ``stack``: the whole traceback. A foreign message that still does not fit goes
    without its own headers, but never without its body. Raises what ``send`` raises; EventTooLarge when nothing is left
    to remove.
    """
    extra = dict(headers)
    while True:
        try:
            await send(event, extra)
        except EventTooLarge as exc:
            if extra:
                extra = _less(extra, max(exc.size - exc.limit, 1), stack)
            elif isinstance(event, Foreign) and event.headers:
                event = event.without_headers()
            else:
                raise
        else:
            return [name for name, value in headers.items() if extra.get(name) != value]


def left_behind(delivery: Delivery, headers: Mapping[str, str]) -> tuple[Foreign, dict[str, str]]:
    """A substitute, with headers, for an event whose body fits into no dead letter. It holds nothing of the event; the
    reason says where the event is. Only for topics that keep consumed events."""
    inbound = delivery.inbound
    size = len(inbound.event.body or b"")
    place = f"{inbound.lane.name} at {inbound.position}"
    reason = f"its {size} bytes fit into no dead letter and stay in {place}. {headers[_REASON]}"
    return Foreign(None, (), delivery.key), {**headers, _REASON: clip(reason, _REASON_LIMIT)}


def _less(headers: Mapping[str, str], over: int, stack: Stack | None) -> dict[str, str]:
    """Headers that take at least ``over`` bytes less, or lack one more kind; empty when nothing else can go."""
    if _TRACEBACK in headers:
        return _with_less_stack(headers, over, stack)
    if _HISTORY in headers:
        return {name: value for name, value in headers.items() if name != _HISTORY}
    if _ERROR in headers:
        return _cut(headers, _ERROR, over)
    for kind in (_is_detail, _is_fact, _is_users):
        kept = {name: value for name, value in headers.items() if not kind(name)}
        if len(kept) < len(headers):
            return kept
    return _cut(headers, _REASON, over) if _REASON in headers else {}


def _is_detail(name: str) -> bool:
    return _is_fact(name) and name not in (_PREFIX + "topic", _PREFIX + "group")


def _is_fact(name: str) -> bool:
    return name.startswith(_PREFIX) and name != _REASON


def _is_users(name: str) -> bool:
    return not name.startswith(_PREFIX)


def _with_less_stack(headers: Mapping[str, str], over: int, stack: Stack | None) -> dict[str, str]:
    kept = dict(headers)
    left = len(kept.pop(_TRACEBACK).encode()) - max(over, _CUT[_TRACEBACK])
    if stack is not None and (shorter := stack.within(left)):
        kept[_TRACEBACK] = shorter
    return kept


def _cut(headers: Mapping[str, str], name: str, over: int) -> dict[str, str]:
    """Cut ``over`` UTF-8 bytes of a header. Every encoding of a text takes at least its UTF-8 bytes, so this frees at
    least ``over``."""
    left = len(headers[name].encode()) - max(over, _CUT[name])
    kept = dict(headers)
    if left < 16:
        del kept[name]
    else:
        kept[name] = clip(headers[name], left)
    return kept


def _of_failure(name: str) -> bool:
    """A header that two dead letters of one event need not share: facts about the failure, and the trace, which goes on
    from the start that failed."""
    return name.startswith("anybroker-") or name in ("traceparent", "tracestate")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


def _hashed(event: Event[Any] | Foreign, headers: list[tuple[str, str]]) -> str:
    own = event.headers if isinstance(event, Foreign) else sorted(event.attributes.items())
    text = repr((isinstance(event, Foreign), list(own), event.body is None, headers))
    hashed = blake2b(text.encode(), digest_size=8)  # repr escapes what cannot be encoded
    hashed.update(event.body or b"")
    return hashed.hexdigest()


def named(what: str, letters: Sequence[DeadLetter], names: Iterable[str]) -> list[DeadLetter]:
    """The letters with these names, each a fingerprint or an id. ConfigError for an id that several events have: anyone
    who may publish can choose the id of somebody else's event."""
    chosen: set[int] = set()
    by_id: dict[str, list[int]] = {}
    by_fingerprint: dict[str, list[int]] = {}
    names = tuple(names)
    exact = any(name.startswith("#") for name in names)
    for at, letter in enumerate(letters):
        by_id.setdefault(letter.id, []).append(at)
        if exact:
            by_fingerprint.setdefault(letter.fingerprint, []).append(at)
    for name in names:
        matches = by_fingerprint.get(name)
        if matches is None:
            matches = by_id.get(name, [])
            if len({letters[at].content for at in matches} if len(matches) > 1 else ()) > 1:
                raise ambiguous(what, name, [letters[at] for at in matches])
        chosen.update(matches)
    return [letter for at, letter in enumerate(letters) if at in chosen]


def ambiguous(what: str, name: str, letters: Sequence[DeadLetter]) -> ConfigError:
    """The error for a name that several dead letters have."""
    shown = ", ".join(letter.described() for letter in letters[:_SHOWN])
    return ConfigError(
        what,
        f"{_short(name)} is the id of {len(letters)} dead letters of different events: {shown}"
        f"{', …' if len(letters) > _SHOWN else ''}",
        "Name one by its fingerprint, which begins with '#'.",
    )


@dataclass(frozen=True)
class DeadLetter:
    """One dead letter in the dead-letter topic."""

    event: Event[Any] | Foreign
    """The event, untouched; a Foreign where the message was not a CloudEvent."""
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
    traceback: str = field(repr=False)
    """The formatted traceback of the failure with its causes, in printable lines; of a long one the first and the last.
    Empty where it says no more than ``error``, or where the broker had no room for it."""
    history: tuple[Attempt, ...]
    """The last five failed attempts that were known where it died, the oldest first; the last is what it died of."""
    host: str
    """Where it died."""
    version: str
    """Of anybroker there."""
    pid: int
    """Of the process there; 0 if it is not known."""
    headers: Mapping[str, str]
    """All transport headers."""
    inbound: Inbound = field(repr=False)

    @classmethod
    def read(cls, inbound: Inbound, topic: str, group: str) -> DeadLetter:
        """From a message of the dead-letter topic."""
        headers = inbound.headers

        def fact(name: str, default: str = "") -> str:
            return headers.get(_PREFIX + name, default)

        return cls(
            inbound.event,
            fact("topic", topic),
            fact("group", group),
            fact("reason", "unknown"),
            fact("error"),
            count_of(fact("attempts")),
            fact("handler"),
            fact("at"),
            count_of(fact("replays")),
            lines_again(fact("traceback")),
            failures.read(fact("history")),
            fact("host"),
            fact("version"),
            number_of(fact("pid"), _PID_DIGITS) or 0,
            headers,
            inbound,
        )

    @property
    def id(self) -> str:
        """The event's id; for a foreign message the lane and position where it failed."""
        return self.place if isinstance(self.event, Foreign) else self.event.id

    @property
    def type(self) -> str:
        """The event's type; empty for a foreign message."""
        return "" if isinstance(self.event, Foreign) else self.event.type

    @property
    def key(self) -> str | None:
        """The ordering key."""
        return self.event.key

    @property
    def kind(self) -> str:
        """The class of the exception that it died of, with its module; empty where that is not known."""
        error = self.error or (self.history[-1].error if self.history else "")
        kind = error.partition(":")[0]
        return kind if _CLASS.fullmatch(kind) else ""

    @property
    def reason_fingerprint(self) -> str:
        """The same for all that died of the same thing: ``r-`` and 10 hexadecimal digits, a hash of the exception's
        class, the handler, and the reason without values. "card of c4 declined" and "card of c5 declined" are one."""
        return fingerprint_of(self.kind, self.handler, self.reason)

    @property
    def parked(self) -> int | None:
        """Its place among the dead letters of its parked key (``dead_letter(then="park")``): a lower one comes before
        it. None: its key was not parked."""
        return count_of(self.headers.get(_PARKED, "").partition(" ")[0]) or None

    @property
    def parked_as(self) -> str:
        """What the rows of its parked key call its event."""
        return self.headers.get(_PARKED, "").partition(" ")[2] or identity(self.inbound)

    @property
    def place(self) -> str:
        """The lane and position where it failed, such as ``orders/3@1204``. The letter itself says so: not unique."""
        lane = self.headers.get(_PREFIX + "lane", self.inbound.lane.name)
        return f"{lane}@{self.headers.get(_PREFIX + 'position', self.inbound.position)}"

    @property
    def fingerprint(self) -> str:
        """A name for this letter alone, whatever its id: ``#`` and 16 hexadecimal digits, a hash of everything in it.
        Letters with the same fingerprint are equal in every byte."""
        return "#" + self._hash(sorted(self.headers.items()))

    @property
    def content(self) -> str:
        """The same hash of the event alone, without its failure: two dead letters of one event have the same one."""
        return self._hash(sorted(pair for pair in self.headers.items() if not _of_failure(pair[0])))

    def _hash(self, headers: list[tuple[str, str]]) -> str:
        return _hashed(self.event, headers)

    def described(self) -> str:
        """For error messages: its fingerprint, source, id and place, each at most 60 characters."""
        source = "not a CloudEvent" if isinstance(self.event, Foreign) else f"source {_short(self.event.source)}"
        return f"{self.fingerprint} ({source}, id {_short(self.id)}, {_short(self.place)})"

    @property
    def edited(self) -> str:
        """When its event was edited last, before it failed again, and the digest that it had before:
        ``2026-11-30T12:00:00.000Z from 0123456789abcdef``. Empty if it never was."""
        edited = self.headers.get(_PREFIX + "edited", "")
        return edited if _EDIT.fullmatch(edited) is not None else ""

    def edited_now(self) -> dict[str, str]:
        """The header of a replay with another event in place of this one."""
        return {_EDITED: f"{now()} from {digest_of(self.event)}"}

    def replay_headers(self) -> dict[str, str]:
        """The transport headers of its replay, without the facts about its failure."""
        kept = {name: value for name, value in self.headers.items() if not name.startswith("anybroker-")}
        if self.edited:
            kept[_EDITED] = self.edited
        return {**kept, _REPLAYS: str(self.replays + 1), _REPLAYED_AT: f"{time.time():.3f}"}

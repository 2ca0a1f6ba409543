"""Dead letters: what is written beside one, and how they are listed, shown and replayed."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from ..adapter import Foreign, Inbound, count_of
from ..cloudevents.event import Event
from ..delivery import Delivery
from ..errors import ConfigError, DecodeError, EventTooLarge, InvalidEvent, Reject, text_of
from ..printable import printable

__all__ = [
    "DeadLetter",
    "ambiguous",
    "dead_letter_headers",
    "left_behind",
    "named",
    "reason_of",
    "replay_facts",
    "send_fitting",
]

_PREFIX = "anybroker-dead-"
_REPLAYS, _REPLAYED_AT = "anybroker-replays", "anybroker-replayed-at"
_MOMENT = re.compile("[0-9]{1,12}[.][0-9]{3}")
_REASON_LIMIT = 1024
_ERROR_LIMIT = 4096
_SHOWN = 10
"""Dead letters that are named in one error."""
_REASON, _ERROR = _PREFIX + "reason", _PREFIX + "error"
_CUT = {_ERROR: 512, _REASON: 128}
"""The least that is cut off at once: a broker may not say by how much a message is too large."""


def _reason(error: Exception) -> str:
    if isinstance(error, Reject):
        reason = getattr(error, "reason", error)  # a subclass may not have called ours
        return reason if isinstance(reason, str) else text_of(error)
    if isinstance(error, InvalidEvent):
        return f"no CloudEvent: {error}"
    if isinstance(error, DecodeError):
        return f"undecodable: {error}"
    return f"{type(error).__name__}: {text_of(error)}"


def _clip(text: str, limit: int) -> str:
    """Printable text of at most ``limit`` UTF-8 bytes; transport headers carry no line breaks."""
    clean = printable(text[: limit + 1])  # every character takes a byte at least
    data = clean.encode()
    return clean if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "…"


def _chain_of(error: BaseException) -> str:
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(parts) < 8:
        parts.append(f"{type(seen).__module__}.{type(seen).__qualname__}: {text_of(seen)}")
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return " <- ".join(parts)


def reason_of(error: Exception) -> str:
    """What the dead letter says as the reason: printable, at most 1 KiB."""
    return _clip(_reason(error), _REASON_LIMIT)


def dead_letter_headers(delivery: Delivery, error: Exception) -> dict[str, str]:
    """What stands beside a dead letter: the delivery's own transport headers, and the facts.

    ``reason`` is cut at 1 KiB and ``error`` (the exception with its causes) at 4 KiB.
    """
    headers = dict(delivery.headers)
    facts = {
        "reason": reason_of(error),
        "error": _clip(_chain_of(error), _ERROR_LIMIT),
        "attempts": str(delivery.attempt),
        "topic": delivery.topic,
        "group": delivery.group,
        "handler": delivery.handler,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "lane": delivery.lane_state.lane.name,
        "position": str(delivery.inbound.position),
        "replays": replay_facts(delivery).get(_REPLAYS, "0"),
    }
    headers.update((_PREFIX + name, value) for name, value in facts.items() if value)
    return headers


def replay_facts(delivery: Delivery) -> dict[str, str]:
    """What a replay wrote beside the event; nothing where it came by another way, on which anybody may have written,
    and nothing that a replay never writes."""
    inbound = delivery.inbound
    if not inbound.inlet:
        return {}
    headers = inbound.headers
    facts: dict[str, str] = {}
    if replays := count_of(headers.get(_REPLAYS, "")):
        facts[_REPLAYS] = str(replays)
    if _MOMENT.fullmatch(moment := headers.get(_REPLAYED_AT, "")) is not None:
        facts[_REPLAYED_AT] = moment
    return facts


Send = Callable[[Event[Any] | Foreign, dict[str, str]], Awaitable[Any]]
"""Publishes a dead letter with these headers beside it, confirmed."""


async def send_fitting(send: Send, event: Event[Any] | Foreign, headers: Mapping[str, str]) -> list[str]:
    """Send a dead letter, or its replay, with all that fits beside it; return the names of what had no room for all.

    Each time that the broker has no room: less of the error, then the facts but the reason (the group's own names
    last), the user's headers, less of the reason, and then nothing. A foreign message that fits no other way goes
    without its own headers, and never without its body. Raises what ``send`` raises, EventTooLarge when nothing is
    left.
    """
    beside = dict(headers)
    while True:
        try:
            await send(event, beside)
        except EventTooLarge as exc:
            if beside:
                beside = _less(beside, max(exc.size - exc.limit, 1))
            elif isinstance(event, Foreign) and event.headers:
                event = event.without_headers()
            else:
                raise
        else:
            return [name for name, value in headers.items() if beside.get(name) != value]


def left_behind(delivery: Delivery, headers: Mapping[str, str]) -> tuple[Foreign, dict[str, str]]:
    """What stands for an event whose body no dead letter has room for, with its headers: nothing of the event, and the
    reason says where it lies. Only for topics that keep what was consumed."""
    inbound = delivery.inbound
    size = len(inbound.event.body or b"")
    place = f"{inbound.lane.name} at {inbound.position}"
    reason = f"no dead letter has room for its {size} bytes, which stay in {place}. {headers[_REASON]}"
    return Foreign(None, (), delivery.key), {**headers, _REASON: _clip(reason, _REASON_LIMIT)}


def _less(headers: Mapping[str, str], over: int) -> dict[str, str]:
    """Headers that take at least ``over`` bytes less, or lack one more kind; none when nothing else can go."""
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


def _cut(headers: Mapping[str, str], name: str, over: int) -> dict[str, str]:
    """Every way to write a text takes at least its UTF-8 bytes, so that many fewer free ``over`` at least."""
    left = len(headers[name].encode()) - max(over, _CUT[name])
    kept = dict(headers)
    if left < 16:
        del kept[name]
    else:
        kept[name] = _clip(headers[name], left)
    return kept


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


def named(what: str, letters: Sequence[DeadLetter], names: Iterable[str]) -> list[DeadLetter]:
    """Those of the letters that these names mean: a fingerprint, or an id. ConfigError for an id that several events
    have: whoever may publish may choose the id of somebody else's event."""
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
        found = by_fingerprint.get(name)
        if found is None:
            found = by_id.get(name, [])
            if len({letters[at].content for at in found} if len(found) > 1 else ()) > 1:
                raise ambiguous(what, name, [letters[at] for at in found])
        chosen.update(found)
    return [letter for at, letter in enumerate(letters) if at in chosen]


def ambiguous(what: str, name: str, letters: Sequence[DeadLetter]) -> ConfigError:
    """The error for a name that means several dead letters."""
    shown = ", ".join(letter.described() for letter in letters[:_SHOWN])
    return ConfigError(
        what,
        f"{_short(name)} is the id of {len(letters)} dead letters that are not of one event: {shown}"
        f"{', …' if len(letters) > _SHOWN else ''}",
        "Name one by its fingerprint, which begins with '#'.",
    )


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
            headers,
            inbound,
        )

    @property
    def id(self) -> str:
        """The event's id; for a foreign message the lane and position where it failed."""
        return self.place if isinstance(self.event, Foreign) else self.event.id

    @property
    def place(self) -> str:
        """The lane and position where it failed, such as ``orders/3@1204``: what it says itself, and not a name."""
        lane = self.headers.get(_PREFIX + "lane", self.inbound.lane.name)
        return f"{lane}@{self.headers.get(_PREFIX + 'position', self.inbound.position)}"

    @property
    def fingerprint(self) -> str:
        """What names this letter and no other, whatever their ids: ``#`` and 16 hexadecimal digits, a hash of all that
        it is. Letters that have the same one are alike in every byte."""
        return "#" + self._hash(sorted(self.headers.items()))

    @property
    def content(self) -> str:
        """The same of what died, without how: two dead letters of one event have the same one."""
        return self._hash(sorted(pair for pair in self.headers.items() if not pair[0].startswith("anybroker-")))

    def _hash(self, headers: list[tuple[str, str]]) -> str:
        event = self.event
        own = event.headers if isinstance(event, Foreign) else sorted(event.attributes.items())
        text = repr((isinstance(event, Foreign), list(own), event.body is None, headers))
        hashed = blake2b(text.encode(), digest_size=8)  # repr escapes what cannot be encoded
        hashed.update(event.body or b"")
        return hashed.hexdigest()

    def described(self) -> str:
        """For an error: its fingerprint, source, id and place, each at most 60 characters."""
        source = "no CloudEvent" if isinstance(self.event, Foreign) else f"source {_short(self.event.source)}"
        return f"{self.fingerprint} ({source}, id {_short(self.id)}, {_short(self.place)})"

    def replay_headers(self) -> dict[str, str]:
        """The transport headers of its way back: the facts of its death stay behind."""
        kept = {name: value for name, value in self.headers.items() if not name.startswith("anybroker-")}
        return {**kept, _REPLAYS: str(self.replays + 1), _REPLAYED_AT: f"{time.time():.3f}"}

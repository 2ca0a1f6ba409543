"""Looking at stored messages by their sequence: no consumer is made, pulled from or acknowledged to."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from anybroker.adapter import Lane, Peek, Peeked
from anybroker.errors import MissingGroup

from .failures import ApiError, nats_errors
from .link import Link
from .names import consumer_name, inlet, members_consumer, stream_name
from .stored import Progress, consumer_of, messages
from .wire import Wire

__all__ = ["members", "peek", "peeked", "state_of"]

_NOT_FOUND: Final = 404
_COUNTED: Final = 1_000
"""The most messages that are read to find out whether a consumer has acknowledged some of those in flight."""


async def members(link: Link, topic: str, group: str) -> int | None:
    """How many members an ordered group has: each keeps one pull waiting. None for an unordered group."""
    with nats_errors(f"counting the members of {group!r} of {topic!r}"):
        consumers = await _consumers(link, topic, group)
        if consumers[0].filters.keys() & {f"{topic}.*"}:
            return None
        try:
            info = await link.api(f"CONSUMER.INFO.{stream_name(topic)}.{members_consumer(group)}")
        except ApiError as exc:
            if exc.code != _NOT_FOUND:
                raise
            return 0
    return int(info["num_waiting"])


async def peek(
    link: Link, wire: Wire, topic: str, group: str | None, limit: int, newest: bool, beyond: Mapping[str, int]
) -> Peek:
    """See :meth:`anybroker.adapter.Inspects.peek`. The stream is one lane; its name is the topic's.

    JetStream does not say which messages of a consumer are acknowledged beyond its acknowledgement floor. If some may
    be, they are all shown, and the page is not ``exact``.
    """
    with nats_errors(f"looking at {topic!r}"):
        state = await state_of(link, topic)
        low, high = max(1, int(state["first_seq"])), int(state["last_seq"]) + 1
        subjects = [f"{topic}.*"]
        consumers: Sequence[Progress] = ()
        exact = True
        if group is not None:
            subjects.append(f"{inlet(topic, group)}.*")
            consumers = await _consumers(link, topic, group)
            low = max(low, 1 + min(each.settled for each in consumers))
            exact = await _all_unsettled(link, topic, subjects, consumers)
        if topic in beyond:
            low, high = (low, min(high, beyond[topic])) if newest else (max(low, beyond[topic] + 1), high)
        chosen = _Chosen(link, topic, subjects, consumers)
        messages = await (chosen.last if newest else chosen.first)(low, high, limit)
        client = await link.client()
    lane = Lane(topic, 0)
    return Peek([peeked(wire, client, lane, message) for message in messages], exact)


def peeked(wire: Wire, client: Any, lane: Lane, message: Mapping[str, Any]) -> Peeked:
    """A stored message, as the server answers with it."""
    body = b64decode(message.get("data") or "")
    headers = b64decode(message["hdrs"]) if message.get("hdrs") else None
    inbound = wire.read(client, message["subject"].encode(), b"", body, headers, lane, int(message["seq"]))
    stored = datetime.fromisoformat(message["time"]).timestamp()
    return Peeked(inbound.event, lane.name, inbound.position, inbound.key, inbound.headers, stored, inbound.raw)


async def state_of(link: Link, topic: str) -> Mapping[str, Any]:
    """The state of the topic's stream."""
    try:
        info = await link.api(f"STREAM.INFO.{stream_name(topic)}")
    except ApiError as exc:
        if exc.code != _NOT_FOUND:
            raise
        raise MissingGroup("topics", f"NATS has no stream {stream_name(topic)!r}", "Declare the topic.") from exc
    state: Mapping[str, Any] = info["state"]
    return state


# ---------------------------------------------------------------------------------------------------------- consumers


async def _consumers(link: Link, topic: str, group: str) -> list[Progress]:
    """Those of the group: one for each lane, or one if it is unordered."""
    name = consumer_name(group, None)
    found: list[Progress] = []
    offset, total = 0, 1
    while offset < total:
        try:
            page = await link.api(f"CONSUMER.LIST.{stream_name(topic)}", {"offset": offset})
        except ApiError as exc:
            if exc.code != _NOT_FOUND:
                raise
            break
        for info in page.get("consumers") or ():
            stem, _, lane = info["name"].partition("@")
            if stem == name and (not lane or lane.isdecimal()):
                found.append(Progress.read(info))
        total = int(page["total"])
        offset += len(page.get("consumers") or ()) or total
    if not found:
        raise MissingGroup(f"topics.{topic}.groups", f"NATS has no group {group!r} of {topic!r}", "Declare it.")
    return found


async def _all_unsettled(link: Link, topic: str, subjects: Sequence[str], consumers: Sequence[Progress]) -> bool:
    """Whether everything behind ``settled`` of each consumer is unsettled, as far as that can be found out."""
    doubtful = [each for each in consumers if each.in_flight and each.deliveries != each.in_flight]
    if not doubtful:
        return True
    counts = dict.fromkeys(map(id, doubtful), 0)
    low, high = 1 + min(each.settled for each in doubtful), 1 + max(each.delivered for each in doubtful)
    read = 0
    async for message in messages(link, topic, subjects, low, high):
        read += 1
        if read > _COUNTED:
            return False
        consumer = consumer_of(message["subject"], doubtful)
        if consumer is not None and consumer.settled < message["seq"] <= consumer.delivered:
            counts[id(consumer)] += 1
    return all(counts[id(each)] == each.in_flight for each in doubtful)


# ----------------------------------------------------------------------------------------------------------- messages


class _Chosen:
    """The messages of a topic, or those that the consumers of a group have not settled."""

    def __init__(self, link: Link, topic: str, subjects: Sequence[str], consumers: Sequence[Progress]) -> None:
        self._link = link
        self._topic = topic
        self._subjects = subjects
        self._consumers = consumers

    def _is_wanted(self, message: Mapping[str, Any]) -> bool:
        if not self._consumers:
            return True
        consumer = consumer_of(message["subject"], self._consumers)
        return consumer is not None and message["seq"] > consumer.settled

    async def first(self, low: int, high: int, limit: int) -> list[Mapping[str, Any]]:
        """The first ones from ``low`` on, before ``high``."""
        found: list[Mapping[str, Any]] = []
        async for message in messages(self._link, self._topic, self._subjects, low, high):
            if self._is_wanted(message):
                found.append(message)
                if len(found) == limit:
                    break
        return found

    async def last(self, low: int, high: int, limit: int) -> list[Mapping[str, Any]]:
        """The last ones before ``high``, the newest first. JetStream is only asked forwards, so this looks at ever
        larger parts of the stream."""
        width = limit
        while True:
            begin = max(low, high - width)
            found = await self.first(begin, high, width)
            if len(found) >= limit or begin == low:
                return found[: -limit - 1 : -1]
            width *= 4

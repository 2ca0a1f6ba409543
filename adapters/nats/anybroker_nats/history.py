"""Reading what a stream keeps, by sequence: no consumer is made, and nothing is pulled or acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from anybroker.adapter import HistoryPage, Lane

from .failures import ApiError, nats_errors
from .link import Link
from .names import stream_name
from .peek import peeked, state_of
from .stored import next_message
from .wire import Wire

__all__ = ["extent", "read"]

_NOT_FOUND: Final = 404
_AT_ONCE: Final = 256
"""Messages that are asked for at once: each is a request, and the server answers one after the other."""


async def extent(link: Link, topic: str, since: datetime | None, until: datetime | None) -> dict[str, tuple[int, int]]:
    """See :meth:`anybroker.adapter.ReadsHistory.history_extent`. The stream is one lane; its name is the topic's."""
    with nats_errors(f"looking at {topic!r}"):
        state = await state_of(link, topic)
        low, high = max(1, int(state["first_seq"])), int(state["last_seq"]) + 1
        begin = low if since is None else await _first_at(link, topic, low, high, since)
        end = high if until is None else await _first_at(link, topic, low, high, until)
    return {topic: (begin, max(begin, end))}


async def _first_at(link: Link, topic: str, low: int, high: int, moment: datetime) -> int:
    """The sequence of the first message stored at that moment or later; ``high`` where there is none. The stream is in
    the order of time."""
    while low < high:
        middle = (low + high) // 2
        message = await next_message(link, topic, ">", middle, high)
        if message is None or datetime.fromisoformat(message["time"]) >= moment:
            high = middle
        else:
            low = int(message["seq"]) + 1
    return low


async def read(link: Link, wire: Wire, topic: str, begin: int, end: int, limit: int) -> HistoryPage:
    """See :meth:`anybroker.adapter.ReadsHistory.read_history`."""
    with nats_errors(f"reading {topic!r}"):
        following = min(end, begin + min(limit, _AT_ONCE))
        asked = (_message(link, topic, seq) for seq in range(begin, following))
        found = [message for message in await asyncio.gather(*asked) if message is not None]
        if not found and following < end:  # a gap: how long it is, the server knows
            behind = await next_message(link, topic, f"{topic}.*", following, end)
            following = end if behind is None else int(behind["seq"])
        client = await link.client()
    lane = Lane(topic, 0)
    stem = f"{topic}."
    events = [
        peeked(wire, client, lane, message)
        for message in found
        if message["subject"].startswith(stem) and "." not in message["subject"][len(stem) :]
    ]
    return HistoryPage(events, following)


async def _message(link: Link, topic: str, seq: int) -> Mapping[str, Any] | None:
    """The one with this sequence; None where it is deleted."""
    try:
        answer = await link.api(f"STREAM.MSG.GET.{stream_name(topic)}", {"seq": seq})
    except ApiError as exc:
        if exc.code != _NOT_FOUND:
            raise
        return None
    message: Mapping[str, Any] = answer["message"]
    return message

"""How old the oldest message is that a group has not finished: looked up by its sequence, and not received."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from anybroker.adapter import age_since

from .failures import FORBIDDEN, ApiError
from .link import Link
from .stored import Progress, consumer_of, messages, next_message

__all__ = ["age_of_oldest"]

_TRIED: Final = 16
"""Messages that are looked at one by one, whichever lane they belong to, before the server looks for each subject."""
_END: Final = 2**63
"""Higher than any sequence."""


async def age_of_oldest(
    link: Link, topic: str, subjects: Sequence[str], infos: Sequence[Mapping[str, Any]]
) -> float | None:
    """Its age in seconds; 0.0 where there is none, None where this user may not read the stream. ``infos``: of the
    group's consumers; ``subjects``: all that they take together, with a ``*`` for the slot.

    The stream is in the order of time, so it is the first message that a consumer has not settled which is behind.
    Usually it is at the position of the one that is furthest behind. Where that lane was idle, its position says
    little, and any number of other lanes' messages may follow: then the server looks for each subject.
    """
    behind = [Progress.read(info) for info in infos if info["num_pending"] or info["num_ack_pending"]]
    if not behind:
        return 0.0
    try:
        found = await _first(link, topic, subjects, behind)
    except ApiError as exc:
        if exc.code != FORBIDDEN:
            raise
        return None
    return age_since(None if found is None else datetime.fromisoformat(found["time"]).timestamp())


async def _first(
    link: Link, topic: str, subjects: Sequence[str], behind: Sequence[Progress]
) -> Mapping[str, Any] | None:
    tried = 0
    async for message in messages(link, topic, subjects, 1 + min(each.settled for each in behind), _END):
        consumer = consumer_of(message["subject"], behind)
        if consumer is not None and message["seq"] > consumer.settled:
            return message
        tried += 1
        if tried == _TRIED:
            break
    else:
        return None
    heads = await asyncio.gather(
        *(next_message(link, topic, subject, 1 + each.settled, _END) for each in behind for subject in each.filters)
    )
    return min((head for head in heads if head is not None), key=lambda head: int(head["seq"]), default=None)

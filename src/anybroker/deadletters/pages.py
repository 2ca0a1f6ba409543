"""Looking at dead letters page by page, without taking them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from ..adapter import Inbound, Lane, Peeked
from ..engine.core import Core
from ..engine.inspector import Inspector
from ..names import DEAD_LETTER_GROUP

__all__ = ["NotExact", "pages"]

_PAGE = 500
"""Most messages that are in memory at once."""


class NotExact(Exception):
    """The broker cannot tell what of it is settled already."""


async def pages(core: Core, topic: str, limit: int) -> AsyncIterator[Sequence[Inbound]]:
    """Up to ``limit`` messages that wait for the group ``dlq`` of a dead-letter topic, in pages. Raises NotExact, at
    any page, and MissingGroup."""
    inspector = Inspector(core)
    seen: dict[str, int] = {}
    left = limit
    while left > 0:
        size = min(left, _PAGE)
        page = await inspector.peek(topic, group=DEAD_LETTER_GROUP, limit=size, beyond=seen)
        if not page.exact:
            raise NotExact
        yield [_inbound(item) for item in page.events]
        if len(page.events) < size:
            return
        seen.update((item.lane, item.position) for item in page.events)
        left -= len(page.events)


def _inbound(item: Peeked) -> Inbound:
    """As a delivery that nobody holds."""
    return Inbound(item.event, Lane(item.lane, 0), item.position, item.key, item.headers, item.raw)

"""The customers: the purchases of the data file, one after the other, at the run's pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from .events import OrderPlaced
from .plan import plan
from .settings import demo

__all__ = ["customers"]


async def customers() -> AsyncIterator[OrderPlaced]:
    """Yields each order when it is due, or at once if it is late."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for number, order in enumerate(plan().orders):
        await asyncio.sleep(start + number / demo().rate - loop.time())
        yield order

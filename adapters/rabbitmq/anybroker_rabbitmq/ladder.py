"""Delays: a ladder of queues, shared by all topics, that a message climbs down bit by bit.

Rung n holds a message for 2**n seconds (a queue with that time to live) and dead-letters it to rung n - 1; the last
one dead-letters it to the exchange of what is due. The routing key says on which rungs to wait, highest first, and then
where to go: ``0.…0.1.0.1.orders.17``. 20 rungs reach 12 days; only those that were needed once exist.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiormq.channel import Channel

from anybroker.errors import Rejected

from .link import Link
from .topology import is_there

__all__ = ["DUE", "LONGEST", "Ladder", "due_binding", "rung_exchange", "rungs_of"]

RUNGS: Final = 20
LONGEST: Final = 864_000.0
"""The longest delay in seconds: ten days, a little less than the rungs could hold."""
DUE: Final = "anybroker:delay:due"
_SINK: Final = "anybroker:delay:sink"
"""Keeps nothing. It takes what no group waits for when it is due: dead-lettering at least once would try such a message
again for ever, and 32 of them would hold up all others."""
_BOUND: Final = 1.0
"""Seconds for which the ladder's end, once bound to an exchange, counts as bound. An exchange that was deleted, and
perhaps made again, has lost the binding: what falls off the ladder then is dropped, and RabbitMQ tells no one."""


def rung_exchange(rung: int) -> str:
    """What a message is published to that waits on this rung first."""
    return f"anybroker:delay:{rung}"


def rungs_of(seconds: int) -> tuple[int, str]:
    """The highest rung for a delay of at least 1 s, and the beginning of the routing key."""
    bits = min(seconds, 2**RUNGS - 1)
    return bits.bit_length() - 1, ".".join(f"{bits:0{RUNGS}b}") + "."


def due_binding(exchange: str) -> str:
    """The pattern under which an exchange gets what is due for it: rungs, its name, a slot."""
    return "*." * RUNGS + exchange + ".*"


class Ladder:
    """The ladder as one sender uses it: how far it is known to reach, and where it ends."""

    def __init__(self, link: Link, *, makes_rungs: bool) -> None:
        self._link = link
        self._makes_rungs = makes_rungs
        self._highest = -1
        self._bound_until: dict[str, float] = {}
        """By exchange, by the loop's clock."""

    def reaches(self, exchange: str, seconds: int) -> bool:
        """Whether a delay of this many seconds, at least 1, can be published without :meth:`prepare`."""
        now = asyncio.get_running_loop().time()
        return rungs_of(seconds)[0] <= self._highest and now <= self._bound_until.get(exchange, 0.0)

    async def prepare(self, exchange: str, seconds: int) -> None:
        """Make the ladder high enough for a delay, and have it end at the exchange. Raises ``Rejected`` where it is not
        high enough and this Bus makes none, and ``ConfigError`` where the exchange is gone."""
        rung = rungs_of(seconds)[0]
        if rung > self._highest:
            if self._makes_rungs:
                async with self._link.scratch("making the queues for delays") as channel:
                    await _make_rungs(channel, rung)
            elif not await is_there(self._link, "queue", rung_exchange(rung)):
                raise Rejected(
                    f"RabbitMQ has no queue {rung_exchange(rung)!r} for delays, and this Bus makes none. Publish "
                    'once with such a delay from a Bus with provision="create"'
                )
            self._highest = rung
        clock = asyncio.get_running_loop().time
        if self._bound_until.get(exchange, 0.0) < clock():
            async with self._link.scratch("binding an exchange to the queues for delays") as channel:
                await channel.exchange_bind(exchange, DUE, due_binding(exchange))
            self._bound_until[exchange] = clock() + _BOUND

    def forget(self) -> None:
        """A part of it may have been deleted."""
        self._highest = -1
        self._bound_until.clear()


async def _make_rungs(channel: Channel, highest: int) -> None:
    """Make the ladder up to this rung, from below, so that nothing can fall off a half-made one."""
    await channel.exchange_declare(DUE, exchange_type="topic", durable=True)
    await channel.queue_declare(_SINK, durable=True, arguments={"x-queue-type": "quorum", "x-max-length": 0})
    await channel.queue_bind(_SINK, DUE, "#")
    for rung in range(highest + 1):
        name, below = rung_exchange(rung), rung_exchange(rung - 1) if rung else DUE
        await channel.exchange_declare(name, exchange_type="topic", durable=True)
        arguments = {
            "x-queue-type": "quorum",
            "x-message-ttl": 1000 * 2**rung,
            "x-dead-letter-exchange": below,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        await channel.queue_declare(name, durable=True, arguments=arguments)
        higher = "*." * (RUNGS - 1 - rung)
        await channel.exchange_bind(below, name, f"{higher}0.#")
        await channel.queue_bind(name, name, f"{higher}1.#")

"""Delays: a ladder of queues, shared by all topics, that a message climbs down bit by bit.

Rung n holds a message for 2**n seconds (a queue with that time to live) and dead-letters it to rung n - 1; the last
one dead-letters it to the exchange of what is due. The routing key says on which rungs to wait, highest first, then
whereto: ``0.…0.1.0.1.orders.17``. 20 rungs reach 12 days; only those that were needed once are there.
"""

from __future__ import annotations

from typing import Final

from aiormq.channel import Channel

__all__ = ["DUE", "LONGEST", "due_binding", "make_rungs", "rung_exchange", "rungs_of"]

RUNGS: Final = 20
LONGEST: Final = 864_000.0
"""The longest delay in seconds: ten days, a little less than the rungs could hold."""
DUE: Final = "anybroker:delay:due"
_SINK: Final = "anybroker:delay:sink"
"""Keeps nothing, and is a way out for what no group waits for when it is due: dead-lettering at least once would try
such a message again for ever, and 32 of them would hold up all others."""


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


async def make_rungs(channel: Channel, highest: int) -> None:
    """Make the ladder up to this rung be there, from below, so that nothing can fall off a half-made one."""
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

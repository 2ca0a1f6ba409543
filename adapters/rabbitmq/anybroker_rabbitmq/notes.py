"""Handler starts that a clean leave must not forget (see :mod:`anybroker.kit.start_notes`).

A member that leaves a lane with unfinished events writes a note beside its queue; the member that gets the lane next
reads it. The note's queue is made when it is needed, and is gone a day later.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from aiormq.exceptions import ChannelNotFoundEntity
from pamqp.commands import Basic

from anybroker.adapter import Foreign, Inbound
from anybroker.errors import Unavailable
from anybroker.kit.start_notes import format_starts, parse_starts
from anybroker.printable import logger

from .link import Link

__all__ = ["note_key", "read_notes", "write_note"]

_log = logger("anybroker.rabbitmq")

_EXPIRES: Final = 24 * 60 * 60 * 1000
"""Milliseconds without use until the broker deletes the queue."""
_MOST: Final = 100
"""Notes that are read, where one is usual: another program may write more, and faster than they are read."""


def note_key(inbound: Inbound) -> str | None:
    """What an event is called in a note; None for a message that is not an event. A hash of the whole message: another
    one with the same source and id must not get its starts."""
    event = inbound.event
    if isinstance(event, Foreign):
        return None
    ids = repr((event.source, event.id, inbound.raw.header.properties.message_id))
    hashed = blake2b(ids.encode(), digest_size=16)  # repr escapes what cannot be encoded
    hashed.update(inbound.raw.body)
    return hashed.hexdigest()


async def write_note(link: Link, queue: str, starts: Mapping[str, int]) -> None:
    """Store how often the handler of each event was started; confirmed."""
    if link.hindrance is not None:
        raise Unavailable(link.hindrance)
    async with link.scratch(f"writing a note to {queue!r}", confirms=True) as channel:
        arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-expires": _EXPIRES}
        await channel.queue_declare(queue, durable=True, arguments=arguments)
        properties = Basic.Properties(delivery_mode=2, content_type="application/json")
        body = format_starts(starts).encode()
        await channel.basic_publish(body, routing_key=queue, properties=properties, timeout=link.timeout)


async def read_notes(link: Link, queue: str) -> dict[str, int]:
    """Take out all that the notes say; usually there are none."""
    starts: dict[str, int] = {}
    async with link.scratch(f"reading the notes of {queue!r}") as channel:
        try:
            await channel.queue_declare(queue, passive=True)
        except ChannelNotFoundEntity:
            return starts
        for _ in range(_MOST):
            message = await channel.basic_get(queue, no_ack=True, timeout=link.timeout)
            if not isinstance(message.delivery, Basic.GetOk):
                return starts
            noted = parse_starts(message.body)
            if noted is None:
                _log.warning("%s: a message that is not one of our notes was dropped; attempts may start again", queue)
            else:
                starts |= noted
        _log.warning("%s: more than %d notes: all others are dropped, and attempts may start again", queue, _MOST)
        await channel.queue_purge(queue, timeout=link.timeout)
        return starts

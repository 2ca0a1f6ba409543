"""Handler starts that a clean leave must not forget: RabbitMQ gives a message back as it was, with no room for a count.

Who leaves a lane while events of it are unfinished writes a note beside its queue; who gets the lane next reads it. The
note's queue is made when it is needed, and is gone a day later. Losing a note makes attempts start again, no more.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Final

from aiormq.exceptions import ChannelNotFoundEntity
from pamqp.commands import Basic

from anybroker.adapter import Foreign, Inbound
from anybroker.errors import Unavailable

from .link import Link

__all__ = ["note_key", "read_notes", "write_note"]

_log = logging.getLogger("anybroker.rabbitmq")

_EXPIRES: Final = 24 * 60 * 60 * 1000
"""Milliseconds without use until the broker deletes the queue."""
_MANY: Final = 10**9
"""Starts that no event has had."""


def note_key(inbound: Inbound) -> str | None:
    """What an event is called in a note; None for what is no event."""
    event = inbound.event
    return None if isinstance(event, Foreign) else f"{event.source} {event.id}"


async def write_note(link: Link, queue: str, starts: Mapping[str, int]) -> None:
    """Store how often the handler of each event was started; confirmed."""
    if link.hindrance is not None:
        raise Unavailable(link.hindrance)
    async with link.scratch(f"writing a note to {queue!r}", confirms=True) as channel:
        arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-expires": _EXPIRES}
        await channel.queue_declare(queue, durable=True, arguments=arguments)
        properties = Basic.Properties(delivery_mode=2, content_type="application/json")
        body = json.dumps(starts).encode()
        await channel.basic_publish(body, routing_key=queue, properties=properties, timeout=link.timeout)


async def read_notes(link: Link, queue: str) -> dict[str, int]:
    """Take out all that the notes say; usually there are none."""
    starts: dict[str, int] = {}
    async with link.scratch(f"reading the notes of {queue!r}") as channel:
        try:
            await channel.queue_declare(queue, passive=True)
        except ChannelNotFoundEntity:
            return starts
        while True:
            found = await channel.basic_get(queue, no_ack=True, timeout=link.timeout)
            if not isinstance(found.delivery, Basic.GetOk):
                return starts
            starts |= _note(queue, found.body)


def _note(queue: str, body: bytes) -> dict[str, int]:
    """What one says; nothing, with a warning, where anybody else wrote it."""
    try:
        starts = json.loads(body)
        if isinstance(starts, dict) and all(type(count) is int and 0 <= count < _MANY for count in starts.values()):
            return starts
    except (ValueError, RecursionError):
        pass
    _log.warning("%s: a message that is not one of our notes was dropped; attempts may start again", queue)
    return {}

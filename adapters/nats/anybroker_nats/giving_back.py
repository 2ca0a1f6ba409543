"""Letting lanes go: at the end, when they are given away, and when another member is pinned."""

from __future__ import annotations

import asyncio

from anybroker.adapter import Lane
from anybroker.errors import BrokerError
from anybroker.printable import logger

from .commands import NAK
from .consumer import Consumer
from .failures import CLIENT_ERRORS, ApiError
from .member import Member
from .names import PRIORITY_GROUP
from .notes import write_notes

__all__ = ["GivingBack"]

_log = logger("anybroker.nats")


class GivingBack:
    """Gives back what is unacknowledged, in the stream's order. The member that is pinned next waits for all of it."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def lose_pin(self, consumer: Consumer) -> None:
        """The pin may be gone. Give back what the core does not have: the member that is pinned next, perhaps this one
        again, waits for it."""
        if consumer.pin:
            consumer.left_pin = consumer.pin  # what is on its way under it goes back, too
        consumer.lose_pin()
        self._member.answer(consumer.drop_buffer(), NAK)
        consumer.doubt_pin()

    def hand_over(self, consumer: Consumer) -> None:
        """Another member has the lane, and waits for what we have: give back what has not started, and finish the
        rest."""
        self.lose_pin(consumer)
        if consumer.lane is not None:
            _log.info("%s: the lane has gone to another member", consumer.lane.name)
        self.start_nothing_more(consumer)

    def start_nothing_more(self, consumer: Consumer) -> None:
        """Let the core finish what is running of the lane and give the rest back."""
        consumer.buffer.clear()
        if consumer.lane is None:
            consumer.forget()
            return
        consumer.leaving = True
        consumer.handing_over = asyncio.create_task(
            self._drain(consumer, consumer.lane), name=f"anybroker lane {consumer.lane.name}"
        )

    async def _drain(self, consumer: Consumer, lane: Lane) -> None:
        """Until the handlers that are running have returned."""
        try:
            await self._member.listener.revoked([lane])
            if consumer.lane is not lane:
                pass  # its lease has run out meanwhile
            elif consumer.pin and not consumer.verified:  # it may still be ours: the server is asked first
                self._member.answer(consumer.unacknowledged(), NAK)
                consumer.forget()
            else:
                await self.leave(consumer)
        finally:
            consumer.leaving = False
            consumer.handing_over = None
            self._member.waker.wake()

    async def leave(self, consumer: Consumer) -> None:
        """Let the lane go, then give back what is unacknowledged."""
        member = self._member
        consumer.leaving = True
        try:
            starts = {sequence: count for sequence, count in consumer.starts.items() if sequence in consumer.released}
            await write_notes(member.answers, member.spec.topic, member.spec.group, starts)
            if consumer.pin and consumer.verified:
                try:
                    await self.unpin(consumer)
                except (BrokerError, ApiError, *CLIENT_ERRORS):
                    pass  # the pin runs out by itself: this member pulls no more with it
            member.answer(consumer.unacknowledged(), NAK)
            consumer.left_pin = consumer.pin
            consumer.lose_pin()
            consumer.forget()
        finally:
            consumer.leaving = consumer.handing_over is not None
            member.waker.wake()

    async def unpin(self, consumer: Consumer) -> None:
        """Let the server pin whichever member pulls next. Raises ApiError, and what nats-py raises."""
        operation = f"CONSUMER.UNPIN.{self._member.stream}.{consumer.name}"
        await self._member.link.api(operation, {"group": PRIORITY_GROUP})

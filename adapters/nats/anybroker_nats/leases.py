"""The leases of what is unacknowledged: extended while it is ours, ended when this process or its connection stood
still."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from anybroker.printable import logger

from .commands import PROGRESS, touch_request
from .consumer import Consumer
from .durations import ack_wait, lease_of, pull_wait
from .giving_back import GivingBack
from .member import Member

__all__ = ["Leases"]

_log = logger("anybroker.nats")


class Leases:
    """One timer for all lanes of a member. The core extends only what it has, and only while it has something."""

    def __init__(self, member: Member, giving_back: GivingBack, lease: float) -> None:
        self._member = member
        self._giving_back = giving_back
        self._timer: asyncio.TimerHandle | None = None
        self._set(lease)

    def _set(self, lease: float) -> None:
        ordered = self._member.spec.ordered
        self.lease = lease
        """Seconds. Unlike the two that follow from it, it is the whole group's."""
        self._ack_wait = ack_wait(lease, ordered)
        self.pull_wait = pull_wait(lease, ordered)

    def start(self) -> None:
        """Begin to watch over leases."""
        now = asyncio.get_running_loop().time()
        for consumer in self._member.consumers:
            consumer.extended = now
        self._set_timer()

    def stop(self) -> None:
        """Extend nothing more by itself."""
        if self._timer is not None:
            self._timer.cancel()

    def adopt(self, info: dict[str, Any]) -> None:
        """A member that came later may have given the group a shorter lease."""
        lease = lease_of(info)
        if lease < self.lease:
            self._set(lease)
            self._set_timer()

    def _set_timer(self) -> None:
        """For the next look: after a third of the time for which the server waits, and when a lease ends."""
        loop = asyncio.get_running_loop()
        self.stop()
        now = loop.time()
        ends = [
            consumer.extended + seconds + 0.01
            for consumer in self._member.consumers
            for seconds in (self._ack_wait, self.lease)
        ]
        due = min(now + self._ack_wait / 3, *(end for end in ends if end > now), math.inf)
        self._timer = loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self.extend()
        self._set_timer()

    def extend(self) -> None:
        """Extend the leases of lanes that are ours, at most six times while the server waits; and end those that ran
        out."""
        now = asyncio.get_running_loop().time()
        member = self._member
        if member.failure is not None:
            return
        connected = member.client.is_connected
        for consumer in member.consumers:
            age = now - consumer.extended
            if age > (self.lease if consumer.ordered else self._ack_wait):
                self._expire(consumer, now)  # without a connection too: nothing of it may start here any more
            elif consumer.ordered and age > self._ack_wait and consumer.handing_over is None:
                if connected and consumer.verified:
                    consumer.doubt_pin()  # this process stood still
                elif consumer.lane is not None or consumer.buffer:
                    # A server that was restarted has lost its pins: it may now give what we have to another member.
                    self._giving_back.start_nothing_more(consumer)
        if connected:
            member.write(b"".join([command for each in member.consumers for command in self._renewal(each, now)]))

    def _renewal(self, consumer: Consumer, now: float) -> list[bytes]:
        """The commands that extend what is unacknowledged, and the pin; none where the lane is not ours, or too
        early."""
        if now - consumer.extended <= self._ack_wait / 6 or not consumer.may_extend:
            return []
        consumer.extended = now
        commands = [b"PUB " + reply + PROGRESS for reply in consumer.leased()]
        if consumer.pin and consumer.verified and not consumer.leaving:
            commands.append(self._member.pull(consumer, touch_request(consumer.pin), b".t"))
        return commands

    def _expire(self, consumer: Consumer, now: float) -> None:
        """Nothing was extended for a whole lease: other members have what this one had, or it comes again."""
        consumer.extended = now
        if not consumer.has_unacknowledged and (not consumer.ordered or consumer.lane is None):
            return
        if consumer.lane is not None:
            spec = self._member.spec
            _log.warning(
                "%s/%s: the lease of the lane %s ran out: another member may have its events",
                spec.topic,
                spec.group,
                consumer.lane.name,
            )
            self._member.listener.lost([consumer.lane])
        consumer.forget()
        if not consumer.ordered:
            self._member.assign(consumer)

"""What the core asks for to share lanes out: how many members there are. On the way, lanes that another member has, or
that stand still, are noticed, even while the core asks for no events."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from anybroker.errors import ConfigError, Unavailable
from anybroker.printable import logger

from .consumer import Consumer
from .failures import nats_errors
from .leases import Leases
from .member import Member, pinned_client
from .presence import Presence
from .take_over import TakeOver

__all__ = ["Balance"]

_log = logger("anybroker.nats")

_QUIET: Final = 5.0
"""Seconds beyond a pull's end for which a lane with waiting messages may deliver none: then this member starts anew."""
_WARN: Final = 60.0
"""Seconds between two warnings about a lane that waits for another member."""


class Balance:
    """Checks every lane each time that members are counted."""

    def __init__(self, member: Member, take_over: TakeOver, leases: Leases, presence: Presence | None) -> None:
        """``presence``: None where the group is unordered."""
        self._member = member
        self._take_over = take_over
        self._leases = leases
        self._presence = presence

    async def members(self) -> int:
        """How many members the group has, at least one. Raises ``BrokerError``."""
        try:
            for consumer in self._member.consumers:
                await self._check(consumer)
            return 1 if self._presence is None else await self._presence.count()
        except ConfigError as exc:
            raise Unavailable(str(exc)) from exc.__cause__

    async def _check(self, consumer: Consumer) -> None:
        pin, spec = consumer.pin, self._member.spec
        with nats_errors(f"checking the lanes of {spec.group!r} of {spec.topic!r}"):
            info = await self._take_over.info(consumer)
        if consumer.leaving or consumer.pin != pin or self._member.stopped:
            return
        if consumer.lane is not None or consumer.has_unacknowledged:
            pinned = pinned_client(info)
            if pinned or consumer.pin:
                self._take_over.compare(consumer, pinned)
        self._notice_silence(consumer, info)

    def _notice_silence(self, consumer: Consumer, info: dict[str, Any]) -> None:
        """A lane that has messages and delivers none must not stand still without a word."""
        now = asyncio.get_running_loop().time()
        moved, consumer.arrivals = consumer.arrivals, 0
        ours = not consumer.ordered or pinned_client(info) == consumer.pin
        unanswered = consumer.outstanding and info["num_pending"] and not consumer.buffer and not info.get("paused")
        waits = consumer.pin and not consumer.synced
        if moved or not ours or not (unanswered or waits):
            consumer.quiet_since = now
            return
        quiet = now - consumer.quiet_since
        if unanswered and not waits and quiet > self._leases.pull_wait + _QUIET:
            self._member.fail(
                Unavailable(
                    f"NATS delivers nothing from {consumer.name!r} though {info['num_pending']} messages wait: "
                    "joining the group again"
                )
            )
        elif waits and quiet > self._leases.lease + _QUIET and now - consumer.warned_at > _WARN:
            consumer.warned_at = now
            _log.warning(
                "%s/%d: the lane waits for what another member has not finished: %d unacknowledged, %d here, %.0f s",
                self._member.spec.topic,
                consumer.index,
                info["num_ack_pending"],
                len(consumer.buffer) + len(consumer.unsettled),
                quiet,
            )

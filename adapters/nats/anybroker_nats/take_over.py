"""Taking lanes over: what the server is asked before the messages of a lane may go to the core."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from anybroker.errors import BrokerError, Unavailable

from .consumer import ASK_AGAIN, Consumer
from .failures import CLIENT_ERRORS, FORBIDDEN, ApiError
from .giving_back import GivingBack
from .leases import Leases
from .member import Member, pinned_client
from .notes import read_notes

__all__ = ["TakeOver"]

_CLAIM: Final = 1.0
"""Seconds between two checks whether this is the only member, while no message of a lane has told whose it is."""
_FREE: Final = 0.5
"""Seconds between two checks whose a lane is that no member has at the moment."""


class TakeOver:
    """Finds out whose each lane is, and when its order is certain. See :class:`Consumer` for the rules."""

    def __init__(self, member: Member, giving_back: GivingBack, leases: Leases) -> None:
        self._member = member
        self._giving_back = giving_back
        self._leases = leases

    def ask_where_needed(self, now: float) -> None:
        """Start to ask what has to be asked, for each lane separately: a lane without a leader gets no answer, and must
        not hold up the others. What a lane has waits meanwhile. Raises what asking has failed with unexpectedly."""
        for consumer in self._member.consumers:
            asking = consumer.asking
            if asking is not None:
                if not asking.done():
                    continue
                consumer.asking = None
                if not asking.cancelled():
                    asking.result()
            if not consumer.leaving and consumer.must_ask(now):
                name = f"anybroker {self._member.spec.topic}/{consumer.index}: asking"
                consumer.asking = asyncio.create_task(self._ask(consumer, now), name=name)
                consumer.asking.add_done_callback(self._asked)

    def _asked(self, _: asyncio.Task[None]) -> None:
        self._member.waker.wake()

    async def _ask(self, consumer: Consumer, now: float) -> None:
        """Ask what is due. What the server could not answer is asked again soon; what is gone ends the receiver."""
        try:
            await self._ask_what_is_due(consumer, now)
        except ApiError as exc:
            if exc.code in (404, FORBIDDEN):
                what = "shows this user no consumer" if exc.code == FORBIDDEN else "no longer has a consumer"
                error = Unavailable(f"NATS {what} {consumer.name!r}: {exc}")
                error.__cause__ = exc
                self._member.fail(error)
            consumer.postpone(now + ASK_AGAIN)
        except (BrokerError, *CLIENT_ERRORS):
            consumer.postpone(now + ASK_AGAIN)  # nats-py is repairing the connection

    async def _ask_what_is_due(self, consumer: Consumer, now: float) -> None:
        if consumer.may_be_gone and now >= consumer.retry_at:
            consumer.may_be_gone = False
            await self.info(consumer)
        if not consumer.verified:
            if now >= consumer.verify_at:
                await self._verify(consumer)
        elif consumer.pin and not consumer.synced and now >= consumer.sync_at:
            await self._sync(consumer)
        elif consumer.lane is None and not consumer.pin and now >= consumer.sync_at:
            await self._claim(consumer)
        if consumer.synced and consumer.notes_due:
            spec = self._member.spec
            consumer.starts |= await read_notes(self._member.link, spec.topic, spec.group)
            consumer.notes_due = False

    async def info(self, consumer: Consumer) -> dict[str, Any]:
        """See :meth:`Member.info`; keeps to the lease that it names."""
        info = await self._member.info(consumer)
        self._leases.adopt(info)
        return info

    async def _verify(self, consumer: Consumer) -> None:
        """Ask the server whose the lane is, after what may have cost us the pin."""
        pin = consumer.pin
        info = await self.info(consumer)
        self._member.acknowledge_again(consumer)  # at the reconnect there was perhaps no leader to take them
        consumer.verify_at = asyncio.get_running_loop().time() + ASK_AGAIN
        if consumer.unpin_first and not consumer.pin:
            consumer.unpin_first = False
            if pinned_client(info):
                # If another member has the lane after all, it gives back what it has, and this one waits for that.
                await self._giving_back.unpin(consumer)
                return
        if consumer.pin == pin and not consumer.leaving and not consumer.verified:
            self.compare(consumer, pinned_client(info))

    def compare(self, consumer: Consumer, pinned: bytes) -> None:
        """Compare whose the lane is by the server's word, ``pinned``, with what this member knows."""
        if pinned and pinned == consumer.pin:
            consumer.verified = True
            self._leases.extend()
        elif pinned and (consumer.pin or pinned == consumer.other_pin):
            # Without a pin of our own: seen twice. The message that would say that it is ours has arrived by now.
            self._giving_back.hand_over(consumer)
        elif pinned:
            consumer.free = False
            consumer.other_pin = pinned
        else:  # a server that was restarted, or a pin that ran out: the lane goes to whichever member pulls first
            if consumer.pin:
                self._giving_back.lose_pin(consumer)
            consumer.free = True
            consumer.other_pin = b""
            consumer.verified = not consumer.has_unacknowledged
            consumer.verify_at = asyncio.get_running_loop().time() + _FREE
            self._leases.extend()

    async def _sync(self, consumer: Consumer) -> None:
        """Ask the server whether we have all that is unacknowledged. See :class:`Consumer`."""
        pin = consumer.pin
        self._leases.extend()
        info = await self.info(consumer)
        if consumer.pin != pin or consumer.leaving:
            return
        delivered = info["delivered"]
        held = consumer.count_held(delivered["consumer_seq"], delivered["stream_seq"])
        missing = info["num_ack_pending"] - held
        if missing > 0:
            # What was lost with another member comes again when its lease ends, before anything new. What another
            # member is finishing does not come: then each pull brings one newer message, and no more.
            consumer.wanted = missing if consumer.redelivering else 1
            consumer.sync_at = asyncio.get_running_loop().time() + ASK_AGAIN
            return
        consumer.synced = True
        consumer.buffer = dict(sorted(consumer.buffer.items()))
        if consumer.lane is None:
            self._member.assign(consumer)

    async def _claim(self, consumer: Consumer) -> None:
        """The only member has every lane, even those from which nothing has come: the server tells no one."""
        waiting = bool(consumer.outstanding)
        info = await self.info(consumer)
        if consumer.pin or consumer.leaving or consumer.lane is not None:
            return
        if info["num_waiting"] <= waiting and not info["num_ack_pending"] and not pinned_client(info):
            self._member.assign(consumer)
        else:
            consumer.sync_at = asyncio.get_running_loop().time() + _CLAIM

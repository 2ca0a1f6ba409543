"""One JetStream consumer as a member sees it: what is unacknowledged, and whether the order of what comes is known."""

from __future__ import annotations

import asyncio
import math
import re
from typing import Final, NamedTuple

from anybroker.adapter import Lane

from .commands import ACK, NAK

__all__ = ["ANSWER_TIMEOUT", "ASK_AGAIN", "Arrived", "Consumer"]

ANSWER_TIMEOUT: Final = 1.0
"""Seconds to wait for an answer at first, twice as long each time that none came."""
ASK_AGAIN: Final = 0.2
"""Seconds until the server is asked again for what it could not answer, or what was not complete."""
_REMEMBERED: Final = 10_000
"""Acknowledgements that are sent again after a loss of the connection: more than can be on their way."""
_find_pin: Final = re.compile(rb"Nats-Pin-Id: ?([^\r\n]+)\r\n\r\n\Z").search
"""The server writes it at the end of what it delivers. Further up it is the publisher's, who cannot know it."""


class Arrived(NamedTuple):
    """A delivery that the core does not have yet."""

    deliveries: int
    subject: bytes
    reply: bytes
    body: bytes
    headers: bytes | None


class Consumer:
    """State only; asking the server is left to others.

    A lane is ours while the server's pin is: the server delivers only to pulls that name it. A member that becomes
    pinned may get newer messages before older ones that another member still has, or that were lost with its
    connection. So what arrives is held until we have everything that the server counts as unacknowledged. Then the
    consumer is ``synced``, and continues in the stream's order.

    The next member waits for what we have. So a pin that may be gone (the connection was lost, a pull was refused)
    makes the lane not ``verified``: nothing of it is started or extended until the server has said whose it is.
    """

    def __init__(self, index: int, name: str, ordered: bool) -> None:
        self.index = index
        self.name = name
        self.ordered = ordered
        self.lane: Lane | None = None
        self.synced = not ordered
        self.sync_at = 0.0
        """When to compare with the server next."""
        self.pin = b""
        self.other_pin = b""
        """A pin that the server named and that was not ours."""
        self.left_pin = b""
        """Deliveries with this pin come after the lane was given back."""
        self.verified = True
        """Whether the lane is still ours, as far as we know: no other member is pinned."""
        self.verify_at = 0.0
        """When to ask the server whose the lane is, if that is not known."""
        self.unpin_first = False
        """The connection was lost while the lane was ours without a pin. A pin that the server gave to that connection
        reached no member, and would keep the lane until it runs out."""
        self.free = False
        """The server said that no member is pinned: extending what we have keeps the lane from none."""
        self.leaving = False
        self.handing_over: asyncio.Task[None] | None = None
        """Another member is pinned, or may be: what is running here finishes, and the rest has gone back."""
        self.asking: asyncio.Task[None] | None = None
        """The server is being asked something about the lane."""
        self.answer_timeout = ANSWER_TIMEOUT
        self.extended = 0.0
        """When the leases of what is unacknowledged were extended."""
        self.arrivals = 0
        """Since the last check for lanes from which nothing comes, …"""
        self.quiet_since = 0.0
        """… which found something coming at this time, …"""
        self.warned_at = 0.0
        """… and warned at this time."""
        self.generation = 0
        """Counts the pins that were lost. Part of the subject for a pull's end, which tells late ones apart."""
        self.outstanding = 0
        """Messages that may still come of the last pull."""
        self.expires_at = 0.0
        """When the last pull ends."""
        self.retry_at = 0.0
        """When to pull again after a refusal."""
        self.may_be_gone = False
        """No server answered a pull: the consumer may have been deleted."""
        self.wanted = 0
        """How many to pull while not synced."""
        self.redelivering = False
        self.notes_due = False
        """Something that was started before has arrived: the notes have to be read."""
        self.buffer: dict[int, Arrived] = {}
        """By stream sequence, in the order in which it goes to the core."""
        self.unsettled: dict[int, bytes] = {}
        """What the core has: stream sequence to reply subject."""
        self.released: dict[int, bytes] = {}
        """What the core gave back of an ordered lane: it goes back with the lane, or its lease runs out."""
        self.acked: dict[int, bytes] = {}
        self.starts: dict[int, int] = {}
        """Handler starts: what the last member has noted, and what we have to."""

    def arrived(self, item: Arrived, sequence: int) -> bytes:
        """Keep a delivery. Returns the commands to answer it with."""
        if self.ordered and (not self.pin or self.left_pin):
            found = _find_pin(item.headers or b"")
            pin = found[1] if found else b""
            if pin and pin == self.left_pin:
                return b"PUB " + item.reply + NAK
            if pin and not self.pin:
                self.pin, self.sync_at, self.verified = pin, 0.0, True
                self.free, self.other_pin = False, b""
        self.arrivals += 1
        if self.outstanding:
            self.outstanding -= 1
        self.redelivering = item.deliveries > 1
        if sequence in self.unsettled and _is_same_message(self.unsettled[sequence], item.reply):
            self.unsettled[sequence] = item.reply  # a handler has it already
        elif sequence in self.acked and _is_same_message(self.acked[sequence], item.reply):
            return b"PUB " + item.reply + ACK  # the acknowledgement was lost on its way
        else:
            for each in (self.unsettled, self.acked, self.released):
                each.pop(sequence, None)
            self.buffer[sequence] = item
            self.notes_due = self.notes_due or item.deliveries > 1
        return b""

    def remember_ack(self, sequence: int, reply: bytes) -> None:
        """So that it can be sent again."""
        acked = self.acked
        acked[sequence] = reply
        if len(acked) > _REMEMBERED:
            del acked[next(iter(acked))]

    def count_held(self, consumer_sequence: int, stream_sequence: int) -> int:
        """How many unacknowledged deliveries we have, up to the last one that the server knows of: these are its
        numbers. A server that was killed may know less than it had sent, and continues counting from there."""
        return sum(
            sequence <= stream_sequence and _consumer_sequence(reply) <= consumer_sequence
            for sequence, reply in self._replies().items()
        )

    def doubt_pin(self) -> None:
        """The pin may be gone. What has arrived and was not started waits until the server has said whose the lane
        is."""
        if self.ordered and (self.pin or self.lane is not None or self.has_unacknowledged):
            self.verified = self.free = False
            self.verify_at = 0.0
            self.other_pin = b""

    def lose_pin(self) -> None:
        """Another member may be pinned from now on. What is unacknowledged is still ours to finish."""
        self.pin = b""
        self.generation += 1
        self.unsync()

    def unsync(self) -> None:
        """The order of what comes next is no longer known."""
        self.outstanding = 0
        self.synced = not self.ordered
        self.sync_at = 0.0
        self.wanted = 0

    def forget(self) -> None:
        """Everything that is unacknowledged belongs to others now."""
        self.lane = None
        for each in (self.buffer, self.unsettled, self.released, self.starts):
            each.clear()
        self.verified = not self.pin or self.verified
        self.free = False
        self.other_pin = b""
        self.unsync()

    def postpone(self, until: float) -> None:
        """Ask the server nothing before then."""
        self.sync_at = self.retry_at = self.verify_at = until

    @property
    def has_unacknowledged(self) -> bool:
        """Whether anything is not acknowledged."""
        return bool(self.buffer or self.unsettled or self.released)

    def unacknowledged(self) -> list[bytes]:
        """The reply subjects of all that is not acknowledged, in the stream's order."""
        replies = self._replies()
        return [replies[sequence] for sequence in sorted(replies)]

    def _replies(self) -> dict[int, bytes]:
        return {sequence: item.reply for sequence, item in self.buffer.items()} | self.unsettled | self.released

    @property
    def _must_sync(self) -> bool:
        """Whether the server has to be asked for something before what arrives may go to the core."""
        if self.synced:
            return self.notes_due
        return self.verified and (bool(self.pin) or self.lane is None)

    def must_ask(self, now: float) -> bool:
        """Whether something has to be asked of the server now."""
        if self.may_be_gone and now >= self.retry_at:
            return True
        if not self.verified and now >= self.verify_at:
            return True
        return now >= self.sync_at and self._must_sync

    def due(self, now: float) -> float:
        """When there is something to do for it, even if nothing arrives."""
        if self.leaving or self.asking is not None:
            return math.inf
        due = self.expires_at if self.outstanding else math.inf
        if not self.outstanding and self.retry_at > now:
            due = self.retry_at
        if not self.verified:
            due = min(due, self.verify_at)
        elif self._must_sync:
            due = min(due, self.sync_at)
        return due

    @property
    def may_extend(self) -> bool:
        """Whether leases may be extended: never against another member, which waits for them to end."""
        return self.verified or self.free or self.handing_over is not None

    def leased(self) -> list[bytes]:
        """The reply subjects of all whose lease has to be extended."""
        return [*(item.reply for item in self.buffer.values()), *self.unsettled.values()]

    def drop_buffer(self) -> list[bytes]:
        """Forget what the core does not have; its reply subjects, in the stream's order."""
        replies = [self.buffer[sequence].reply for sequence in sorted(self.buffer)]
        self.buffer.clear()
        return replies


def _is_same_message(one: bytes, other: bytes) -> bool:
    """Whether two deliveries with one stream sequence are of one message. A stream that was deleted and made again
    counts from one again, but its time-stamps differ."""
    fields, others = one.split(b"."), other.split(b".")
    return fields[7 if len(fields) == 9 else 9] == others[7 if len(others) == 9 else 9]


def _consumer_sequence(reply: bytes) -> int:
    """``$JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>…``, or with domain and hash."""
    fields = reply.split(b".")
    return int(fields[6 if len(fields) == 9 else 8])

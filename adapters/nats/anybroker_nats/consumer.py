"""One JetStream consumer as this member sees it: what is out, and whether the order of what comes is known."""

from __future__ import annotations

import asyncio
import re
from typing import Final, NamedTuple

from anybroker.adapter import Lane

from .names import PRIORITY_GROUP

__all__ = ["ACK", "NAK", "PATIENCE", "PROGRESS", "Arrived", "Consumer"]

ACK: Final = b" 0\r\n\r\n"
"""What follows ``PUB <reply>`` to acknowledge a delivery, …"""
NAK: Final = b" 4\r\n-NAK\r\n"
"""… to have it delivered again at once, …"""
PROGRESS: Final = b" 4\r\n+WPI\r\n"
"""… to have its lease begin anew."""

PATIENCE: Final = 1.0
"""Seconds that an answer is waited for at first, twice as long each time that none came."""
_REMEMBERED: Final = 10_000
"""Acknowledgements that are sent again after a loss of the connection: more than can be on their way."""
_find_pin: Final = re.compile(rb"Nats-Pin-Id: ?([^\r\n]+)\r\n\r\n\Z").search
"""The server writes it at the end of what it delivers; further up it is the publisher's, who cannot know it."""


class Arrived(NamedTuple):
    """A delivery that the core has not got."""

    deliveries: int
    subject: bytes
    reply: bytes
    body: bytes
    headers: bytes | None


class Consumer:
    """State only; what is asked of the server is the receiver's.

    A lane is ours while the server's pin is: it delivers only to pulls that name it. A member that becomes pinned may
    get newer messages before older ones that another member still has, or that were lost with its connection. So what
    arrives is held, until we have all that the server counts as unacknowledged: then the consumer is ``synced``, and
    goes on in the stream's order.

    The next one waits for what we have. So a pin that may be gone (the connection was lost, a pull was refused) makes
    the lane not ``verified``: nothing of it is begun or extended until the server has said whose it is.
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
        self.verified = True
        """Whether the lane is still ours, as far as we know: no other member is pinned."""
        self.verify_at = 0.0
        """When to ask the server whose the lane is, if that is not known."""
        self.unpin = False
        """The connection was lost while the lane was ours without a pin: one that the server gave to it reached nobody,
        and would keep the lane until it runs out."""
        self.free = False
        """The server said that no member is pinned: to extend what we have keeps it from none."""
        self.handing_over: asyncio.Task[None] | None = None
        """Another member is pinned, or may be: what runs here ends, and the rest has gone back."""
        self.looking: asyncio.Task[None] | None = None
        """Something is being asked of the server about the lane."""
        self.patience = PATIENCE
        """How long to wait for the next answer."""
        self.extended = 0.0
        """When the leases of what is out were extended."""
        self.quiet_since = 0.0
        self.told_at = 0.0
        self.arrivals = 0
        """For the watch over lanes from which nothing comes."""
        self.generation = 0
        """Counts the pins that were lost; part of the subject for a pull's end, to know what is late."""
        self.left_pin = b""
        """Deliveries with this pin come after the lane was given back."""
        self.leaving = False
        self.outstanding = 0
        """Messages that may still come of the last pull."""
        self.expires_at = 0.0
        self.retry_at = 0.0
        self.doubted = False
        """Nobody answered a pull: the consumer may be gone."""
        self.wanted = 0
        """How many to pull while not synced."""
        self.redelivering = False
        self.look = False
        """Something that was begun before has arrived: the notes are to be read."""
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
        """Keep a delivery; returns the commands to answer it with."""
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
        if sequence in self.unsettled and _same(self.unsettled[sequence], item.reply):
            self.unsettled[sequence] = item.reply  # a handler has it already
        elif sequence in self.acked and _same(self.acked[sequence], item.reply):
            return b"PUB " + item.reply + ACK  # the acknowledgement was lost on its way
        else:
            for each in (self.unsettled, self.acked, self.released):
                each.pop(sequence, None)
            self.buffer[sequence] = item
            self.look = self.look or item.deliveries > 1
        return b""

    def remember_ack(self, sequence: int, reply: bytes) -> None:
        """So that it can be sent again."""
        acked = self.acked
        acked[sequence] = reply
        if len(acked) > _REMEMBERED:
            del acked[next(iter(acked))]

    def ours(self, consumer_sequence: int, stream_sequence: int) -> int:
        """How many deliveries we have up to these numbers of the last one that the server knows of. A server that was
        killed may know less than it had sent, and counts on from there."""
        have = {sequence: item.reply for sequence, item in self.buffer.items()} | self.unsettled | self.released
        return sum(
            sequence <= stream_sequence and _consumer_sequence(reply) <= consumer_sequence
            for sequence, reply in have.items()
        )

    def doubt(self) -> None:
        """The pin may be gone. What was received and not begun waits until the server has said whose the lane is."""
        if self.ordered and (self.pin or self.lane is not None or self.has_out):
            self.verified = self.free = False
            self.verify_at = 0.0
            self.other_pin = b""

    def lose_pin(self) -> None:
        """Another may be pinned from now on. What is out is still ours to finish."""
        self.pin = b""
        self.generation += 1
        self.unsync()

    def unsync(self) -> None:
        """The order of what comes next is not known any more."""
        self.outstanding = 0
        self.synced = not self.ordered
        self.sync_at = 0.0
        self.wanted = 0

    def forget(self) -> None:
        """All that is out is somebody else's."""
        self.lane = None
        for each in (self.buffer, self.unsettled, self.released, self.starts):
            each.clear()
        self.verified = not self.pin or self.verified
        self.free = False
        self.other_pin = b""
        self.unsync()

    @property
    def has_out(self) -> bool:
        """Whether anything is not acknowledged."""
        return bool(self.buffer or self.unsettled or self.released)

    def out(self) -> list[bytes]:
        """The reply subjects of all that is not acknowledged, in the stream's order."""
        found = {sequence: item.reply for sequence, item in self.buffer.items()} | self.unsettled | self.released
        return [found[sequence] for sequence in sorted(found)]

    @property
    def waits(self) -> bool:
        """Whether something has to be asked of the server before what arrives may go to the core."""
        if self.synced:
            return self.look
        return self.verified and (bool(self.pin) or self.lane is None)

    @property
    def keeps(self) -> bool:
        """Whether leases may be extended: never against another member, which waits for them to end."""
        return self.verified or self.free or self.handing_over is not None

    def leased(self) -> list[bytes]:
        """The reply subjects of all whose lease has to be extended."""
        return [*(item.reply for item in self.buffer.values()), *self.unsettled.values()]

    def drop_buffer(self) -> list[bytes]:
        """Forget what the core has not got; its reply subjects, in the stream's order."""
        replies = [self.buffer[sequence].reply for sequence in sorted(self.buffer)]
        self.buffer.clear()
        return replies

    def request(self, batch: int, expires: int, max_bytes: int) -> bytes:
        """The body of a pull; ``expires`` in nanoseconds."""
        pin = b',"id":"%b"' % self.pin if self.pin else b""
        group = b',"group":"%b"%b' % (PRIORITY_GROUP.encode(), pin) if self.ordered else b""
        return b'{"batch":%d,"expires":%d,"max_bytes":%d%b}' % (batch, expires, max_bytes, group)

    def touch(self) -> bytes:
        """The body of a pull that keeps the pin and gets nothing: no message fits."""
        return b'{"batch":1,"no_wait":true,"max_bytes":1,"group":"%b","id":"%b"}' % (PRIORITY_GROUP.encode(), self.pin)


def _same(one: bytes, other: bytes) -> bool:
    """Whether two deliveries with one stream sequence are of one message: a stream that was deleted and made again
    counts from one again, and its time-stamps go on."""
    fields, others = one.split(b"."), other.split(b".")
    return fields[7 if len(fields) == 9 else 9] == others[7 if len(others) == 9 else 9]


def _consumer_sequence(reply: bytes) -> int:
    """``$JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>…``, or with domain and hash."""
    fields = reply.split(b".")
    return int(fields[6 if len(fields) == 9 else 8])

"""What the parts of one receiver share: its group, its consumers, its inboxes, and why it has failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from anybroker.adapter import Lane, LaneListener, SubscriptionSpec
from anybroker.errors import BrokerError
from anybroker.kit.waker import Waker

from .answers import Answers
from .client import RawClient
from .commands import ACK, pull_command
from .consumer import ANSWER_TIMEOUT, Consumer
from .link import Link
from .names import consumer_name, lane_numbers, stream_name

__all__ = ["Member", "pinned_client"]


class Member:
    """One member of a group, on one connection."""

    def __init__(
        self,
        link: Link,
        client: RawClient,
        spec: SubscriptionSpec,
        listener: LaneListener,
        epochs: Iterator[int],
        lanes: int,
    ) -> None:
        """``lanes``: of the group; 0 where it is unordered."""
        self.link = link
        self.client = client
        self.spec = spec
        self.listener = listener
        self._epochs = epochs
        self.stream = stream_name(spec.topic)
        self.consumers = [
            Consumer(index, consumer_name(spec.group, number), number is not None)
            for index, number in enumerate(lane_numbers(lanes))
        ]
        inbox = client.new_inbox()
        self.prefix = f"{inbox}.d.".encode()
        """How the inbox for deliveries begins: lane and generation of a pull follow."""
        self.answers = Answers(client, inbox, link.timeout)
        self.failure: BrokerError | None = None
        self.stopped = False
        self.closed = False
        self.waker = Waker()
        """Lets ``receive`` look at what has changed."""

    def write(self, commands: bytes) -> bool:
        """Whether these were handed to the connection; False for none."""
        return bool(commands) and self.client.write(commands)

    def answer(self, replies: Iterable[bytes], word: bytes) -> None:
        """Answer these deliveries with ``ACK``, ``NAK`` or ``PROGRESS``."""
        self.write(b"".join([b"PUB " + reply + word for reply in replies]))

    def acknowledge_again(self, consumer: Consumer) -> None:
        """Repeat the last acknowledgements: where one was lost, the lane's next member handles its event again."""
        self.answer(consumer.acked.values(), ACK)

    def pull(self, consumer: Consumer, body: bytes, suffix: bytes = b"") -> bytes:
        """The command that pulls from a consumer. ``suffix``: of the subject where the pull's end is told."""
        inbox = b"%b%d.%d%b" % (self.prefix, consumer.index, consumer.generation, suffix)
        return pull_command(self.stream, consumer.name, inbox, body)

    async def info(self, consumer: Consumer) -> dict[str, Any]:
        """What the server says about a consumer. Raises ApiError, and what nats-py raises."""
        operation = f"CONSUMER.INFO.{self.stream}.{consumer.name}"
        try:
            info = await self.link.api(operation, timeout=min(consumer.answer_timeout, self.link.timeout))
        except TimeoutError:
            consumer.answer_timeout *= 2  # no leader, or a slow server
            raise
        consumer.answer_timeout = ANSWER_TIMEOUT
        return info

    def assign(self, consumer: Consumer) -> None:
        """The lane is this member's from now on."""
        consumer.lane = Lane(f"{self.spec.topic}/{consumer.index}", next(self._epochs))
        self.listener.assigned(consumer.lane)

    def fail(self, error: BrokerError) -> None:
        """This member is dead: what it has comes again when its lease ends."""
        if self.failure is None and not self.closed:
            self.failure = error
            lanes = [each.lane for each in self.consumers if each.lane is not None]
            if lanes:
                self.listener.lost(lanes)
            self.answers.give_up()
            self.waker.wake()


def pinned_client(info: dict[str, Any]) -> bytes:
    """The pin of the member that has the lane; empty if none has it."""
    return next((str(each.get("pinned_client_id", "")).encode() for each in info.get("priority_groups", ())), b"")

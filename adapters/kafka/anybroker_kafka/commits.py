"""A member's commits: one request at a time, and only of what is not committed already."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError, IllegalGenerationError, IllegalStateError, UnknownMemberIdError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from anybroker.adapter import Commit
from anybroker.errors import BrokerError, LeaseLost, Unavailable
from anybroker.kit.wording import said

from .closing import ignore_outcome
from .cluster import Positions
from .failures import CLIENT_ERRORS
from .notes import mark
from .topic_info import TopicInfo

__all__ = ["Commits"]


class Commits:
    """Commits for the partitions of one assignment after the other.

    A commit that says nothing new is not sent: repeated at a revoke, it could be of a topic that was made again since.
    """

    def __init__(self, consumer: AIOKafkaConsumer, group: str, timeout: float) -> None:
        """``timeout``: seconds for one commit."""
        self._consumer = consumer
        self._group = group
        self._timeout = timeout
        self._closed = False
        self._topics: Mapping[str, TopicInfo] = {}
        self._stored: dict[TopicPartition, OffsetAndMetadata] = {}
        self._sending: asyncio.Task[None] | None = None

    def begin(self, positions: Positions) -> None:
        """An assignment begins, at these positions."""
        self._topics = positions.topics
        self._stored = {tp: self._marked(tp, at.offset, at.metadata) for tp, at in positions.commits.items()}

    def end(self) -> None:
        """The assignment is over."""
        self._stored = {}
        if self._sending is not None:
            self._sending.cancel()  # aiokafka would send it under the new membership, over another one's commit
            self._sending = None

    def close(self) -> None:
        """Begin no commit from now on."""
        self._closed = True

    @property
    def under_way(self) -> asyncio.Task[None] | None:
        """The commit that was sent and has no answer yet."""
        return self._sending

    async def store(self, commits: Mapping[TopicPartition, Commit]) -> dict[TopicPartition, BrokerError]:
        """What was not committed; ``LeaseLost`` where the group has put this member out."""
        errors: dict[TopicPartition, BrokerError] = {}
        offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        for tp, commit in commits.items():
            offset = self._marked(tp, commit.position, commit.note)
            if self._stored.get(tp) == offset:
                continue
            if self._consumer.partitions_for_topic(tp.topic) is None:
                # aiokafka would try until a topic of that name exists, and commit the old one's position to it.
                errors[tp] = Unavailable(f"Kafka has no topic {tp.topic!r} now: its positions are not kept")
                continue
            offsets[tp] = offset
        if offsets:
            stored = self._stored
            error = await self._send(offsets)
            if error is not None:
                errors |= dict.fromkeys(offsets, error)
            elif self._stored is stored:  # else another assignment has begun
                stored.update(offsets)
        return errors

    def _marked(self, tp: TopicPartition, position: int, note: str) -> OffsetAndMetadata:
        """A commit that says which topic it is of: one that comes too late must not be taken for the next one's."""
        topic = self._topics.get(tp.topic)
        return OffsetAndMetadata(position, mark(note, "" if topic is None else topic.identity))

    async def _send(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> BrokerError | None:
        if self._closed:
            return Unavailable(f"the member of {self._group!r} is closed")
        # aiokafka tries for as long as the coordinator is away. An unanswered commit is left to it, and the next one
        # waits behind it: if it were cancelled, it could still arrive after its successor.
        earlier = self._sending
        if earlier is not None:
            await asyncio.wait({earlier}, timeout=self._timeout)
            if not earlier.done():
                return self._unanswered()
        self._sending = task = asyncio.create_task(self._consumer.commit(offsets))
        task.add_done_callback(ignore_outcome)
        await asyncio.wait({task}, timeout=self._timeout)
        if not task.done():
            return self._unanswered()
        if self._sending is task:
            self._sending = None
        if task.cancelled():  # by a rebalance: the lanes are not ours any more
            return None
        try:
            task.result()
        except CLIENT_ERRORS as exc:
            reason = exc.__cause__ if isinstance(exc, CommitFailedError) else exc
            put_out = isinstance(reason, UnknownMemberIdError | IllegalGenerationError | IllegalStateError)
            kind = LeaseLost if put_out else Unavailable
            error = kind(f"the positions of {self._group!r} were not committed: {said(reason or exc)}")
            error.__cause__ = exc
            return error
        return None

    def _unanswered(self) -> BrokerError:
        return Unavailable(f"Kafka did not confirm the positions of {self._group!r} within {self._timeout:.0f} s")

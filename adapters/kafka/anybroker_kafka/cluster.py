"""Questions to the cluster that are not about records: topics, offsets, consumer groups.

By the requests of aiokafka's protocol package over its client: its admin client creates topics that it is only asked
to describe, and takes a coordinator that is still loading for a group without offsets.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple, TypeVar

from aiokafka.client import CoordinationType
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    LeaderNotAvailableError,
    NotControllerError,
    RequestTimedOutError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.admin import (
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DescribeConfigsRequest,
    DescribeGroupsRequest,
)
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from .gaps import look
from .identity import TopicInfo, TopicsRequest, unmark
from .settings import DECOMPRESSED

__all__ = ["BEGINNING", "END", "Cluster", "Positions"]

BEGINNING, END = -2, -1
"""Moments that :meth:`Cluster.offsets` takes beside milliseconds since the epoch."""
_NO_OFFSET = -1
_NO_MEMBER = ("", -1)
_LOOK_BYTES = 16_384
"""Of each partition, when looking for its first event behind a position; a broker gives one whole batch at least."""
_PARTITIONS_AT_ONCE = 50
"""Partitions in one request for new topics: a broker takes seconds for hundreds, and a request has its time-out."""
_TOPIC, _LARGEST = 2, "max.message.bytes"
_T = TypeVar("_T")


class Positions(NamedTuple):
    """A group's committed positions that count, and those that do not."""

    commits: dict[TopicPartition, OffsetAndMetadata]
    """With their notes as they were given; partitions without one are left out."""
    stale: dict[TopicPartition, int]
    """Committed for a topic of the same name that was deleted since: they say nothing of this one."""
    topics: dict[str, TopicInfo]


class Cluster:
    """One connection for all of an adapter's questions. Every call raises what aiokafka raises, or TimeoutError."""

    def __init__(
        self,
        client: Any,
        timeout: float,
        read_committed: bool,
        patience: float | None = None,
        limit: int = DECOMPRESSED,
    ) -> None:
        """``timeout``: seconds for one question; ``patience``: for :meth:`patient`; ``limit``: bytes that a batch may
        take once it is decompressed."""
        self.client = client  # an AIOKafkaClient; aiokafka's types are not whole
        self._timeout = timeout
        self._patience = timeout if patience is None else max(patience, timeout)
        self._wait = timeout
        self.isolation = int(read_committed)
        self.limit = limit

    def patient(self) -> Cluster:
        """The same, and each question waits for as long as ``patience``: for topics that are just being made, however
        many they are."""
        other = copy(self)
        other._wait = self._patience
        return other

    async def start(self) -> None:
        """Connect, and make sure that the address the brokers advertise can be reached too."""
        await self.client.bootstrap()
        node = self.client.get_random_node()
        if not await self.client.ready(node):
            broker = self.client.cluster.broker_metadata(node)
            raise KafkaConnectionError(
                f"it advertises {broker.host}:{broker.port} (advertised.listeners), which cannot be reached"
            )

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    async def topics(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        """Each topic as it is now; a topic that is not there is left out, and not made."""
        asked = list(names)

        async def ask() -> dict[str, TopicInfo]:
            reply = await self._ask(TopicsRequest(asked))
            found: dict[str, TopicInfo] = {}
            for topic in reply.to_object()["topics"]:
                error = for_code(topic["error_code"])
                if error is UnknownTopicOrPartitionError:
                    continue
                if topic["error_code"] and error is not LeaderNotAvailableError:
                    raise error(topic["topic"])
                found[topic["topic"]] = TopicInfo.read(topic)
            return found

        return await self._patiently(ask) if asked else {}

    async def names(self) -> set[str]:
        """Of all topics that this client may see."""
        async with asyncio.timeout(self._timeout):
            return set((await self.client.fetch_all_metadata()).topics())

    async def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        """How many partitions each topic has; a topic that is not there is left out, and not made."""
        return {name: topic.partitions for name, topic in (await self.topics(topics)).items()}

    async def create(
        self, topics: Iterable[tuple[str, int, int, Mapping[str, str]]]
    ) -> dict[str, tuple[type[KafkaError], str]]:
        """Create topics, each with its partitions, replicas and configuration; the errors by topic, with a text."""
        wanted: list[Any] = [
            (name, lanes, replicas, [], list(config.items())) for name, lanes, replicas, config in topics
        ]
        milliseconds = int(self._timeout * 1000)
        problems: dict[str, tuple[type[KafkaError], str]] = {}
        for part in _parts(wanted):
            reply = await self._of_controller(CreateTopicsRequest(part, milliseconds, False))
            for name, code, *text in reply.topic_errors:
                # One that took the broker too long is on its way, and waited for by the caller.
                if code and for_code(code) is not RequestTimedOutError:
                    problems[name] = for_code(code), "".join(filter(None, text[:1]))
        return problems

    async def grow(self, topic: str, partitions: int) -> None:
        """Give the topic that many partitions; nothing if it has as many by now."""
        wanted: Any = [(topic, (partitions, None))]  # None: the broker places them
        request = CreatePartitionsRequest(wanted, int(self._timeout * 1000), False)
        reply = await self._of_controller(request)
        for name, code, text in reply.topic_errors:
            if code and (await self.partitions([name])).get(name, 0) < partitions:
                raise for_code(code)(text or name)

    async def _of_controller(self, request: Any) -> Any:
        """The controller's answer; what it does may take longer than one request may."""

        async def ask() -> Any:
            controller = self.client.cluster.controller
            reply = await self._ask(request, None if controller is None else controller.nodeId)
            for _, code, *_ in reply.topic_errors:
                if code and for_code(code) is NotControllerError:
                    raise NotControllerError(str(controller))
            return reply

        return await self._patiently(ask)

    async def largest_batch(self, topic: str) -> int | None:
        """Bytes of a record batch that the topic takes [max.message.bytes]; None where the broker does not say."""
        reply = await self._ask(DescribeConfigsRequest([(_TOPIC, topic, [_LARGEST])]))
        for code, _, _, _, entries in reply.resources:
            _check(code, topic)
            for name, value, *_ in entries:
                if name == _LARGEST and value is not None:
                    return int(value)
        return None

    async def committed(self, group: str, tps: Iterable[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """The group's committed positions with their notes; partitions without one are left out."""
        asked = set(tps)

        async def ask() -> dict[TopicPartition, OffsetAndMetadata]:
            reply = await self._ask(OffsetFetchRequest(group, _by_topic((tp, tp.partition) for tp in asked)), group)
            _check(getattr(reply, "error_code", 0), group)
            found: dict[TopicPartition, OffsetAndMetadata] = {}
            for topic, partitions in reply.topics:
                for partition, offset, note, code in partitions:
                    _check(code, group)
                    found[TopicPartition(topic, partition)] = OffsetAndMetadata(offset, note or "")
            if found.keys() != asked:
                # An answer with holes is no answer: taking it for "no offset" would start the group somewhere else.
                raise GroupCoordinatorNotAvailableError(group)
            return {tp: commit for tp, commit in found.items() if commit.offset != _NO_OFFSET}

        return await self._patiently(ask)

    async def positions(self, group: str, tps: Iterable[TopicPartition]) -> Positions:
        """The group's committed positions, those of topics that were deleted and made again set apart."""
        asked = list(tps)
        topics = await self.topics({tp.topic for tp in asked})
        commits: dict[TopicPartition, OffsetAndMetadata] = {}
        stale: dict[TopicPartition, int] = {}
        for tp, commit in (await self.committed(group, asked)).items() if asked else ():
            identity, note = unmark(commit.metadata)
            now = topics[tp.topic].identity if tp.topic in topics else ""
            if identity and now and identity != now:
                stale[tp] = commit.offset
            else:
                commits[tp] = OffsetAndMetadata(commit.offset, note)
        return Positions(commits, stale, topics)

    async def commit(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Set the positions of a group without members; ``UnknownMemberIdError`` if it has some."""
        entries = _by_topic((tp, (tp.partition, offset, "")) for tp, offset in offsets.items())
        member, generation = _NO_MEMBER

        async def ask() -> None:
            request = OffsetCommitRequest(
                group, generation, member, OffsetCommitRequest.DEFAULT_RETENTION_TIME, entries
            )
            reply = await self._ask(request, group)
            for _, partitions in reply.topics:
                for _, code in partitions:
                    _check(code, group)

        await self._patiently(ask)

    async def members(self, group: str) -> int:
        """How many members the group has now."""

        async def ask() -> int:
            reply = await self._ask(DescribeGroupsRequest([group]), group)
            found = reply.to_object()["groups"][0]
            _check(found["error_code"], group)
            return len(found["members"])

        return await self._patiently(ask)

    async def offsets(self, moments: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """The first offset at or after each moment (milliseconds, BEGINNING or END); left out where there is none."""

        async def ask() -> dict[TopicPartition, int]:
            found: dict[TopicPartition, int] = {}
            asked = self._by_leader((tp, (tp.partition, moment)) for tp, moment in moments.items())
            for leader, entries in asked.items():
                reply = await self._ask(OffsetRequest(-1, self.isolation, _by_topic(entries)), leader)
                for topic, partitions in reply.topics:
                    for partition, code, _, offset in partitions:
                        _check(code, topic)
                        found[TopicPartition(topic, partition)] = offset
            return {tp: offset for tp, offset in found.items() if offset != _NO_OFFSET}

        if not moments:
            return {}
        for topic in {tp.topic for tp in moments}:
            self.client.add_topic(topic)  # so that the metadata has its leaders; waited for below
        return await self._patiently(ask)

    async def fetch(
        self, places: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, tuple[bytes, Sequence[tuple[int, int]] | None]]:
        """Batches as they are, from the one on that has this offset, and the aborted transactions among them (producer
        and first offset); a partition may be left out, or have no bytes."""

        async def ask() -> dict[TopicPartition, tuple[bytes, Sequence[tuple[int, int]] | None]]:
            found: dict[TopicPartition, tuple[bytes, Sequence[tuple[int, int]] | None]] = {}
            asked = self._by_leader((tp, (tp.partition, at, _LOOK_BYTES)) for tp, at in places.items())
            for leader, entries in asked.items():
                size = _LOOK_BYTES * len(entries)
                request = FetchRequest(0, 0, size, self.isolation, _by_topic(entries), rack_id="")
                reply = await self._ask(request, leader)
                for topic, partitions in reply.topics:
                    for partition, code, _, *data in partitions:
                        _check(code, topic)
                        aborted = data[2] if reply.API_VERSION >= 11 else data[-2] if reply.API_VERSION >= 4 else None
                        found[TopicPartition(topic, partition)] = data[-1], aborted
            return found

        return await self._patiently(ask)

    async def count(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> int:
        """How many events a consumer would be given between these offsets (from, up to): exact where there are none or
        few; beyond the first ones that are found, every offset counts as one."""
        total = 0
        left = dict(ranges)
        while left:
            fetched = await self.fetch({tp: at for tp, (at, _) in left.items()})
            seen = {tp: look(tp, *found, left[tp][0], self.isolation, self.limit) for tp, found in fetched.items()}
            following: dict[TopicPartition, tuple[int, int]] = {}
            for tp, (at, end) in left.items():
                events, reached = seen.get(tp, (0, at))
                if events:
                    total += events + max(0, end - reached)
                elif reached < end:  # only gaps; or nothing was given, because others filled the answer
                    following[tp] = reached, end
            if following == left:
                total += sum(end - at for at, end in left.values())
                break
            left = following
        return total

    async def learn(self, topics: Iterable[str]) -> None:
        """Keep the leaders of all these topics, by one request instead of one for each."""
        for topic in topics:
            self.client.add_topic(topic)
        await self.client.force_metadata_update()

    async def until_there(self, topics: Iterable[str]) -> dict[str, int]:
        """:meth:`partitions` of topics that were just created, as soon as a broker knows all of them."""
        names = list(topics)

        async def ask() -> dict[str, int]:
            counts = await self.partitions(names)
            if len(counts) < len(names):
                raise UnknownTopicOrPartitionError(", ".join(name for name in names if name not in counts))
            return counts

        return await self._patiently(ask)

    def _by_leader(self, entries: Iterable[tuple[TopicPartition, _T]]) -> dict[int, list[tuple[TopicPartition, _T]]]:
        """What to ask each node for. Raises LeaderNotAvailableError."""
        found: dict[int, list[tuple[TopicPartition, _T]]] = defaultdict(list)
        for tp, entry in entries:
            leader = self.client.cluster.leader_for_partition(tp)
            if leader is None or leader < 0:
                raise LeaderNotAvailableError(tp)
            found[leader].append((tp, entry))
        return found

    async def _ask(self, request: Any, where: int | str | None = None) -> Any:
        """Send to a node, to the coordinator of a group (its name), or to any node."""
        client = self.client
        if isinstance(where, str):
            where = await client.coordinator_lookup(CoordinationType.GROUP, where)
        return await client.send(client.get_random_node() if where is None else where, request)

    async def _patiently(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask until leaders and coordinators that are being elected are there, one round of metadata between two tries.

        What aiokafka's own calls do for records; raw requests have to ask again themselves. Bounded by the time-out.
        """
        last: KafkaError | None = None
        try:
            async with asyncio.timeout(self._wait):
                while True:
                    try:
                        return await ask()
                    except KafkaError as exc:
                        if not exc.retriable:
                            raise
                        last = exc
                    if not await self.client.force_metadata_update():
                        raise last
        except TimeoutError:
            if last is None:
                raise
            raise last from None


def _parts(topics: Iterable[Any]) -> Iterable[list[Any]]:
    """The topics in their order, so many at a time as one request may make."""
    part: list[Any] = []
    partitions = 0
    for topic in topics:
        if part and partitions + topic[1] > _PARTITIONS_AT_ONCE:
            yield part
            part, partitions = [], 0
        part.append(topic)
        partitions += topic[1]
    if part:
        yield part


def _by_topic(entries: Iterable[tuple[TopicPartition, _T]]) -> list[tuple[str, list[_T]]]:
    topics: dict[str, list[_T]] = defaultdict(list)
    for tp, entry in entries:
        topics[tp.topic].append(entry)
    return list(topics.items())


def _check(code: int, what: str) -> None:
    if code:
        raise for_code(code)(what)

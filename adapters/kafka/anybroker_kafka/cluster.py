"""Questions to the cluster: topics, offsets, consumer groups, and what is stored at an offset.

They are requests of aiokafka's protocol package, sent by its client. Its admin client creates topics that it is only
asked to describe, and takes a coordinator that is still loading for a group without offsets.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from copy import copy
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeAlias, TypeVar

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

from .batches import Counted, count_events
from .notes import unmark
from .settings import DECOMPRESSED
from .topic_info import TopicInfo, TopicsRequest

__all__ = ["BEGINNING", "END", "Cluster", "Positions"]

BEGINNING, END = -2, -1
"""Moments that :meth:`Cluster.offsets` takes beside milliseconds since the epoch."""
_NO_OFFSET = -1
_NO_MEMBER = ("", -1)
_LOOK_BYTES = 16_384
"""How much of each partition is fetched to find its first event behind a position; a broker gives one whole batch at
least."""
_PARTITIONS_AT_ONCE = 50
"""Partitions in one request for new topics: a broker takes seconds for hundreds, and a request has its time-out."""
_TOPIC, _LARGEST = 2, "max.message.bytes"
_P = ParamSpec("_P")
_T = TypeVar("_T")
Stored: TypeAlias = tuple[bytes, Sequence[tuple[int, int]] | None]
"""Batches as they are stored, and the aborted transactions among them (producer and first offset)."""


class Positions(NamedTuple):
    """A group's committed positions that count, and those that do not."""

    commits: dict[TopicPartition, OffsetAndMetadata]
    """With their notes as they were given; partitions without a position are left out."""
    stale: dict[TopicPartition, int]
    """Committed for a topic of the same name that was deleted since: they mean nothing in this one."""
    topics: dict[str, TopicInfo]


def _patient(
    ask: Callable[Concatenate[Cluster, _P], Awaitable[_T]],
) -> Callable[Concatenate[Cluster, _P], Coroutine[Any, Any, _T]]:
    """Ask again until the leaders and coordinators that are being elected have answered, after new metadata each time.

    aiokafka's own calls do so for records; raw requests have to be repeated here. Bounded by the cluster's time-out.
    """

    @wraps(ask)
    async def asking(self: Cluster, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        last: KafkaError | None = None
        try:
            async with asyncio.timeout(self.timeout):
                while True:
                    try:
                        return await ask(self, *args, **kwargs)
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

    return asking


class Cluster:
    """One connection for all of an adapter's questions. Every call raises what aiokafka raises, or TimeoutError."""

    def __init__(self, client: Any, timeout: float, read_committed: bool, limit: int = DECOMPRESSED) -> None:
        """``timeout``: seconds for one question; ``limit``: bytes that a batch may take once it is decompressed."""
        self.client = client  # an AIOKafkaClient; aiokafka's types are incomplete
        self.timeout = timeout
        self.limit = limit
        self._request_timeout = timeout
        self.isolation = int(read_committed)

    def with_timeout(self, timeout: float) -> Cluster:
        """The same, but each question may take that many seconds: many topics that were just created take long."""
        other = copy(self)
        other.timeout = max(timeout, self.timeout)
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

    # ---------------------------------------------------------------------------------------------------- topics

    @_patient
    async def topics(self, names: Collection[str]) -> dict[str, TopicInfo]:
        """Each topic as it is now; one that does not exist is left out, and not created."""
        topics: dict[str, TopicInfo] = {}
        if not names:
            return topics
        reply = await self._ask(TopicsRequest(list(names)))
        for topic in reply.to_object()["topics"]:
            error = for_code(topic["error_code"])
            if error is UnknownTopicOrPartitionError:
                continue
            if topic["error_code"] and error is not LeaderNotAvailableError:
                raise error(topic["topic"])
            topics[topic["topic"]] = TopicInfo.read(topic)
        return topics

    async def names(self) -> set[str]:
        """Of all topics that this client may see."""
        async with asyncio.timeout(self._request_timeout):
            return set((await self.client.fetch_all_metadata()).topics())

    async def partitions(self, topics: Collection[str]) -> dict[str, int]:
        """How many partitions each topic has; one that does not exist is left out, and not created."""
        return {name: topic.partitions for name, topic in (await self.topics(topics)).items()}

    async def create(
        self, topics: Iterable[tuple[str, int, int, Mapping[str, str]]]
    ) -> dict[str, tuple[type[KafkaError], str]]:
        """Create topics, each with its partitions, replicas and configuration; the errors by topic, with a text."""
        specs: list[Any] = [
            (name, lanes, replicas, [], list(config.items())) for name, lanes, replicas, config in topics
        ]
        milliseconds = int(self._request_timeout * 1000)
        problems: dict[str, tuple[type[KafkaError], str]] = {}
        for part in _parts(specs):
            reply = await self._ask_controller(CreateTopicsRequest(part, milliseconds, False))
            for name, code, *text in reply.topic_errors:
                # One that took the broker too long is on its way; the caller waits for it.
                if code and for_code(code) is not RequestTimedOutError:
                    problems[name] = for_code(code), "".join(filter(None, text[:1]))
        return problems

    @_patient
    async def until_there(self, topics: Collection[str]) -> dict[str, int]:
        """:meth:`partitions` of topics that were just created, as soon as a broker knows all of them."""
        counts = await self.partitions(topics)
        if len(counts) < len(topics):
            raise UnknownTopicOrPartitionError(", ".join(name for name in topics if name not in counts))
        return counts

    async def grow(self, topic: str, partitions: int) -> None:
        """Give the topic that many partitions; nothing happens if it has as many by now."""
        spec: Any = [(topic, (partitions, None))]  # None: the broker places them
        request = CreatePartitionsRequest(spec, int(self._request_timeout * 1000), False)
        reply = await self._ask_controller(request)
        for name, code, text in reply.topic_errors:
            if code and (await self.partitions([name])).get(name, 0) < partitions:
                raise for_code(code)(text or name)

    @_patient
    async def _ask_controller(self, request: Any) -> Any:
        controller = self.client.cluster.controller
        reply = await self._ask(request, None if controller is None else controller.nodeId)
        for _, code, *_ in reply.topic_errors:
            if code and for_code(code) is NotControllerError:
                raise NotControllerError(str(controller))
        return reply

    async def largest_batch(self, topic: str) -> int | None:
        """Bytes of a record batch that the topic takes [max.message.bytes]; None where the broker does not say."""
        reply = await self._ask(DescribeConfigsRequest([(_TOPIC, topic, [_LARGEST])]))
        for code, _, _, _, entries in reply.resources:
            _check(code, topic)
            for name, value, *_ in entries:
                if name == _LARGEST and value is not None:
                    return int(value)
        return None

    async def learn_leaders(self, topics: Iterable[str]) -> None:
        """Of all these topics, by one request instead of one for each."""
        for topic in topics:
            self.client.add_topic(topic)
        await self.client.force_metadata_update()

    # ---------------------------------------------------------------------------------------------------- groups

    @_patient
    async def committed(self, group: str, tps: Collection[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """The group's committed positions with their metadata; partitions without one are left out."""
        reply = await self._ask(OffsetFetchRequest(group, _by_topic((tp, tp.partition) for tp in set(tps))), group)
        _check(getattr(reply, "error_code", 0), group)
        commits: dict[TopicPartition, OffsetAndMetadata] = {}
        for topic, partitions in reply.topics:
            for partition, offset, metadata, code in partitions:
                _check(code, group)
                commits[TopicPartition(topic, partition)] = OffsetAndMetadata(offset, metadata or "")
        if commits.keys() != set(tps):
            # An incomplete answer must not be taken for "no offset": the group would start somewhere else.
            raise GroupCoordinatorNotAvailableError(group)
        return {tp: commit for tp, commit in commits.items() if commit.offset != _NO_OFFSET}

    async def positions(self, group: str, tps: Collection[TopicPartition]) -> Positions:
        """The group's committed positions; those of topics that were deleted and made again are set apart."""
        topics = await self.topics({tp.topic for tp in tps})
        commits: dict[TopicPartition, OffsetAndMetadata] = {}
        stale: dict[TopicPartition, int] = {}
        for tp, commit in (await self.committed(group, tps)).items() if tps else ():
            identity, note = unmark(commit.metadata)
            now = topics[tp.topic].identity if tp.topic in topics else ""
            if identity and now and identity != now:
                stale[tp] = commit.offset
            else:
                commits[tp] = OffsetAndMetadata(commit.offset, note)
        return Positions(commits, stale, topics)

    @_patient
    async def commit(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Set the positions of a group without members; ``UnknownMemberIdError`` if it has some."""
        entries = _by_topic((tp, (tp.partition, offset, "")) for tp, offset in offsets.items())
        member, generation = _NO_MEMBER
        retention = OffsetCommitRequest.DEFAULT_RETENTION_TIME
        reply = await self._ask(OffsetCommitRequest(group, generation, member, retention, entries), group)
        for _, partitions in reply.topics:
            for _, code in partitions:
                _check(code, group)

    @_patient
    async def members(self, group: str) -> int:
        """How many members the group has now."""
        reply = await self._ask(DescribeGroupsRequest([group]), group)
        description = reply.to_object()["groups"][0]
        _check(description["error_code"], group)
        return len(description["members"])

    # --------------------------------------------------------------------------------------------------- records

    @_patient
    async def offsets(self, moments: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """The first offset at or after each moment (milliseconds, BEGINNING or END); left out where there is none."""
        for topic in {tp.topic for tp in moments}:
            self.client.add_topic(topic)  # so that the metadata has its leaders
        offsets: dict[TopicPartition, int] = {}
        entries_of = self._by_leader((tp, (tp.partition, moment)) for tp, moment in moments.items())
        for leader, entries in entries_of.items():
            reply = await self._ask(OffsetRequest(-1, self.isolation, _by_topic(entries)), leader)
            for topic, partitions in reply.topics:
                for partition, code, _, offset in partitions:
                    _check(code, topic)
                    offsets[TopicPartition(topic, partition)] = offset
        return {tp: offset for tp, offset in offsets.items() if offset != _NO_OFFSET}

    @_patient
    async def fetch(
        self, places: Mapping[TopicPartition, int], look: int = _LOOK_BYTES
    ) -> dict[TopicPartition, Stored]:
        """What is stored from the batch on that has this offset; a partition may be left out, or have no bytes.
        ``look``: bytes of each partition; a broker gives one whole batch at least."""
        stored: dict[TopicPartition, Stored] = {}
        entries_of = self._by_leader((tp, (tp.partition, at, look)) for tp, at in places.items())
        for leader, entries in entries_of.items():
            size = look * len(entries)
            request = FetchRequest(0, 0, size, self.isolation, _by_topic(entries), rack_id="")
            reply = await self._ask(request, leader)
            for topic, partitions in reply.topics:
                for partition, code, _, *data in partitions:
                    _check(code, topic)
                    aborted = data[2] if reply.API_VERSION >= 11 else data[-2] if reply.API_VERSION >= 4 else None
                    stored[TopicPartition(topic, partition)] = data[-1], aborted
        return stored

    async def count(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> tuple[int, float | None]:
        """How many events a consumer would be given between these offsets (from, up to): exact where there are none or
        few; behind the first ones of a partition, every offset counts as one. And the oldest timestamp among the first
        ones of each partition, in seconds since the epoch; None where none has one."""
        total = 0
        oldest: float | None = None
        left = dict(ranges)
        while left:
            stored = await self.fetch({tp: at for tp, (at, _) in left.items()})
            counts = {
                tp: count_events(tp, *batches, left[tp][0], self.isolation, self.limit)
                for tp, batches in stored.items()
            }
            following: dict[TopicPartition, tuple[int, int]] = {}
            for tp, (at, end) in left.items():
                events, reached, moment = counts.get(tp, Counted(0, at, None))
                if events:
                    total += events + max(0, end - reached)
                    if moment is not None:
                        oldest = moment if oldest is None else min(oldest, moment)
                elif reached < end:  # only gaps; or nothing was given, because others filled the answer
                    following[tp] = reached, end
            if following == left:
                total += sum(end - at for at, end in left.values())
                break
            left = following
        return total, oldest

    def _by_leader(self, entries: Iterable[tuple[TopicPartition, _T]]) -> dict[int, list[tuple[TopicPartition, _T]]]:
        """What to ask each node for. Raises LeaderNotAvailableError."""
        entries_of: dict[int, list[tuple[TopicPartition, _T]]] = defaultdict(list)
        for tp, entry in entries:
            leader = self.client.cluster.leader_for_partition(tp)
            if leader is None or leader < 0:
                raise LeaderNotAvailableError(tp)
            entries_of[leader].append((tp, entry))
        return entries_of

    async def _ask(self, request: Any, where: int | str | None = None) -> Any:
        """Send to a node, to the coordinator of a group (its name), or to any node."""
        client = self.client
        if isinstance(where, str):
            where = await client.coordinator_lookup(CoordinationType.GROUP, where)
        return await client.send(client.get_random_node() if where is None else where, request)


def _parts(topics: Iterable[Any]) -> Iterable[list[Any]]:
    """The topics in their order, as many at a time as one request may create."""
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

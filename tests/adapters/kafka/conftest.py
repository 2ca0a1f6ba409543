"""Stand-ins for aiokafka's clients: what the adapter calls of them, and levers for the tests."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.errors import IllegalStateError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata, TopicPartition

from anybroker.adapter import Lane, Outbound, Receipt
from anybroker.cloudevents import Event
from anybroker.errors import BrokerError
from anybroker_kafka.cluster import Positions
from anybroker_kafka.fetched import read_as_parsed
from anybroker_kafka.topic_info import TopicInfo
from anybroker_kafka.wire import Wire


def event(id: str = "1", key: str | None = None, data: Any = "data") -> Event[Any]:
    return Event.create(data, source="/shop", type="com.example.placed", id=id, key=key)


def record(tp: TopicPartition, offset: int, key: str | None = "k") -> Any:
    attributes = {"specversion": "1.0", "id": f"{tp.partition}-{offset}", "source": "/s", "type": "t"}
    if key is not None:
        attributes["partitionkey"] = key
    headers = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
    return ConsumerRecord(tp.topic, tp.partition, offset, 0, 0, None, b"{}", None, -1, 2, headers)


class News:
    """Waits until something that the stand-ins tell of is so."""

    def __init__(self) -> None:
        self._told = asyncio.Event()

    def tell(self) -> None:
        self._told.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._told.clear()
                await self._told.wait()


class FakeBatch:
    """A batch that takes so many records, and one of more than 1,000 bytes only alone."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]] = []
        self.closed = False

    def append(self, *, timestamp: None, key: bytes | None, value: bytes | None, headers: Any) -> object | None:
        assert not self.closed
        if self.records and (len(self.records) == self.room or len(value or b"") > 1000):
            return None
        self.records.append((key, value, headers))
        return self

    def close(self) -> None:
        self.closed = True

    def size(self) -> int:
        return sum(len(value or b"") for _, value, _ in self.records)

    @property
    def ids(self) -> list[str]:
        return [dict(headers)["ce_id"].decode() for _, _, headers in self.records]


class FakeProducer:
    """Records what is sent; the test settles it."""

    def __init__(self, kafka: FakeKafka) -> None:
        self._kafka = kafka
        self._sender = self
        self._message_accumulator = SimpleNamespace()
        self._closed = False
        self.client = SimpleNamespace(cluster=self, close=self._end)
        self.under_way: dict[TopicPartition, asyncio.Future[Any]] = {}

    async def start(self) -> None:
        if self._kafka.down is not None:
            raise self._kafka.down

    async def stop(self) -> None: ...

    async def close(self) -> None: ...

    async def _end(self) -> None:
        self._kafka.ended.append(self)
        self._kafka.news.tell()

    async def flush(self) -> None:
        if self.under_way:
            await asyncio.wait(self.under_way.values())

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self._kafka.topics[topic])) if topic in self._kafka.topics else None

    def create_batch(self) -> FakeBatch:
        return FakeBatch(self._kafka.batch_room)

    async def send_batch(self, batch: FakeBatch, topic: str, *, partition: int) -> asyncio.Future[Any]:
        if self._kafka.broken is not None:
            raise self._kafka.broken
        tp = TopicPartition(topic, partition)
        assert batch.closed
        assert tp not in self.under_way, "one outstanding batch a partition"
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.under_way[tp] = future
        future.add_done_callback(lambda _: self.under_way.pop(tp))
        self._kafka.sent.append((tp, batch, future))
        self._kafka.news.tell()
        if self._kafka.answer is not None:
            outcome = self._kafka.answer(batch)
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(SimpleNamespace(offset=outcome))
        return future


class FakeKafka:
    """The cluster behind the fake producers, and the questions to it."""

    def __init__(self) -> None:
        self.topics: dict[str, int] = {"orders": 4, "orders.billing.retry": 4}
        self.batch_room = 100
        self.news = News()
        self.down: Exception | None = None
        self.broken: Exception | None = None
        self.answer: Callable[[FakeBatch], int | Exception] | None = lambda batch: 10
        self.producers: list[FakeProducer] = []
        self.ended: list[FakeProducer] = []
        self.sent: list[tuple[TopicPartition, FakeBatch, asyncio.Future[Any]]] = []

    def make_producer(self) -> Any:
        self.producers.append(FakeProducer(self))
        return self.producers[-1]

    async def largest_batch(self, topic: str) -> int | None:
        return None

    async def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        return {topic: self.topics[topic] for topic in topics if topic in self.topics}


class Reports:
    """A Report that remembers."""

    def __init__(self) -> None:
        self.results: dict[str, Receipt | BrokerError] = {}
        self.order: list[str] = []
        self.news = News()

    def __call__(self, outbound: Outbound, result: Receipt | BrokerError) -> None:
        assert isinstance(outbound.event, Event)
        assert outbound.event.id not in self.results, "reported twice"
        self.results[outbound.event.id] = result
        self.order.append(outbound.event.id)
        self.news.tell()

    async def have(self, count: int) -> None:
        await self.news.until(lambda: len(self.results) >= count)


class FakeConsumer:
    """Gives the records that the test puts in, and refuses what aiokafka would refuse."""

    def __init__(self) -> None:
        self.records: dict[TopicPartition, list[Any]] = {}
        self.asked: list[tuple[tuple[TopicPartition, ...], int, int]] = []
        self.positions: dict[TopicPartition, int] = {}
        self.commits: list[dict[TopicPartition, OffsetAndMetadata]] = []
        self.commit_error: Exception | None = None
        self.commit_gate: asyncio.Event | None = None
        self.error: Exception | None = None
        self.news = asyncio.Event()
        self.waiting = asyncio.Event()
        self.returned = asyncio.Event()
        self.calls = 0
        self.stopped = False
        self.gone: set[str] = set()
        self.refusal: Exception | None = None
        self._coordinator = SimpleNamespace(check_errors=self._check)

    def _check(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def start(self) -> None: ...

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return None if topic in self.gone else {0, 1, 2}

    def subscribe(self, topics: Sequence[str], listener: Any) -> None:
        self.topics = list(topics)

    def put(self, *records: Any) -> None:
        for each in records:
            self.records.setdefault(TopicPartition(each.topic, each.partition), []).append(each)
        self.news.set()

    async def getmany(self, *tps: TopicPartition, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        self.calls += 1
        assert self.calls == 1, "one getmany at a time"
        self.asked.append((tps, timeout_ms, max_records))
        try:
            while True:
                if self.error is not None:
                    raise self.error
                taken = {}
                for tp in [tp for tp in self.records if not tps or tp in tps]:
                    taken[tp] = self.records[tp][:max_records]
                    del self.records[tp][:max_records]
                    if not self.records[tp]:
                        del self.records[tp]
                    max_records -= len(taken[tp])
                    if max_records == 0:
                        break
                if taken or not timeout_ms:
                    return taken
                self.news.clear()
                self.returned.clear()
                self.waiting.set()
                try:
                    async with asyncio.timeout(timeout_ms / 1000):
                        await self.news.wait()
                except TimeoutError:
                    return {}
        finally:
            self.calls -= 1
            self.returned.set()

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.positions[tp] = offset
        self.records.pop(tp, None)

    async def commit(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        if self.commit_gate is not None:
            await self.commit_gate.wait()
        if not offsets.keys() <= self.positions.keys():
            raise IllegalStateError("not assigned")
        if self.commit_error is not None:
            raise self.commit_error
        self.commits.append(offsets)

    async def stop(self) -> None:
        self.stopped = True


class FakeOffsets:
    """The committed positions, and where partitions begin."""

    limit = 1_048_576

    def __init__(self) -> None:
        self.commits: dict[TopicPartition, OffsetAndMetadata] = {}
        self.stale: dict[TopicPartition, int] = {}
        self.infos: dict[str, TopicInfo] = {}
        self.error: Exception | None = None
        self.asked = asyncio.Event()

    async def positions(self, group: str, tps: Collection[TopicPartition]) -> Positions:
        if self.error is not None:
            raise self.error
        commits = {tp: self.commits[tp] for tp in tps if tp in self.commits}
        return Positions(commits, {tp: self.stale[tp] for tp in tps if tp in self.stale}, dict(self.infos))

    async def topics(self, names: Collection[str]) -> dict[str, TopicInfo]:
        self.asked.set()
        return {name: self.infos[name] for name in names if name in self.infos}

    async def offsets(self, moments: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        return dict.fromkeys(moments, 0)


class Listener:
    """The core's side."""

    def __init__(self) -> None:
        self.lanes: dict[Lane, str] = {}
        self.gone: list[Lane] = []
        self.on_revoked: Callable[[Collection[Lane]], Any] | None = None

    def assigned(self, lane: Lane, note: str = "") -> None:
        self.lanes[lane] = note

    async def revoked(self, lanes: Collection[Lane], /) -> None:
        if self.on_revoked is not None:
            await self.on_revoked(lanes)
        for lane in lanes:
            del self.lanes[lane]

    def lost(self, lanes: Collection[Lane], /) -> None:
        self.gone.extend(lanes)
        for lane in lanes:
            self.lanes.pop(lane, None)

    def lane(self, name: str) -> Lane:
        return next(lane for lane in self.lanes if lane.name == name)


@pytest.fixture
def kit() -> SimpleNamespace:
    """The names of this module that tests use."""
    return SimpleNamespace(event=event, record=record, Reports=Reports, Listener=Listener, FakeKafka=FakeKafka)


def take_over(written: bytes, at: int = 0, limit: int = 1_048_576) -> Any:
    """What aiokafka would give a receiver of these bytes from that offset on: as its fetcher goes through an answer."""
    tp = TopicPartition("orders", 3)

    async def send(node: int, request: Any) -> Any:
        return SimpleNamespace(topics=[(tp.topic, [(tp.partition, 0, 0, written)])])

    client = SimpleNamespace(send=send)
    consumer: Any = SimpleNamespace(_fetcher=SimpleNamespace(_records=OrderedDict(), _client=client))
    read_as_parsed(consumer, Wire(), limit)
    asyncio.run(client.send(0, FetchRequest(0, 0, 0, 1, [], rack_id="")))
    found = PartitionRecords(tp, MemoryRecords(written), [], at, None, None, True, 1)
    consumer._fetcher._records[tp] = FetchResult(tp, assignment=None, partition_records=found, backoff=0)
    return found


@pytest.fixture
def taken() -> Callable[..., Any]:
    """:func:`take_over`."""
    return take_over


@pytest.fixture
def fakes() -> SimpleNamespace:
    """The stand-ins on the consuming side."""
    return SimpleNamespace(FakeConsumer=FakeConsumer, FakeOffsets=FakeOffsets)

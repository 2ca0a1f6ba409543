"""Looking at partitions by offset: ranges, gaps, and the order between partitions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from anybroker.adapter import Peek, Peeked
from anybroker.cloudevents import Event
from anybroker.errors import MissingGroup
from anybroker_kafka import peek as looking
from anybroker_kafka.cluster import BEGINNING, Cluster, Positions
from anybroker_kafka.wire import Wire

EVENT = Event.create({"n": 1}, source="tests", type="t")
A, B, RETRY = TopicPartition("orders", 0), TopicPartition("orders", 1), TopicPartition("orders.g.retry", 0)


class Kafka:
    """A cluster: for each partition the offsets that have a record, with their times; and where it begins and ends."""

    def __init__(self, records: Mapping[TopicPartition, Mapping[int, float]], **settings: Any) -> None:
        self.records = records
        self.begins: dict[TopicPartition, int] = settings.get("begins", {})
        self.ends: dict[TopicPartition, int] = settings.get("ends", {})
        self.commits: dict[TopicPartition, tuple[int, str]] = settings.get("commits", {})
        self.silent = settings.get("silent", False)
        self.fetches = 0

    async def partitions(self, names: list[str]) -> dict[str, int]:
        counts = {name: sum(tp.topic == name for tp in self.records) for name in names}
        return {name: count for name, count in counts.items() if count}

    async def offsets(self, moments: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        return {
            tp: self.begins.get(tp, 0)
            if moment == BEGINNING
            else self.ends.get(tp, max(self.records[tp], default=-1) + 1)
            for tp, moment in moments.items()
        }

    async def positions(self, group: str, tps: list[TopicPartition]) -> Positions:
        assert group == "orders.g"
        return Positions({tp: OffsetAndMetadata(*commit) for tp, commit in self.commits.items()}, {}, {})

    async def fetch(self, places: Mapping[TopicPartition, int]) -> dict[TopicPartition, tuple[Any, None]]:
        self.fetches += 1
        return {} if self.silent else {tp: (b"batches", None) for tp in places}


@pytest.fixture(autouse=True)
def batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch gives the two records from an offset on."""

    def read(self: Any, tp: TopicPartition, at: int, written: bytes, aborted: object) -> tuple[list[Peeked], int]:
        records = self._cluster.records[tp]
        if not written:
            return [], at
        offsets = [offset for offset in sorted(records) if offset >= at][:2]
        lane = f"{tp.topic}/{tp.partition}"
        events = [Peeked(EVENT, lane, offset, None, {}, records[offset]) for offset in offsets]
        return events, offsets[-1] + 1 if offsets else 1_000_000

    async def there(*_: object) -> None:
        return

    monkeypatch.setattr(looking.Look, "read", read)
    monkeypatch.setattr(looking, "check_group", there)


def look(kafka: Kafka, group: str | None = None, **options: Any) -> list[tuple[str, int]]:
    """Lanes and offsets of what is shown."""
    arguments: dict[str, Any] = {"limit": 100, "newest": False, "beyond": {}, **options}
    page: Peek = asyncio.run(looking.peek(cast("Cluster", kafka), cast("Wire", None), 1, "orders", group, **arguments))
    assert page.exact
    return [(event.lane, event.position) for event in page.events]


def test_partitions_are_merged_by_time_and_keep_their_order() -> None:
    kafka = Kafka({A: {0: 1.0, 1: 5.0, 2: 4.0}, B: {0: 2.0, 1: 3.0, 2: 6.0}})
    expected = [("0", 0), ("1", 0), ("1", 1), ("0", 1), ("0", 2), ("1", 2)]
    assert [(lane[-1], at) for lane, at in look(kafka)] == expected
    newest = look(kafka, newest=True)
    for lane in ("orders/0", "orders/1"):
        assert [at for name, at in newest if name == lane] == [2, 1, 0]
    assert newest[0] == ("orders/1", 2)
    assert look(kafka, limit=2) == [("orders/0", 0), ("orders/1", 0)]
    assert look(kafka, limit=2, newest=True, beyond={"orders/0": 0, "orders/1": 2}) == [
        ("orders/1", 1),
        ("orders/1", 0),
    ]


def test_offsets_without_records_are_passed_over() -> None:
    kafka = Kafka({A: dict.fromkeys(range(0, 400, 40), 1.0)}, ends={A: 405})
    assert [at for _, at in look(kafka, limit=3, newest=True)] == [360, 320, 280]
    assert [at for _, at in look(kafka)] == list(range(0, 400, 40))
    assert [at for _, at in look(kafka, beyond={"orders/0": 320})] == [360]


def test_a_group_begins_at_its_commits_with_its_inlet_and_its_notes() -> None:
    kafka = Kafka(
        {A: dict.fromkeys(range(6), 1.0), B: {}, RETRY: {0: 2.0, 1: 2.0}},
        begins={A: 2},
        commits={A: (4, "1|4|1|"), RETRY: (1, "")},
    )
    assert look(kafka, "g") == [("orders/0", 4), ("orders/0", 5), ("orders.g.retry/0", 1)]
    page = asyncio.run(looking.peek(cast("Cluster", kafka), cast("Wire", None), 1, "orders", "g", 9, False, {}))
    assert page.notes == {"orders/0": "1|4|1|", "orders.g.retry/0": ""}
    assert look(kafka)[0] == ("orders/0", 2), "what retention has deleted is not asked for"


def test_a_broker_that_gives_nothing_is_not_asked_for_ever() -> None:
    kafka = Kafka({A: {0: 1.0}}, silent=True)
    assert look(kafka) == []
    assert kafka.fetches == 1


def test_a_missing_topic_is_named() -> None:
    with pytest.raises(MissingGroup, match="'orders'"):
        look(Kafka({}))

"""Topics, inlets and groups on a fake cluster."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors as kafka
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from anybroker.adapter import Backlog, GroupSpec, Start, TopicSpec, Topology
from anybroker.errors import ConfigError
from anybroker_kafka import topology
from anybroker_kafka.cluster import BEGINNING, END, Positions

Run = Callable[[Any], Any]
ORDERS = TopicPartition("orders", 0)
INLET = TopicPartition("orders.billing.retry", 0)


class FakeCluster:
    """Topics with a first and a last offset in each partition, and what groups have committed."""

    def __init__(self) -> None:
        self.client = SimpleNamespace(cluster=SimpleNamespace(brokers=lambda: {1, 2}))
        self.topics: dict[str, int] = {}
        self.configs: dict[str, tuple[int, Mapping[str, str]]] = {}
        self.begin, self.end, self.at_time = 5, 9, 7
        self.commits: dict[str, dict[TopicPartition, OffsetAndMetadata]] = {}
        self.stale: dict[TopicPartition, int] = {}
        self.present = 0
        self.oldest: float | None = None
        self.refuse: dict[int, type[kafka.KafkaError]] = {}
        self.calls: list[str] = []
        self.before_second_read: Callable[[], None] | None = None

    async def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        return {topic: self.topics[topic] for topic in topics if topic in self.topics}

    async def until_there(self, topics: Iterable[str]) -> dict[str, int]:
        return await self.partitions(topics)

    async def create(self, topics: Iterable[tuple[str, int, int, Mapping[str, str]]]) -> dict[str, Any]:
        problems: dict[str, Any] = {}
        for name, lanes, replicas, config in topics:
            if replicas in self.refuse:
                problems[name] = self.refuse[replicas], "refused"
            elif name in self.topics:
                problems[name] = kafka.TopicAlreadyExistsError, ""
            else:
                self.topics[name] = lanes
                self.configs[name] = replicas, config
        return problems

    async def committed(self, group: str, tps: Collection[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        self.calls.append("committed")
        if self.before_second_read is not None and "offsets" in self.calls:
            self.before_second_read()
        commits = self.commits.get(group, {})
        return {tp: commits[tp] for tp in tps if tp in commits}

    async def positions(self, group: str, tps: Collection[TopicPartition]) -> Positions:
        stale = {tp: offset for tp, offset in self.stale.items() if tp in tps}
        return Positions(await self.committed(group, tps), stale, {})

    async def grow(self, topic: str, partitions: int) -> None:
        self.topics[topic] = partitions

    async def learn_leaders(self, topics: Iterable[str]) -> None: ...

    async def count(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> tuple[int, float | None]:
        return sum(end - at for at, end in ranges.values()), self.oldest

    async def commit(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        self.calls.append("commit")
        if self.present:
            raise kafka.UnknownMemberIdError
        self.commits.setdefault(group, {}).update({tp: OffsetAndMetadata(offset, "") for tp, offset in offsets.items()})

    async def offsets(self, moments: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        self.calls.append("offsets")
        known = {BEGINNING: self.begin, END: self.end}
        return {tp: known.get(moment, self.at_time) for tp, moment in moments.items()}

    async def members(self, group: str) -> int:
        return self.present


@pytest.fixture
def cluster() -> Any:
    return FakeCluster()


def orders(start: Start = "new", lanes: int = 1, retention: float | None = None) -> Topology:
    return Topology((TopicSpec("orders", (GroupSpec("billing", start=start),), lanes=lanes, retention=retention),))


def offsets(cluster: FakeCluster) -> dict[TopicPartition, int]:
    return {tp: commit.offset for tp, commit in cluster.commits["orders.billing"].items()}


def test_topics_and_inlets_are_made_with_the_brokers_own_replication(run: Run, cluster: Any) -> None:
    run(topology.declare(cluster, orders(lanes=4), "create", -1))
    assert cluster.topics == {"orders": 4, "orders.billing.retry": 4}
    assert set(map(str, cluster.configs.values())) == {"(-1, {})"}


@pytest.mark.parametrize(("retention", "text"), [(math.inf, "-1"), (2.5, "2500")])
def test_retention_is_kafkas(run: Run, cluster: Any, retention: float, text: str) -> None:
    run(topology.declare(cluster, orders(retention=retention), "create", 3))
    assert cluster.configs["orders"] == (3, {"retention.ms": text})


def test_a_broker_without_a_default_gets_a_number(run: Run, cluster: Any) -> None:
    cluster.refuse = {-1: kafka.InvalidReplicationFactorError}
    run(topology.declare(cluster, orders(), "create", -1))
    assert cluster.configs["orders"][0] == 2


def test_what_the_broker_refuses_is_a_config_error(run: Run, cluster: Any) -> None:
    cluster.refuse = {5: kafka.InvalidReplicationFactorError}
    with pytest.raises(ConfigError, match="'orders'"):
        run(topology.declare(cluster, orders(), "create", 5))


@pytest.mark.parametrize("mode", ["create", "verify"])
def test_another_number_of_lanes_is_refused_with_the_recipe(run: Run, cluster: Any, mode: Any) -> None:
    run(topology.declare(cluster, orders(lanes=4), "create", -1))
    with pytest.raises(ConfigError, match=r"is 8, and .* 4 partitions.* lanes = 4") as caught:
        run(topology.declare(cluster, orders(lanes=8), mode, -1))
    assert caught.value.setting == "topics.orders.lanes"
    assert cluster.topics["orders"] == 4


def test_verify_makes_nothing_and_names_what_is_missing(run: Run, cluster: Any) -> None:
    with pytest.raises(ConfigError, match=r"'orders', 'orders\.billing\.retry'"):
        run(topology.declare(cluster, orders(), "verify", -1))
    cluster.topics = {"orders": 1, "orders.billing.retry": 1}
    with pytest.raises(ConfigError, match=r"'orders\.billing'"):
        run(topology.declare(cluster, orders(), "verify", -1))
    assert not cluster.commits
    run(topology.declare(cluster, orders(), "create", -1))
    run(topology.declare(cluster, orders(), "verify", -1))


@pytest.mark.parametrize(("start", "expected"), [("new", 9), ("earliest", 5), (datetime(2026, 1, 1, tzinfo=UTC), 7)])
def test_a_group_exists_by_its_committed_start(run: Run, cluster: Any, start: Start, expected: int) -> None:
    run(topology.declare(cluster, orders(start), "create", -1))
    assert offsets(cluster) == {ORDERS: expected, INLET: expected}


def test_what_is_committed_stays(run: Run, cluster: Any) -> None:
    cluster.commits = {"orders.billing": {ORDERS: OffsetAndMetadata(6, "note")}}
    run(topology.declare(cluster, orders("earliest"), "create", -1))
    assert cluster.commits["orders.billing"][ORDERS] == OffsetAndMetadata(6, "note")
    assert offsets(cluster)[INLET] == 5


def test_a_start_is_read_before_the_commits_are_read_again(run: Run, cluster: Any) -> None:
    def another_process() -> None:
        cluster.commits["orders.billing"] = {ORDERS: OffsetAndMetadata(8, "theirs")}

    cluster.before_second_read = another_process
    run(topology.declare(cluster, orders(), "create", -1))
    assert cluster.calls == ["committed", "offsets", "committed", "commit"]
    assert cluster.commits["orders.billing"][ORDERS] == OffsetAndMetadata(8, "theirs")


def test_a_group_with_members_is_left_to_them(run: Run, cluster: Any) -> None:
    cluster.present = 1
    run(topology.declare(cluster, orders(), "create", -1))
    assert not cluster.commits


def test_the_backlog_counts_the_inlet(run: Run, cluster: Any) -> None:
    run(topology.declare(cluster, orders(lanes=2), "create", -1))
    cluster.commits["orders.billing"][ORDERS] = OffsetAndMetadata(2, "")  # deleted up to 5 since
    cluster.commits["orders.billing"][INLET] = OffsetAndMetadata(8, "")
    assert run(topology.backlog(cluster, "orders", "billing")).waiting == 4 + 1


def test_the_age_is_that_of_the_oldest_record_that_waits(run: Run, cluster: Any) -> None:
    run(topology.declare(cluster, orders(), "create", -1))
    assert run(topology.backlog(cluster, "orders", "billing")) == Backlog(0, 0, 0.0)
    cluster.commits["orders.billing"][INLET] = OffsetAndMetadata(8, "")
    cluster.oldest = time.time() - 60
    assert run(topology.backlog(cluster, "orders", "billing")).age == pytest.approx(60, abs=5)
    cluster.oldest = time.time() + 60  # another machine's clock
    assert run(topology.backlog(cluster, "orders", "billing")).age == 0.0
    cluster.oldest = None  # a record without a timestamp
    assert run(topology.backlog(cluster, "orders", "billing")) == Backlog(1, 0, None)


def test_seek_moves_the_topic_and_to_the_end_the_inlet_too(run: Run, cluster: Any) -> None:
    run(topology.declare(cluster, orders(), "create", -1))
    run(topology.seek(cluster, "orders", "billing", "earliest"))
    assert offsets(cluster) == {ORDERS: 5, INLET: 9}
    cluster.end = 12
    run(topology.seek(cluster, "orders", "billing", "new"))
    assert offsets(cluster) == {ORDERS: 12, INLET: 12}
    run(topology.seek(cluster, "orders", "billing", datetime(2026, 1, 1, tzinfo=UTC)))
    assert offsets(cluster) == {ORDERS: 7, INLET: 12}


def test_seek_refuses_members_and_what_was_deleted(run: Run, cluster: Any) -> None:
    run(topology.declare(cluster, orders(), "create", -1))
    cluster.at_time = cluster.begin
    with pytest.raises(ConfigError, match="does not reach back"):
        run(topology.seek(cluster, "orders", "billing", datetime(2026, 1, 1, tzinfo=UTC)))
    cluster.present = 1
    with pytest.raises(ConfigError, match="has members"):
        run(topology.seek(cluster, "orders", "billing", "new"))


def test_partitions_added_under_an_existing_group_start_at_the_oldest_event(run: Run, cluster: Any) -> None:
    """At its end, what was published between would be skipped, acknowledged and never handled."""
    cluster.commits = {"orders.billing": {INLET: OffsetAndMetadata(6, "note")}}
    run(topology.declare(cluster, orders("new"), "create", -1))
    assert offsets(cluster) == {INLET: 6, ORDERS: 5}
    cluster.stale = {ORDERS: 700}
    cluster.commits["orders.billing"].clear()
    run(topology.declare(cluster, orders("new"), "create", -1))
    assert offsets(cluster) == {INLET: 5, ORDERS: 5}


def test_a_group_with_some_positions_is_there(run: Run, cluster: Any) -> None:
    run(topology.declare(cluster, orders(lanes=2), "create", -1))
    del cluster.commits["orders.billing"][ORDERS]  # Kafka forgets them with the topic
    run(topology.check_group(cluster, "orders", "billing"))
    cluster.commits.clear()
    with pytest.raises(ConfigError, match="not there"):
        run(topology.check_group(cluster, "orders", "billing"))


def test_inlets_follow_a_topic_that_was_given_more_partitions(run: Run, cluster: Any) -> None:
    by_default = Topology((TopicSpec("orders", (GroupSpec("billing"),), lanes=4, default_lanes=True),))
    run(topology.declare(cluster, by_default, "create", -1))
    cluster.topics["orders"] = 8
    with pytest.raises(ConfigError, match=r"kafka-topics\.sh --alter --topic orders\.billing\.retry --partitions 8"):
        run(topology.declare(cluster, by_default, "verify", -1))
    run(topology.declare(cluster, by_default, "create", -1))
    assert cluster.topics["orders.billing.retry"] == 8
    assert offsets(cluster)[TopicPartition("orders", 7)] == 5, "from its beginning: the group was there before it"
    cluster.topics["orders"] = 2
    with pytest.raises(ConfigError, match=r"kafka-topics\.sh --delete --topic orders\.billing\.retry"):
        run(topology.declare(cluster, by_default, "create", -1))


def test_a_receiver_finds_an_inlet_that_fits(run: Run, cluster: Any) -> None:
    run(topology.declare(cluster, orders(lanes=4), "create", -1))
    cluster.topics["orders"] = 8
    run(topology.check_group(cluster, "orders", "billing"))
    assert cluster.topics["orders.billing.retry"] == 4, "it may not change anything"
    run(topology.check_group(cluster, "orders", "billing", create=True))
    assert cluster.topics["orders.billing.retry"] == 8


@pytest.mark.parametrize("wrong", [("ordres", "billing"), ("orders", "biling")])
def test_the_backlog_of_what_is_not_there_is_refused(wrong: tuple[str, str], run: Run, cluster: Any) -> None:
    """A lag alarm with a typo would stay green."""
    run(topology.declare(cluster, orders(), "create", -1))
    with pytest.raises(ConfigError):
        run(topology.backlog(cluster, *wrong))

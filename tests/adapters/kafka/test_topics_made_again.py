"""A topic that was deleted and made again, or changed its partitions: whose positions are whose."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from anybroker.adapter import Commit, Outbound
from anybroker.errors import Rejected, Unavailable
from anybroker_kafka.closing import Closing
from anybroker_kafka.cluster import Cluster
from anybroker_kafka.notes import mark, unmark
from anybroker_kafka.producers import Producers
from anybroker_kafka.receiver import KafkaReceiver
from anybroker_kafka.sender import KafkaSender
from anybroker_kafka.topic_info import TopicInfo
from anybroker_kafka.wire import Wire

Run = Callable[[Any], Any]
ONE, TWO = TopicPartition("orders", 1), TopicPartition("orders", 2)
OLD, NEW = TopicInfo(3, "A" * 22), TopicInfo(3, "B" * 22)
INLET = "orders.billing.retry"


def receiver(kit: SimpleNamespace, fakes: Any, **options: Any) -> Any:
    options = {"timeout": 5, "drain": 5, **options}
    offsets, consumer, listener = fakes.FakeOffsets(), fakes.FakeConsumer(), kit.Listener()
    made = KafkaReceiver(
        consumer, "orders.billing", offsets, Wire(), listener, itertools.count(1), Closing(), **options
    )
    return SimpleNamespace(receiver=made, offsets=offsets, consumer=consumer, listener=listener)


def test_a_mark_can_be_taken_off_and_leaves_room_for_the_longest_note() -> None:
    note = "1|1200|3-5,9|0:2"
    assert unmark(mark(note, OLD.identity)) == (OLD.identity, note)
    assert unmark(note) == ("", note), "as it was written before there were marks"
    assert mark(note, "") == note
    assert len(mark("x" * 4000, OLD.identity)) <= 4096


def test_what_has_not_moved_is_not_committed_again(run: Run, kit: SimpleNamespace, fakes: Any) -> None:
    """Repeated at a revoke it would be written onto a topic that was made again since."""

    async def check() -> None:
        case = receiver(kit, fakes)
        case.offsets.commits = {ONE: OffsetAndMetadata(7, "note"), TWO: OffsetAndMetadata(3, "")}
        case.offsets.infos = {"orders": OLD}
        await case.receiver.on_partitions_assigned({ONE, TWO})
        one, two = case.listener.lane("orders/1"), case.listener.lane("orders/2")
        assert await case.receiver.settle([Commit(one, 7, "note"), Commit(two, 4, "")]) == [None, None]
        assert case.consumer.commits == [{TWO: OffsetAndMetadata(4, mark("", OLD.identity))}]
        assert await case.receiver.settle([Commit(one, 7, "note"), Commit(two, 4, "")]) == [None, None]
        assert len(case.consumer.commits) == 1
        await case.receiver.settle([Commit(one, 7, "another note")])
        assert case.consumer.commits[1:] == [{ONE: OffsetAndMetadata(7, mark("another note", OLD.identity))}]

    run(check())


def test_what_was_not_confirmed_is_committed_again(run: Run, kit: SimpleNamespace, fakes: Any) -> None:
    async def check() -> None:
        case = receiver(kit, fakes)
        await case.receiver.on_partitions_assigned({ONE})
        one = case.listener.lane("orders/1")
        case.consumer.commit_error = OSError("away")
        assert isinstance((await case.receiver.settle([Commit(one, 1, "")]))[0], Unavailable)
        case.consumer.commit_error = None
        assert await case.receiver.settle([Commit(one, 1, "")]) == [None]
        assert len(case.consumer.commits) == 1

    run(check())


def test_positions_of_a_topic_that_is_gone_are_not_sent(run: Run, kit: SimpleNamespace, fakes: Any) -> None:
    """aiokafka would try until there is a topic of that name, and commit them to it."""

    async def check() -> None:
        case = receiver(kit, fakes)
        inlet = TopicPartition(INLET, 1)
        await case.receiver.on_partitions_assigned({ONE, inlet})
        case.consumer.gone = {"orders"}
        lanes = [case.listener.lane("orders/1"), case.listener.lane(f"{INLET}/1")]
        gone, kept = await case.receiver.settle([Commit(lane, 1, "") for lane in lanes])
        assert isinstance(gone, Unavailable)
        assert kept is None
        assert [list(commit) for commit in case.consumer.commits] == [[inlet]]

    run(check())


def test_positions_in_another_topic_of_that_name_do_not_count(
    run: Run, kit: SimpleNamespace, fakes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        case = receiver(kit, fakes)
        case.offsets.stale = {ONE: 500}
        case.offsets.infos = {"orders": NEW}
        with caplog.at_level(logging.WARNING, "anybroker.kafka"):
            await case.receiver.on_partitions_assigned({ONE})
        assert case.consumer.positions == {ONE: 0}
        assert case.listener.lanes[case.listener.lane("orders/1")] == ""
        assert "orders/1 up to 500" in caplog.text
        await case.receiver.settle([Commit(case.listener.lane("orders/1"), 500, "")])
        assert case.consumer.commits == [{ONE: OffsetAndMetadata(500, mark("", NEW.identity))}]

    run(check())


@pytest.mark.parametrize(("committed", "stale"), [(OLD, True), (NEW, False), (TopicInfo(3, ""), False)])
def test_positions_in_a_deleted_topic_of_that_name_are_stale(run: Run, committed: TopicInfo, stale: bool) -> None:
    class Asked(Cluster):
        async def topics(self, names: Any) -> dict[str, TopicInfo]:
            return {"orders": NEW}

        async def committed(self, group: str, tps: Any) -> dict[TopicPartition, OffsetAndMetadata]:
            return {ONE: OffsetAndMetadata(500, mark("note", committed.identity))}

    found = run(Asked(None, 5, True).positions("g", [ONE]))
    assert found.stale == ({ONE: 500} if stale else {})
    assert found.commits == ({} if stale else {ONE: OffsetAndMetadata(500, "note")})


@pytest.mark.parametrize(
    ("later", "says"), [({INLET: OLD}, "no topic 'orders' any more"), ({"orders": NEW, INLET: OLD}, "made again")]
)
def test_a_receiver_ends_when_its_topic_is_gone_or_another_one(
    run: Run, kit: SimpleNamespace, fakes: Any, later: dict[str, TopicInfo], says: str
) -> None:
    async def check() -> None:
        case = receiver(kit, fakes, watch=0.01)
        case.offsets.infos = {"orders": OLD, INLET: OLD}
        await case.receiver.start(("orders", INLET))
        await case.receiver.on_partitions_assigned({ONE})
        await case.offsets.asked.wait()
        assert await case.receiver.receive(1, lanes=None, timeout=0) == ()
        case.offsets.infos = later
        with pytest.raises(Unavailable, match=says):
            await case.receiver.receive(1, lanes=None, timeout=5)
        await case.receiver.close()

    run(check())


def test_an_inlet_with_fewer_partitions_is_fitted_while_it_runs(run: Run, kit: SimpleNamespace, fakes: Any) -> None:
    async def check() -> None:
        fitted = asyncio.Event()

        async def fit() -> None:
            fitted.set()

        case = receiver(kit, fakes, watch=0.01, fit=fit)
        case.offsets.infos = {"orders": OLD, INLET: OLD}
        await case.receiver.start(("orders", INLET))
        case.offsets.infos = {"orders": TopicInfo(8, OLD.identity), INLET: OLD}
        async with asyncio.timeout(5):
            await fitted.wait()
        await case.receiver.close()

    run(check())


def test_a_topic_that_is_there_again_is_published_to(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        kafka, reports = kit.FakeKafka(), kit.Reports()
        producers = Producers(kafka.make_producer, Closing(), deadline=5, connect_timeout=5)
        sender = KafkaSender(producers, kafka, Wire(), 100_000)

        async def published(id: str) -> Any:
            await sender.submit([Outbound(kit.event(id, "k9"), "orders")], reports)
            await reports.news.until(lambda: id in reports.results)
            return reports.results[id]

        assert str((await published("first")).broker_id).startswith("orders/")
        lanes = kafka.topics.pop("orders")
        assert isinstance(await published("gone"), Rejected)
        kafka.topics["orders"] = lanes
        assert str((await published("again")).broker_id).startswith("orders/")
        kafka.topics["orders"] = 1  # made again with fewer partitions
        assert (await published("fewer")).broker_id.startswith("orders/0/")
        await sender.close()

    run(check())

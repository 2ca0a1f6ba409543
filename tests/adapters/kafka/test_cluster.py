"""Questions to the cluster, answered by hand-made replies: what is not an answer must not be taken for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors as kafka
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from anybroker_kafka.cluster import Cluster

Run = Callable[[Any], Any]
TP = TopicPartition("orders", 0)


class FakeClient:
    """Gives one reply after the other; the last one again and again."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.requests: list[Any] = []
        self.refreshes = 0
        self.reachable = True
        self.cluster = SimpleNamespace(leader_for_partition=lambda tp: 1, controller=None)

    def get_random_node(self) -> int:
        return 1

    async def coordinator_lookup(self, kind: int, group: str) -> int:
        return 1

    def add_topic(self, topic: str) -> None: ...

    async def send(self, node: int, request: Any) -> Any:
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def force_metadata_update(self) -> bool:
        self.refreshes += 1
        await asyncio.sleep(0)
        return self.reachable


def cluster(*replies: Any, timeout: float = 5.0) -> tuple[Cluster, FakeClient]:
    client = FakeClient(*replies)
    return Cluster(client, timeout, True), client


def offsets(code: int = 0, topics: Any = ()) -> SimpleNamespace:
    return SimpleNamespace(error_code=code, topics=topics)


COMMITTED = offsets(topics=[("orders", [(0, 7, "note", 0)])])


@pytest.mark.parametrize(
    "not_an_answer",
    [
        offsets(kafka.GroupLoadInProgressError.errno),
        offsets(kafka.NotCoordinatorForGroupError.errno),
        offsets(),
        offsets(topics=[("orders", [(0, -1, "", kafka.GroupLoadInProgressError.errno)])]),
        kafka.KafkaConnectionError("gone"),
    ],
)
def test_a_coordinator_that_is_loading_is_not_a_group_without_offsets(run: Run, not_an_answer: Any) -> None:
    asked, client = cluster(not_an_answer, COMMITTED)
    assert run(asked.committed("g", [TP])) == {TP: OffsetAndMetadata(7, "note")}
    assert client.refreshes == 1


def test_no_offset_is_left_out(run: Run) -> None:
    asked, _ = cluster(offsets(topics=[("orders", [(0, -1, "", 0)])]))
    assert run(asked.committed("g", [TP])) == {}


def test_patience_ends_with_the_time_out_and_with_the_last_error(run: Run) -> None:
    asked, _ = cluster(offsets(kafka.GroupLoadInProgressError.errno), timeout=0.05)
    with pytest.raises(kafka.GroupLoadInProgressError):
        run(asked.committed("g", [TP]))


def test_without_any_broker_there_is_no_patience(run: Run) -> None:
    asked, client = cluster(kafka.NodeNotReadyError())
    client.reachable = False
    with pytest.raises(kafka.NodeNotReadyError):
        run(asked.committed("g", [TP]))
    assert len(client.requests) == 1


def test_what_waiting_does_not_fix_is_raised_at_once(run: Run) -> None:
    asked, client = cluster(offsets(kafka.GroupAuthorizationFailedError.errno))
    with pytest.raises(kafka.GroupAuthorizationFailedError):
        run(asked.committed("g", [TP]))
    assert client.refreshes == 0


def test_topics_are_not_created_by_asking_for_them(run: Run) -> None:
    topics = [
        {"topic": "orders", "error_code": 0, "partitions": [1, 2, 3]},
        {"topic": "young", "error_code": kafka.LeaderNotAvailableError.errno, "partitions": [1]},
        {"topic": "missing", "error_code": kafka.UnknownTopicOrPartitionError.errno, "partitions": []},
    ]
    asked, client = cluster(SimpleNamespace(to_object=lambda: {"topics": topics}))
    assert run(asked.partitions(["orders", "young", "missing"])) == {"orders": 3, "young": 1}
    assert client.requests[0].build(MetadataRequest_v5).allow_auto_topic_creation is False


def test_a_group_with_members_takes_no_position_from_outside(run: Run) -> None:
    reply = SimpleNamespace(topics=[("orders", [(0, kafka.UnknownMemberIdError.errno)])])
    asked, _ = cluster(reply)
    with pytest.raises(kafka.UnknownMemberIdError):
        run(asked.commit("g", {TP: 5}))


def made(*errors: tuple[str, int, str]) -> SimpleNamespace:
    return SimpleNamespace(topic_errors=list(errors))


@pytest.mark.parametrize(
    "not_an_answer",
    [
        kafka.RequestTimedOutError(),
        kafka.KafkaConnectionError("gone"),
        made(("orders", kafka.NotControllerError.errno, "")),
    ],
)
def test_topics_are_asked_for_again_until_the_controller_has_answered(run: Run, not_an_answer: Any) -> None:
    exists = made(("orders", kafka.TopicAlreadyExistsError.errno, "it is there"))
    asked, client = cluster(not_an_answer, exists)
    problems = run(asked.create([("orders", 4, -1, {})]))
    assert problems == {"orders": (kafka.TopicAlreadyExistsError, "it is there")}
    assert (len(client.requests), client.refreshes) == (2, 1)


def test_a_topic_that_takes_the_controller_too_long_is_on_its_way(run: Run) -> None:
    asked, _ = cluster(made(("orders", kafka.RequestTimedOutError.errno, "")))
    assert run(asked.create([("orders", 4, -1, {})])) == {}


def test_what_is_being_made_is_waited_for_longer_than_one_question_takes(run: Run) -> None:
    """Two hundred topics, and each has its leader when the broker has come to it."""
    client = FakeClient(offsets(kafka.GroupLoadInProgressError.errno))

    async def both() -> None:
        quick = Cluster(client, 0.05, True)
        with pytest.raises(kafka.GroupLoadInProgressError):
            await quick.committed("g", [TP])
        waiting = asyncio.create_task(quick.with_timeout(30.0).committed("g", [TP]))
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done
        client.replies = [COMMITTED]
        assert await waiting == {TP: OffsetAndMetadata(7, "note")}

    run(both())

"""Streams and consumers: made as asked, compared and never changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from anybroker.adapter import GroupSpec, TopicSpec
from anybroker.errors import ConfigError
from anybroker_nats.failures import ApiError
from anybroker_nats.groups import Group
from anybroker_nats.settings import NatsSettings
from anybroker_nats.topology import declare_topic, verify_topic

Run = Callable[[Any], Any]


class Server:
    """Enough of JetStream's API: streams and consumers by name."""

    def __init__(self, kit: SimpleNamespace) -> None:
        self.link = kit.FakeLink()
        self.link.api = self.api
        self.streams: dict[str, Any] = {}
        self.consumers: dict[str, Any] = {}
        self.changes: list[str] = []
        self.taken = False
        self.clock = "2026-01-02T03:04:05.123456789Z"

    async def api(self, operation: str, body: Any = None) -> Any:
        await asyncio.sleep(0)
        what, verb, rest = operation.split(".", 2)
        if verb == "MSG":
            subject = body["next_by_subj"].replace("*", "1")
            return {"message": {"subject": subject, "seq": body["seq"], "time": "2026-01-02T03:04:05.123456789Z"}}
        there = self.streams if what == "STREAM" else self.consumers
        if verb == "INFO":
            if rest not in there:
                raise ApiError({"code": 404, "err_code": 10059})
            return there[rest]
        self.changes.append(operation)
        if verb == "DELETE":
            return {"success": there.pop(rest) is not None}
        if what == "STREAM" and self.taken:
            raise ApiError({"code": 400, "err_code": 10065})
        config = body if what == "STREAM" else body["config"]
        if what == "CONSUMER" and body["action"] == "create" and rest in there and there[rest]["config"] != config:
            raise ApiError({"code": 400, "err_code": 10148})
        there[rest] = {
            "name": rest.rpartition(".")[2],
            "config": config,
            "created": self.clock,
            "num_pending": 3,
            "num_ack_pending": 2,
            "ack_floor": {"stream_seq": 0, "consumer_seq": 0},
            "delivered": {"stream_seq": 2, "consumer_seq": 2},
        }
        for stream in self.streams.values():
            stream["state"] = {"consumer_count": len(self.consumers)}
        return there[rest]

    async def declare(self, *groups: GroupSpec, lease: float = 20.0, **options: Any) -> None:
        topic = TopicSpec("shop.orders", groups, **options)
        await declare_topic(self.link, topic, NatsSettings(), lease, True)


def test_a_topic_is_a_stream_and_a_lane_a_consumer(run: Run, kit: SimpleNamespace) -> None:
    server = Server(kit)
    run(server.declare(GroupSpec("b.i"), GroupSpec("loose", ordered=False), lanes=3, retention=60.0))
    config = server.streams["shop_orders"]["config"]
    assert config["subjects"] == ["shop.orders.*", "shop.orders.@.>"]
    assert (config["max_age"], config["duplicate_window"]) == (60 * 10**9, 60 * 10**9)
    assert set(server.consumers) == {f"shop_orders.{name}" for name in ("b_i@0", "b_i@1", "b_i@2", "loose")}
    lanes = [server.consumers[f"shop_orders.b_i@{lane}"]["config"] for lane in range(3)]
    filters = [subject for lane in lanes for subject in lane["filter_subjects"]]
    wanted = {f"{prefix}.{slot}" for prefix in ("shop.orders", "shop.orders.@.b.i") for slot in range(64)}
    assert len(filters) == len(set(filters)) == 128
    assert set(filters) == wanted
    for lane in lanes:
        assert (lane["ack_wait"], lane["priority_timeout"], lane["max_deliver"]) == (20 * 10**9 // 3, 20 * 10**9, -1)
        assert lane["priority_policy"] == "pinned_client"
        assert lane["deliver_policy"] == "new"
    loose = server.consumers["shop_orders.loose"]["config"]
    assert loose["filter_subjects"] == ["shop.orders.*", "shop.orders.@.loose.*"]
    assert "priority_policy" not in loose


def test_retention_and_start(run: Run, kit: SimpleNamespace) -> None:
    server = Server(kit)
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    groups = GroupSpec("a", start="earliest"), GroupSpec("b", start=moment)
    run(server.declare(*groups, lanes=1, retention=float("inf")))
    assert server.streams["shop_orders"]["config"]["max_age"] == 0
    assert server.streams["shop_orders"]["config"]["duplicate_window"] == 120 * 10**9
    assert server.consumers["shop_orders.a@0"]["config"]["deliver_policy"] == "all"
    assert server.consumers["shop_orders.b@0"]["config"]["opt_start_time"] == "2026-01-02T03:04:05+00:00"
    other = Server(kit)
    run(other.declare())
    assert other.streams["shop_orders"]["config"]["max_age"] == 7 * 24 * 3600 * 10**9


def test_declaring_again_changes_nothing(run: Run, kit: SimpleNamespace) -> None:
    server = Server(kit)
    run(server.declare(GroupSpec("g"), lanes=2))
    made = list(server.changes)
    run(server.declare(GroupSpec("g", start="earliest"), lanes=2, lease=5.0, retention=1.0))
    run(server.declare(GroupSpec("g"), default_lanes=True))
    assert server.changes == made
    run(server.declare(GroupSpec("g"), GroupSpec("late"), lanes=2))
    assert server.changes[len(made) :] == ["CONSUMER.CREATE.shop_orders.late@0", "CONSUMER.CREATE.shop_orders.late@1"]


def test_a_group_that_was_left_half_made_is_completed(run: Run, kit: SimpleNamespace) -> None:
    server = Server(kit)
    run(server.declare(GroupSpec("g"), lanes=3))
    del server.consumers["shop_orders.g@2"]
    with pytest.raises(ConfigError, match="lacks lane 2"):
        run(Group(server.link, "shop.orders", "g").check(True, 3))
    run(server.declare(GroupSpec("g"), lanes=3))
    assert run(Group(server.link, "shop.orders", "g").check(True, None)) == 3


@pytest.mark.parametrize(
    ("group", "lanes", "said"),
    [
        (GroupSpec("g"), 5, "asked for with 5 lanes, and exists with 3 lanes"),
        (GroupSpec("g", ordered=False), 3, "asked for with ordered=False, and exists with 3 lanes"),
        (GroupSpec("loose"), 3, "asked for with 3 lanes, and exists with ordered=False"),
    ],
)
def test_another_kind_is_refused_with_both_named(
    run: Run, kit: SimpleNamespace, group: GroupSpec, lanes: int, said: str
) -> None:
    server = Server(kit)
    run(server.declare(GroupSpec("g"), GroupSpec("loose", ordered=False), lanes=3))
    made = list(server.changes)
    topic = TopicSpec("shop.orders", (group,), lanes=lanes)
    for asking in (server.declare(group, lanes=lanes), verify_topic(server.link, topic)):
        with pytest.raises(ConfigError, match=said) as caught:
            run(asking)
        assert caught.value.remedy
    assert server.changes == made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"subjects": ["shop.orders.*"]}, r"does not take shop\.orders\.@\.>"),
        ({"retention": "workqueue"}, "workqueue"),
        ({"sealed": True}, "sealed"),
    ],
)
def test_a_stream_of_others_is_refused_and_left_alone(
    run: Run, kit: SimpleNamespace, change: dict[str, Any], said: str
) -> None:
    server = Server(kit)
    run(server.declare())
    server.streams["shop_orders"]["config"] |= change
    server.changes.clear()
    with pytest.raises(ConfigError, match=said):
        run(server.declare(GroupSpec("g")))
    assert server.changes == []


def test_a_subject_or_consumer_of_others_is_refused(run: Run, kit: SimpleNamespace) -> None:
    server = Server(kit)
    server.taken = True
    with pytest.raises(ConfigError, match="another stream"):
        run(server.declare())
    server = Server(kit)
    run(server.declare())
    server.consumers["shop_orders.g"] = {"name": "g", "config": {"durable_name": "g"}}
    with pytest.raises(ConfigError, match="not anybroker's"):
        run(server.declare(GroupSpec("g")))


def test_of_two_processes_with_different_lanes_the_second_is_refused(run: Run, kit: SimpleNamespace) -> None:
    async def both() -> list[Any]:
        server = Server(kit)
        await server.declare()
        declaring = (server.declare(GroupSpec("g"), lanes=lanes) for lanes in (2, 3))
        return await asyncio.gather(*declaring, return_exceptions=True)

    results = run(both())
    assert results[0] is None
    assert isinstance(results[1], ConfigError)


def test_a_default_gives_way_to_the_faster_process(run: Run, kit: SimpleNamespace) -> None:
    server = Server(kit)

    async def both() -> None:
        await server.declare()
        asked = server.declare(GroupSpec("g"), lanes=8)
        await asyncio.gather(asked, server.declare(GroupSpec("g"), lanes=4, default_lanes=True))

    run(both())
    assert set(server.consumers) == {f"shop_orders.g@{lane}" for lane in range(8)}


def test_of_two_processes_with_different_kinds_at_most_one_succeeds(run: Run, kit: SimpleNamespace) -> None:
    server = Server(kit)

    async def both() -> list[Any]:
        await server.declare()
        declaring = (server.declare(GroupSpec("g", ordered=ordered), lanes=1) for ordered in (True, False))
        return await asyncio.gather(*declaring, return_exceptions=True)

    refused = [isinstance(result, ConfigError) for result in run(both())]
    assert any(refused)
    assert len(server.consumers) == refused.count(False), "what the loser made is deleted"


def test_what_is_missing_is_named(run: Run, kit: SimpleNamespace) -> None:
    server = Server(kit)
    with pytest.raises(ConfigError, match="shop_orders"):
        run(verify_topic(server.link, TopicSpec("shop.orders")))
    run(server.declare())
    with pytest.raises(ConfigError, match="'g'"):
        run(verify_topic(server.link, TopicSpec("shop.orders", (GroupSpec("g"),))))
    with pytest.raises(ConfigError, match="'g'"):
        run(Group(server.link, "shop.orders", "g").backlog())


def test_a_member_gives_the_group_its_lease(run: Run, kit: SimpleNamespace) -> None:
    server = Server(kit)
    run(server.declare(GroupSpec("g"), GroupSpec("loose", ordered=False), lanes=2))
    server.changes.clear()
    run(Group(server.link, "shop.orders", "g").set_lease(2, 20.0))
    assert server.changes == []
    run(Group(server.link, "shop.orders", "g").set_lease(2, 5.0))
    run(Group(server.link, "shop.orders", "loose").set_lease(0, 5.0))
    assert len(server.changes) == 3
    assert server.consumers["shop_orders.g@1"]["config"]["priority_timeout"] == 5 * 10**9
    assert "priority_timeout" not in server.consumers["shop_orders.loose"]["config"]


def test_the_backlog_is_the_sum_of_the_lanes(run: Run, kit: SimpleNamespace) -> None:
    server = Server(kit)
    run(server.declare(GroupSpec("g"), GroupSpec("loose", ordered=False), lanes=4))
    counted = run(Group(server.link, "shop.orders", "g").backlog())
    assert (counted.waiting, counted.in_flight, counted.lag) == (12, 8, 20)
    assert counted.age > 86_400
    assert run(Group(server.link, "shop.orders", "loose").backlog()).lag == 5


@pytest.mark.parametrize("gone", [(0,), (1,), (0, 2)])
def test_a_part_of_a_group_that_was_deleted_begins_where_the_group_began(
    gone: tuple[int, ...], run: Run, kit: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    """At ``new`` it would skip what was published since: confirmed events, lost in silence."""
    server = Server(kit)
    run(server.declare(GroupSpec("g"), lanes=3))
    for lane in gone:
        del server.consumers[f"shop_orders.g@{lane}"]
    server.clock = "2026-02-02T03:04:05Z"
    run(server.declare(GroupSpec("g"), default_lanes=True))
    assert len(server.consumers) == 3
    for lane in range(3):
        config = server.consumers[f"shop_orders.g@{lane}"]["config"]
        assert config["metadata"] == {"anybroker-lanes": "3"}
        if lane in gone:
            assert (config["deliver_policy"], config["opt_start_time"]) == (
                "by_start_time",
                "2026-01-02T03:04:05.123456789Z",
            )
        else:
            assert config["deliver_policy"] == "new"
    assert f"{len(gone)} of the 3 lanes of the group 'g' of 'shop.orders' are gone" in caplog.text

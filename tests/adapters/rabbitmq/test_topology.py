"""What declare makes, in which order, and what it says of what is there already."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from aiormq.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from anybroker.adapter import GroupSpec, TopicSpec
from anybroker.errors import ConfigError, Unavailable
from anybroker_rabbitmq.ladder import LONGEST, due_binding, rung_exchange, rungs_of
from anybroker_rabbitmq.topology import backlog, check_topic, declare_topic, find_group, is_there

Run = Callable[[Any], Any]


def calls(link: Any) -> list[tuple[str, Any]]:
    return [call for channel in link.scratches for call in channel.calls]


def test_a_group_is_connected_only_when_it_is_whole(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        link = kit.FakeLink()
        await declare_topic(link, TopicSpec("orders", (GroupSpec("billing"),)), None)
        made = calls(link)
        names = [call for call, _ in made]
        binds = [argument for call, argument in made if call == "bind queue" and argument[2]]
        assert sorted(int(key.removeprefix("#.")) for _, _, key in binds) == list(range(64))
        assert {queue for queue, _, _ in binds} == {f"orders:billing:{lane}" for lane in range(4)}
        assert {exchange for _, exchange, _ in binds} == {"orders:billing"}
        assert names[-2:] == ["bind exchange", "queue"]
        assert made[-2][1] == ("orders:billing", "orders", "#")
        assert made[-1][1] == ("orders:billing:members", {"x-queue-type": "quorum"})
        lane = dict(argument for call, argument in made if call == "queue")["orders:billing:0"]
        assert lane == {"x-queue-type": "quorum", "x-single-active-consumer": True}

    run(check())


def test_arguments_of_the_queues(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        link = kit.FakeLink()
        groups = (GroupSpec("a", ordered=False),)
        await declare_topic(link, TopicSpec("t", groups, retention=60), -1)
        await declare_topic(link, TopicSpec("d", groups, lanes=1, retention=math.inf), None)
        queues = dict(link.asked("queue"))
        assert queues["t:a:0"] == {"x-queue-type": "quorum", "x-delivery-limit": -1, "x-message-ttl": 60_000}
        assert queues["d:a:0"] == {"x-queue-type": "quorum"}
        assert ("t:a:0", "t:a", "#") in link.asked("bind queue")
        assert "t:a:1" not in queues

    run(check())


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange 't:g'", "topics.t"),
        ("PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 't:g:0'", "delivery_limit"),
        ("PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 't:g:0'", "topics.t"),
    ],
)
def test_what_is_there_and_different_is_refused_with_the_recipe(
    run: Run, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, text: str, setting: str
) -> None:
    async def check() -> None:
        link = kit.FakeLink()
        async with link.scratch("") as channel:
            pass

        async def refuse(*_: Any, **__: Any) -> None:
            raise ChannelPreconditionFailed(text)

        monkeypatch.setattr(type(channel), "exchange_declare", refuse)
        with pytest.raises(ConfigError) as caught:
            await declare_topic(link, TopicSpec("t", (GroupSpec("g"),)), None)
        assert caught.value.setting == setting
        assert text in str(caught.value)
        assert caught.value.remedy

    run(check())


def test_verify_names_what_is_missing_or_different(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        link = kit.FakeLink()
        topic = TopicSpec("orders", (GroupSpec("billing"),))
        with pytest.raises(ConfigError, match="no exchange 'orders'"):
            await check_topic(link, topic)
        link.there.add("orders")
        with pytest.raises(ConfigError, match="no exchange 'orders:billing'"):
            await check_topic(link, topic)
        await declare_topic(link, topic, None)
        await check_topic(link, topic)
        with pytest.raises(ConfigError, match="with 8 lanes, and exists with 4 lanes"):
            await find_group(link, "orders", GroupSpec("billing"), 8, 8)
        with pytest.raises(ConfigError, match="with ordered=False, and exists with 4 lanes"):
            await find_group(link, "orders", GroupSpec("billing", ordered=False), 4, 4)
        link.there.remove("orders:billing:members")
        with pytest.raises(ConfigError, match="no queue 'orders:billing:members'"):
            await check_topic(link, topic)

    run(check())


def test_backlog_sums_the_lanes(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        link = kit.FakeLink()
        with pytest.raises(ConfigError, match="no group 'billing'"):
            await backlog(link, "orders", "billing", 4)
        await declare_topic(link, TopicSpec("orders", (GroupSpec("billing"),), lanes=3), None)
        link.ready |= {"orders:billing:0": 5, "orders:billing:2": 7}
        assert await backlog(link, "orders", "billing", 4) == 12

    run(check())


def test_a_queue_on_a_node_that_is_down_is_not_missing(
    run: Run, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        link = kit.FakeLink()
        async with link.scratch("") as channel:
            pass

        async def down(*_: Any, **__: Any) -> None:
            raise ChannelNotFoundEntity("NOT_FOUND - home node 'r2' of durable queue 'q' is down or inaccessible")

        monkeypatch.setattr(type(channel), "queue_declare", down)
        with pytest.raises(Unavailable, match="down or inaccessible"):
            await is_there(link, "queue", "q")

    run(check())


def test_a_delay_waits_on_the_rungs_of_its_bits() -> None:
    assert rungs_of(1) == (0, "0." * 19 + "1.")
    assert rungs_of(6) == (2, "0." * 17 + "1.1.0.")
    assert rungs_of(int(LONGEST))[0] == 19
    assert rungs_of(10**9) == (19, "1." * 20)
    rung, way = rungs_of(int(LONGEST))
    assert sum(2 ** (19 - at) for at, bit in enumerate(way.split(".")) if bit == "1") == LONGEST
    assert rung_exchange(rung) == "anybroker:delay:19"
    pattern, key = due_binding("a.b:c").split("."), (way + "a.b:c.17").split(".")
    assert len(pattern) == len(key)
    assert all(word in ("*", other) for word, other in zip(pattern, key, strict=True))


@pytest.mark.parametrize("gone", [0, 2, 3])
def test_a_queue_that_is_missing_is_named_and_made_again(
    run: Run, kit: SimpleNamespace, caplog: pytest.LogCaptureFixture, gone: int
) -> None:
    async def check() -> None:
        link = kit.FakeLink()
        topic = TopicSpec("orders", (GroupSpec("billing"),), lanes=4)
        await declare_topic(link, topic, None)
        assert not caplog.records
        link.there.remove(f"orders:billing:{gone}")
        link.ready |= {f"orders:billing:{lane}": 1 for lane in range(4)}
        found = await find_group(link, "orders", GroupSpec("billing"), 1, None)
        assert found.lanes == 4
        with pytest.raises(ConfigError, match=f"is missing: no queue 'orders:billing:{gone}'"):
            await check_topic(link, topic)
        assert await backlog(link, "orders", "billing", 4) == 3
        await declare_topic(link, replace(topic, lanes=8, default_lanes=True), None)
        await check_topic(link, topic)
        assert f"orders/billing: orders:billing:{gone} was deleted" in caplog.text
        assert "orders:billing:4" not in link.there

    run(check())


def test_the_exchange_that_says_how_many_lanes_is_missing(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        link = kit.FakeLink()
        topic = TopicSpec("orders", (GroupSpec("billing"),), lanes=3)
        await declare_topic(link, topic, None)
        link.there.remove("orders:billing:lanes-3")
        with pytest.raises(ConfigError, match="no exchange 'orders:billing:lanes-3'"):
            await check_topic(link, topic)
        await declare_topic(link, topic, None)
        await check_topic(link, topic)

    run(check())


def test_what_a_deleted_group_left_says_nothing_of_the_new_one(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        link = kit.FakeLink()
        link.there |= {"orders", "orders:billing:lanes-4", "orders:billing:unordered"}
        topic = TopicSpec("orders", (GroupSpec("billing"),), lanes=8)
        await declare_topic(link, topic, None)
        found = await find_group(link, "orders", GroupSpec("billing"), 4, None)
        assert found.lanes == 8

    run(check())


def test_a_group_that_others_make_with_a_number_at_the_same_moment_is_taken_as_it_is(
    run: Run, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        link = kit.FakeLink()
        async with link.scratch("") as channel:
            pass
        declare = type(channel).exchange_declare

        async def declared(self: Any, name: str, **options: Any) -> None:
            if name == "orders:billing" and not options.get("passive") and "orders:billing" not in link.there:
                monkeypatch.setattr(type(channel), "exchange_declare", refused)
                await declare_topic(link, TopicSpec("orders", (GroupSpec("billing"),), lanes=8), None)
            await refused(self, name, **options)

        async def refused(self: Any, name: str, **options: Any) -> None:
            alternate = options.get("arguments", {}).get("alternate-exchange", "lanes-8")
            if not alternate.endswith("lanes-8"):
                raise ChannelPreconditionFailed("inequivalent arg 'alternate-exchange' for exchange 'orders:billing'")
            await declare(self, name, **options)

        monkeypatch.setattr(type(channel), "exchange_declare", declared)
        await declare_topic(link, TopicSpec("orders", (GroupSpec("billing"),), default_lanes=True), None)
        assert (await find_group(link, "orders", GroupSpec("billing"), 4, None)).lanes == 8
        with pytest.raises(ConfigError, match="another number of lanes"):
            await declare_topic(link, TopicSpec("orders", (GroupSpec("billing"),)), None)

    run(check())

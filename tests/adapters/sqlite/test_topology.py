"""Topics and groups: made once, never changed silently, started and moved where one asks."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anybroker.adapter import Ack, GroupSpec, Outbound, Replays, ReportsBacklog, SubscriptionSpec, TopicSpec, Topology
from anybroker.errors import ConfigError


def topology(*groups: GroupSpec, name: str = "orders", **settings: Any) -> Topology:
    return Topology((TopicSpec(name, groups, **settings),))


def test_declaring_twice_changes_nothing(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            declare = broker.adapter.declare
            before = broker.adapter.native.execute("SELECT * FROM ab_topic JOIN ab_group").fetchall()
            await declare(topology(GroupSpec("billing")), "create")
            await declare(topology(GroupSpec("billing")), "verify")
            assert broker.adapter.native.execute("SELECT * FROM ab_topic JOIN ab_group").fetchall() == before
            assert isinstance(broker.adapter, Replays)
            assert isinstance(broker.adapter, ReportsBacklog)

    run(scenario())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (topology(name="parcels"), "'parcels'"),
        (topology(GroupSpec("nobody")), "'nobody' of topic 'orders'"),
        (topology(ordered=False), "exists with ordered=True"),
        (topology(GroupSpec("billing", ordered=False)), "exists with ordered=True"),
        (topology(retention=60.0), "retention=None"),
        (topology(retention=math.inf), "9e999"),
    ],
)
def test_what_differs_is_refused(opened: Any, run: Any, asked: Topology, said: str) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            with pytest.raises(ConfigError, match=said):
                await broker.adapter.declare(asked, "verify")

    run(scenario())


def test_a_declaration_that_fails_makes_nothing(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            asked = Topology((TopicSpec("parcels"), TopicSpec("orders", ordered=False)))
            with pytest.raises(ConfigError, match="ordered"):
                await broker.adapter.declare(asked, "create")
            with pytest.raises(ConfigError, match="parcels"):
                await broker.adapter.declare(topology(name="parcels"), "verify")

    run(scenario())


def test_the_recipe_for_another_retention_works(opened: Any, path: Path, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            with pytest.raises(ConfigError) as caught:
                await broker.adapter.declare(topology(retention=math.inf), "create")
            statement = str(caught.value).split('"')[1]
            broker.adapter.native.execute(statement)
            broker.adapter.native.commit()
            await broker.adapter.declare(topology(retention=math.inf), "create")

    run(scenario())


def test_joining_what_is_not_there(opened: Any, kit: ModuleType, path: Path, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            for topic, group in (("orders", "nobody"), ("parcels", "billing")):
                with pytest.raises(ConfigError, match=f"'{group}' of topic '{topic}'"):
                    await broker.join(topic, group)
            spec = SubscriptionSpec("orders", "billing", False, 4, "new", 10)
            with pytest.raises(ConfigError, match="subscribed to with ordered=False"):
                await broker.adapter.open_receiver(spec, kit.Listener())
            assert list((path.parent / "shop.db-wake").iterdir()) == []

    run(scenario())


def test_where_groups_start(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            await broker.publish(*(Outbound(kit.make_event(n), "orders") for n in range(3)))
            await broker.publish(Outbound(kit.make_event("inlet"), "orders", group="billing"))
            moment = datetime.now(UTC)
            await broker.publish(Outbound(kit.make_event(3), "orders"))
            groups = {
                "all": GroupSpec("all", start="earliest"),
                "some": GroupSpec("some", start=moment),
                "later": GroupSpec("later", start=moment + timedelta(days=1)),
                "none": GroupSpec("none"),
            }
            await broker.adapter.declare(topology(*groups.values()), "create")
            await broker.publish(Outbound(kit.make_event(4), "orders"))
            seen: dict[str, list[Any]] = {name: [] for name in groups}
            expected = {"all": [0, 1, 2, 3, 4], "some": [3, 4], "later": [4], "none": [4]}
            for name, values in seen.items():
                assert (await broker.adapter.backlog("orders", name)).waiting == len(expected[name])
                receiver = await broker.join(group=name)
                while len(values) < len(expected[name]):
                    values += [inbound.event.data for inbound in await receiver.receive(9, lanes=None, timeout=5)]
            assert seen == expected

    run(scenario())


def test_moving_a_group(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            await broker.publish(*(Outbound(kit.make_event(n), "orders") for n in range(3)))
            moment = datetime.now(UTC)
            await broker.publish(Outbound(kit.make_event(3), "orders"))
            receiver = await broker.join()
            batch = []
            while len(batch) < 4:
                batch += await receiver.receive(9, lanes=None, timeout=5)
            await receiver.settle([Ack(inbound) for inbound in batch[1:]])
            seek, backlog = broker.adapter.seek, broker.adapter.backlog
            with pytest.raises(ConfigError, match="still has members"):
                await seek("orders", "billing", "earliest")
            await receiver.close()
            assert (await backlog("orders", "billing")).waiting == 1
            await seek("orders", "billing", moment)
            assert (await backlog("orders", "billing")).waiting == 1
            await seek("orders", "billing", "earliest")
            assert (await backlog("orders", "billing")).waiting == 4
            await seek("orders", "billing", "new")
            assert (await backlog("orders", "billing")).waiting == 0
            with pytest.raises(ConfigError, match="'nobody'"):
                await seek("orders", "nobody", "new")
            assert (await backlog("orders", "stock")).waiting == 4, "another group is not moved"

    run(scenario())


def test_seeking_further_back_than_the_topic_reaches(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened(retention=0.0, deduplication_window=0.0, poll=0.01) as broker:
            before = datetime.now(UTC)
            await broker.publish(Outbound(kit.make_event(1), "orders"))
            for group in ("billing", "stock"):
                receiver = await broker.join(group=group)
                (inbound,) = await receiver.receive(9, lanes=None, timeout=5)
                await receiver.settle([Ack(inbound)])
                end = time.monotonic() + 10
                while group == "stock" and time.monotonic() < end:
                    await receiver.receive(9, lanes=None, timeout=0.05)
                    if not broker.adapter.native.execute("SELECT 1 FROM ab_segment").fetchone():
                        break
                await receiver.close()
            with pytest.raises(ConfigError, match="does not reach back"):
                await broker.adapter.seek("orders", "billing", before)
            await broker.adapter.seek("orders", "billing", datetime.now(UTC))
            await broker.adapter.seek("orders", "billing", "earliest")

    run(scenario())


def test_the_view_for_people(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            await broker.publish(
                Outbound(kit.make_event("a", "k", id="1"), "orders"),
                Outbound(kit.Event.create(source="/s", type="t", id="2"), "orders"),
                Outbound(kit.make_event("bc", id="3"), "orders", headers={"h": "v"}),
            )
            rows = broker.adapter.native.execute("SELECT topic, number, id, key, more, body FROM ab_event").fetchall()
            assert rows == [
                ("orders", 1, "1", "k", None, b'"a"'),
                ("orders", 2, "2", None, None, None),
                ("orders", 3, "3", None, '{"headers":{"h":"v"}}', b'"bc"'),
            ]

    run(scenario())

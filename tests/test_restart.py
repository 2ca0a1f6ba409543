"""A Bus that starts again after it was closed, also in another event loop, and on another broker in tests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from anybroker import Bus, Event, MemoryBroker
from anybroker.errors import ConfigError, StateError
from anybroker.middleware import idempotent
from anybroker.testing import override, settled


def shop(broker: MemoryBroker | str, seen: list[str]) -> Bus:
    """An application's Bus, with an idempotent handler."""
    bus = Bus(broker, source="shop")

    @bus.subscribe("orders", group="billing")
    @idempotent()
    async def handle(event: Event[str]) -> None:
        seen.append(event.data)

    return bus


def test_it_starts_again_in_another_loop() -> None:
    seen: list[str] = []
    bus = shop(MemoryBroker(), seen)

    async def main(data: str) -> None:
        async with bus:
            await bus.publish("orders", data, type="t")
            await settled(bus)

    for data in ("1", "2", "3"):
        asyncio.run(main(data))
    assert seen == ["1", "2", "3"]
    assert bus.stats.published == 3
    assert bus.subscriptions[0].stats.acked == 3


def test_between_two_runs_it_refuses_as_a_closed_one_does() -> None:
    bus = shop(MemoryBroker(), [])

    async def main() -> None:
        async with bus:
            pass
        await bus.close()  # a second time
        with pytest.raises(StateError, match="start it again"):
            await bus.publish("orders", "1", type="t")
        async with bus:
            with pytest.raises(StateError, match="started already"):
                await bus.start()

    asyncio.run(main())


def test_a_provided_value_is_made_anew_at_each_start() -> None:
    bus = Bus(MemoryBroker(), source="shop")
    made: list[object] = []
    bus.provide(dict, lambda: made.append(object()) or {"number": len(made)})
    seen: list[int] = []

    @bus.subscribe("orders", group="billing")
    async def handle(_: Event[str], values: dict) -> None:  # type: ignore[type-arg]
        seen.append(values["number"])

    async def main() -> None:
        for _ in range(2):
            async with bus:
                await bus.publish("orders", "x", type="t")
                await settled(bus)

    asyncio.run(main())
    assert seen == [1, 2]


def test_a_start_that_failed_can_be_repeated() -> None:
    seen: list[str] = []
    bus = shop(MemoryBroker(), seen)
    broken = [True]

    def connection() -> int:
        if broken.pop():
            raise OSError("no database")
        return 1

    bus.provide(int, connection)

    async def main() -> None:
        with pytest.raises(OSError, match="no database"):
            await bus.start()
        broken.append(False)
        async with bus:
            await bus.publish("orders", "1", type="t")
            await settled(bus)

    asyncio.run(main())
    assert seen == ["1"]


def test_override_runs_the_bus_of_an_application_on_another_broker(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    seen: list[str] = []
    bus = shop(f"sqlite:///{file}", seen)

    async def main(data: str) -> str:
        async with bus:
            await bus.publish("orders", data, type="t")
            await settled(bus)
            return bus.adapter.capabilities.adapter

    broker = MemoryBroker()
    with override(bus, broker) as same:
        assert same is bus
        assert asyncio.run(main("in memory")) == "memory"
        assert asyncio.run(main("again")) == "memory"
    assert list(tmp_path.iterdir()) == [], "nothing of the application's broker or store was opened"
    assert asyncio.run(main("in the file")) == "sqlite"
    assert file.exists()
    assert seen == ["in memory", "again", "in the file"]


def test_override_makes_topics_that_the_application_only_verifies() -> None:
    bus = Bus("memory://", source="shop", provision="verify", topics={"orders": {"groups": ["billing"]}})

    async def main() -> None:
        async with bus:
            assert bus.settings.provision == "create"
            await bus.publish("orders", "x", type="t")
            assert (await bus.backlog("orders", "billing")).waiting == 1

    with override(bus, MemoryBroker()):
        asyncio.run(main())
    assert bus.settings.provision == "verify"


def test_each_broker_is_asked_for_its_topics() -> None:
    """What was declared on the first one is not taken for declared on the second."""
    bus = Bus(MemoryBroker(), source="shop")

    async def main() -> None:
        async with bus:
            await bus.declare("orders", groups="billing")
            await bus.publish("orders", "x", type="t")
            assert (await bus.backlog("orders", "billing")).waiting == 1

    for _ in range(2):
        with override(bus, MemoryBroker()):
            asyncio.run(main())


def test_override_is_refused_while_the_bus_runs() -> None:
    bus = shop(MemoryBroker(), [])

    async def main() -> None:
        async with bus:
            with pytest.raises(StateError, match="override: the Bus is started"), override(bus, MemoryBroker()):
                pass
        with pytest.raises(StateError, match="override: the Bus is started"), override(bus, MemoryBroker()):
            await bus.start()
        await bus.close()

    asyncio.run(main())


def test_a_close_during_a_start_that_fails_and_is_repeated_closes() -> None:
    bus = shop(MemoryBroker(), [])
    fails = [True]

    async def value() -> int:
        await asyncio.sleep(0)
        if fails.pop():
            fails.append(False)
            raise OSError("no database")
        return 1

    bus.provide(int, value)

    async def start_twice() -> None:
        with pytest.raises(OSError, match="no database"):
            await bus.start()
        await bus.start()

    async def main() -> None:
        starting = asyncio.create_task(start_twice())
        await asyncio.sleep(0)
        closing = asyncio.create_task(bus.close())
        await asyncio.wait([starting, closing])
        await bus.close()
        with pytest.raises(StateError, match="the Bus is closed"):
            await bus.publish("orders", "1", type="t")

    asyncio.run(main())


def test_a_lock_that_was_waited_for_does_not_belong_to_the_first_loop() -> None:
    seen: list[str] = []
    bus = shop(MemoryBroker(), seen)
    (subscription,) = bus.subscriptions

    async def main() -> None:
        async with bus:
            await asyncio.gather(subscription.stop(), subscription.stop(), subscription.start())
            await bus.publish("orders", "1", type="t")
            await settled(bus)

    asyncio.run(main())
    asyncio.run(main())
    assert seen == ["1", "1"]


def test_a_value_of_the_process_is_not_provided_while_the_bus_runs() -> None:
    bus = shop(MemoryBroker(), [])

    async def main() -> None:
        async with bus:
            bus.provide(str, lambda: "x", scope="delivery")
            with pytest.raises(StateError, match="provide: the Bus is started"):
                bus.provide(int, lambda: 1)

    asyncio.run(main())


def test_override_takes_what_a_bus_takes() -> None:
    with (
        pytest.raises(ConfigError, match="the class MemoryBroker is neither"),
        override(shop("memory://", []), MemoryBroker),
    ):  # type: ignore[arg-type]
        pass


def test_what_waits_for_its_time_is_handled_in_the_next_loop() -> None:
    seen: list[str] = []
    bus = shop(MemoryBroker(), seen)

    async def publish() -> None:
        async with bus:
            await bus.publish("orders", "delayed", type="t", delay=0.2)

    async def wait() -> None:
        async with bus:
            await settled(bus)

    asyncio.run(publish())
    assert seen == []
    asyncio.run(wait())
    assert seen == ["delayed"]


def test_before_the_start_each_call_names_itself() -> None:
    bus = shop(MemoryBroker(), [])

    async def main() -> None:
        async with bus:
            pass
        with pytest.raises(StateError, match=r"^publish_many: "):
            await bus.publish_many("orders", ["1"])
        with pytest.raises(StateError, match=r"^publish: "):
            await bus.publish("orders", "1", type="t")

    asyncio.run(main())

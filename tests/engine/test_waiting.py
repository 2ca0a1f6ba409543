"""What waits for its turn in a middleware, when its lane or its lease goes, or its start ends early."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.engine.scripted_adapter import PER_MESSAGE, ScriptedBroker, bus_of, inbound, run, until

from anybroker import Event
from anybroker.middleware import circuit, concurrency, rate_limit, retry


class Starts:
    """A handler whose starts last until they are let go."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.go = asyncio.Event()

    async def __call__(self, event: Event[Any]) -> None:
        self.ids.append(event.id)
        await self.go.wait()


@pytest.mark.parametrize("capabilities", [{}, PER_MESSAGE], ids=["cumulative", "per message"])
@pytest.mark.parametrize("how", ["lost", "revoked"])
def test_the_seat_of_an_event_whose_lane_is_gone_is_anothers(capabilities: Any, how: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**capabilities)
        bus = bus_of(broker)
        starts = Starts()
        bus.subscribe("topic", group="group", middleware=[concurrency(1)])(starts.__call__)
        async with bus:
            (subscription,) = bus.subscriptions
            receiver = broker.receiver
            first, second, third = (receiver.assign(name) for name in "abc")
            receiver.deliver(inbound(first, 1, key="1"))
            await until(lambda: starts.ids == ["1"])
            receiver.deliver(*(inbound(second, number, key=str(number)) for number in range(2, 7)))
            receiver.deliver(inbound(third, 7, key="7"))
            await until(lambda: subscription.waiting == 6)
            if how == "lost":
                receiver.listener.lost([second])
            else:
                await receiver.listener.revoked([second])
            assert subscription.waiting == 1
            starts.go.set()
            await until(lambda: starts.ids == ["1", "7"])
            await until(lambda: subscription.buffered == 0)

    run(main)


def test_a_probe_whose_lane_is_gone_is_followed_by_another() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        starts: list[str] = []
        hangs = asyncio.Event()
        down = True

        @bus.subscribe("topic", group="group", middleware=[retry(5, first=0.0), circuit(failures=1, probe=0.05)])
        async def handle(event: Event[Any]) -> None:
            starts.append(event.id)
            if down:
                raise ConnectionError("down")
            if event.id == "2":
                await hangs.wait()

        async with bus:
            (subscription,) = bus.subscriptions
            receiver = broker.receiver
            first, second = receiver.assign("a"), receiver.assign("b")
            receiver.deliver(inbound(first, 1, key="1"))
            await until(lambda: subscription.stats.circuits_opened == 1)
            down = False
            await until(lambda: subscription.stats.acked == 1)  # it was its own probe
            down = True
            receiver.deliver(inbound(first, 2, key="2"), inbound(second, 3, key="3"))
            await until(lambda: subscription.stats.circuits_opened == 2)
            receiver.listener.lost([first])
            down = False
            await until(lambda: subscription.stats.acked == 2)
            assert "3" in starts
            assert subscription.problem is None

    run(main)


def test_what_was_called_when_its_lane_is_gone_gives_its_start_back() -> None:
    """It was ready, and no worker had it yet."""

    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        starts = Starts()
        bus.subscribe("topic", group="group", middleware=[concurrency(1)])(starts.__call__)
        async with bus:
            (subscription,) = bus.subscriptions
            receiver = broker.receiver
            first, second, third = (receiver.assign(name) for name in "abc")
            receiver.deliver(inbound(first, 1, key="1"))
            await until(lambda: starts.ids == ["1"])
            receiver.deliver(inbound(second, 2, key="2"))
            await until(lambda: subscription.waiting == 1)
            receiver.deliver(inbound(third, 3, key="3"))
            await until(lambda: subscription.waiting == 2)
            subscription.pause()  # so that nothing takes what is called
            starts.go.set()
            await until(lambda: subscription.waiting == 1)
            receiver.listener.lost([second])
            subscription.resume()
            await until(lambda: starts.ids == ["1", "3"])

    run(main)


def test_closing_while_thousands_wait_is_quick() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = bus_of(broker)

        @bus.subscribe("topic", group="group", middleware=[rate_limit(1, per=3600, key=lambda _: "one")])
        async def handle(event: Event[Any]) -> None: ...

        async with bus:
            (subscription,) = bus.subscriptions
            receiver = broker.receiver
            lane = receiver.assign("a")
            receiver.deliver(*(inbound(lane, number, key=str(number)) for number in range(1, 3_001)))
            await until(lambda: subscription.waiting == 2_999)
            before = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - before < 3
        assert subscription.stats.returned == 2_999

    run(main)

"""How old the oldest event is that a group has not finished, whatever has become of it."""

from __future__ import annotations

import time
from typing import Any

from anybroker import Event
from anybroker.adapter import Ack, Outbound, Release


async def _age(broker: Any, group: str = "billing") -> float:
    age: float = (await broker.adapter.backlog("orders", group)).age
    return age


async def _put(
    broker: Any, *numbers: int, ago: float = 0.0, due: float | None = None, group: str | None = None
) -> None:
    """Publish these as one segment; ``ago``: seconds by which it was stored before now."""
    await broker.publish(
        *(
            Outbound(
                Event.create(n, type="t", source="s", id=f"{n}", key=f"k{n}"),
                "orders",
                group,
                not_before=None if due is None else time.time() + due,
            )
            for n in numbers
        )
    )
    if ago:
        await broker.adapter._opened.call(
            lambda store: store.execute(
                "UPDATE ab_segment SET at = at - ? WHERE first = (SELECT max(first) FROM ab_segment)", (ago,)
            )
        )


def _near(age: float, wanted: float) -> bool:
    return wanted - 1 <= age <= wanted + 20


def test_in_whatever_state_it_is(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            assert await _age(broker) == 0.0
            await _put(broker, 1, ago=1_000)
            await _put(broker, 2, ago=500)
            assert _near(await _age(broker), 1_000)
            receiver = await broker.join()
            one, two = await receiver.receive(10, lanes=None, timeout=5)
            assert _near(await _age(broker), 1_000), "in flight"
            await receiver.settle([Release(one, 1, 3_600.0)])
            assert _near(await _age(broker), 1_000), "given back for later: unfinished since it was stored"
            await receiver.settle([Ack(two)])
            assert _near(await _age(broker), 1_000)
            assert _near(await _age(broker, "stock"), 1_000)
            await _put(broker, 3)
            (three,) = await receiver.receive(10, lanes=None, timeout=5)
            await receiver.settle([Ack(three)])

    run(scenario())


def test_the_inlet_counts_for_its_group_only(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            await _put(broker, 1, ago=1_000, group="billing")
            assert _near(await _age(broker), 1_000)
            assert await _age(broker, "stock") == 0.0

    run(scenario())


def test_a_delay_counts_from_its_end_and_hides_nothing(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            await _put(broker, 1, 2, ago=1_000, due=3_600)
            assert await _age(broker) == 0.0
            await _put(broker, 3, ago=900, due=-100)
            assert _near(await _age(broker), 100), "its delay ended then"
            await _put(broker, 4, ago=500)
            assert _near(await _age(broker), 500), "behind delayed ones, and older than what is due lately"
            receiver = await broker.join()
            received = await receiver.receive(10, lanes=None, timeout=5)
            assert len(received) == 2
            assert _near(await _age(broker), 500), "passed by the cursor: claimed, and delayed"
            await receiver.settle([Ack(item) for item in received])
            assert await _age(broker) == 0.0, "what is left may not start yet"

    run(scenario())


def test_many_delayed_ones_are_not_all_read(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            for number in range(40):
                await _put(broker, number, ago=1_000 - number, due=3_600)
            assert _near(await _age(broker), 1_000 - 32), "behind so many it counts from when it was stored"
            assert len(await (await broker.join()).receive(10, lanes=None, timeout=0.1)) == 0
            assert _near(await _age(broker), 1_000 - 32)

    run(scenario())

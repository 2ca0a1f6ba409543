"""``anybroker dlq parked`` and ``unpark``, and the order of a parked key in ``replay``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from anybroker import Bus, Reject
from anybroker.middleware import dead_letter, retry
from anybroker.testing import settled

QUICK = ("--patience", "0.2")


@pytest.fixture
def ledger(shop: Any) -> Any:
    """A group that parks the key of what it refuses; three events of one key, the first of which it refuses."""

    def bus(refuses: bool) -> Bus:
        made = Bus(shop.url, source="shop")
        group = made.subscription(
            "orders", group="billing", start="earliest", middleware=[dead_letter(then="park"), retry(attempts=1)]
        )

        @group.on(name="book")
        async def book(order: dict[str, Any]) -> None:
            if refuses and "refuse" in order:
                raise Reject(order["refuse"])
            shop.seen.append(order["n"])

        return made

    async def run(refuses: bool, count: int) -> None:
        async with bus(refuses) as running:
            for number in range(count):
                order = {"n": number, "refuse": "no"} if number == 0 else {"n": number}
                await running.publish("orders", order, type="order.v1", id=f"o-{number}", key="customer-7")
            await settled(running)

    asyncio.run(run(True, 3))
    return lambda: asyncio.run(run(False, 0))


def test_parked_keys_are_shown(shop: Any, ledger: Any, anybroker: Any) -> None:
    shown = anybroker("dlq", "parked", "orders", "billing", "--url", shop.url)
    assert (shown.code, [line.split() for line in shown.out.splitlines()]) == (
        0,
        [["key", "events"], ["customer-7", "3"]],
    )
    assert anybroker("dlq", "parked", "orders", "billing", "--url", shop.url, "--json").json == {"customer-7": 3}


def test_a_replay_that_leaves_out_the_first_is_refused_unless_it_is_forced(
    shop: Any, ledger: Any, anybroker: Any
) -> None:
    refused = anybroker("dlq", "replay", "orders", "billing", "o-1", "--url", shop.url, *QUICK)
    assert refused.code == 2
    assert "o-0" in refused.err
    assert anybroker("dlq", "replay", "orders", "billing", "o-1", "--force", "--url", shop.url, *QUICK).code == 0
    ledger()
    assert shop.seen == []
    assert anybroker("dlq", "replay", "orders", "billing", "--all", "--url", shop.url, *QUICK).code == 0
    ledger()
    assert shop.seen == [0, 1, 2]
    none = anybroker("dlq", "parked", "orders", "billing", "--url", shop.url)
    assert (none.code, none.out) == (0, "")


def test_a_key_is_unparked(shop: Any, ledger: Any, anybroker: Any) -> None:
    unpark = ("dlq", "unpark", "orders", "billing", "customer-7", "--url", shop.url)
    assert anybroker(*unpark).code == 0
    again = anybroker(*unpark)
    assert again.code == 1
    assert "the key customer-7 is not parked in orders/billing" in again.err

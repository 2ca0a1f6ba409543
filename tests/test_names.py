"""Names of topics and groups, and the length of keys: what every broker carries."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from anybroker import Bus, ConfigError, MemoryBroker
from anybroker.names import check_key, check_names, check_topic


def error(call: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("name", ["a", "orders", "shop.orders-eu", "0", "a-.b".replace("-.", "-"), "x" * 60])
def test_names_that_every_broker_carries(name: str) -> None:
    assert check_topic(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Orders",
        "orders_eu",
        "orders/eu",
        "o rders",
        "-a",
        "a-",
        ".a",
        "a.",
        "a..b",
        "ärger",
        "a*",
        "a\n",
        "a#",
        None,
        7,
    ],
)
def test_names_that_not_every_broker_carries(name: Any) -> None:
    assert error(lambda: check_topic(name)).endswith(
        "is not a name that every broker accepts. Use lower-case letters, digits, and single '.' or '-' between them, "
        "such as 'orders' or 'shop.orders-eu'."
    )
    assert "group" in error(lambda: check_names("orders", name))


def test_the_length_of_names() -> None:
    assert error(lambda: check_topic("x" * 61)) == (
        f"topic: '{'x' * 61}' has 61 characters. Use at most 60, with the group."
    )
    check_names("t" * 30, "g" * 30)
    assert error(lambda: check_names("t" * 30, "g" * 31)).startswith("group: topic 'tttt")


@pytest.mark.parametrize("call", ["subscribe", "declare", "publish", "dead_letters", "topic"])
def test_names_are_refused_wherever_they_come_in(call: str) -> None:
    async def main() -> None:
        bus = Bus(MemoryBroker(), source="shop")
        if call == "subscribe":
            bus.subscription("Orders", group="billing")
        elif call == "dead_letters":
            bus.dead_letters("Orders", "billing")
        elif call == "topic":
            bus.topic("Orders")
        async with bus:
            if call == "declare":
                await bus.declare("Orders")
            await bus.publish("Orders", 1, type="t")

    assert error(lambda: asyncio.run(main())).startswith("topic: 'Orders' is not a name that every broker accepts")


def test_keys_have_a_length() -> None:
    assert check_key("k" * 512) == "k" * 512
    assert error(lambda: check_key("é" * 257)) == (
        f"key: '{'é' * 40}'… takes 514 bytes. "
        "Use 512 at most: an identifier or its hash, such as the customer's number."
    )

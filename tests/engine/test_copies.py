"""What the core sends again of an event, and what a broker that drops copies makes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from anybroker import Bus, ConfigError, Delivery, Event, Receipt, Reject
from anybroker.adapter import AdapterContext, Foreign, Inbound, Lane, Outbound, Report, Sender
from anybroker.deadletters.sending import send_dead_letter
from anybroker.engine.lanes import LaneState
from anybroker.errors import PublishOutcomeUnknown
from anybroker.memory import MemoryBroker
from anybroker.middleware import retry
from anybroker.testing import AdapterWrapper, SenderWrapper, settled

from .scripted_adapter import until


class DropsCopies:
    """A broker in memory that knows the ids of all that it has stored; ``id_of`` says which, and answers get lost."""

    def __init__(self, id_of: Any = Outbound.deduplication_id) -> None:
        self.inner = MemoryBroker()
        self.id_of = id_of
        self.known: set[Any] = set()
        self.lose: list[str] = []
        """Topics: the answer to one event for each is lost."""
        self.hops: list[str] = []
        self.contexts: list[AdapterContext] = []

    def make_adapter(self, context: AdapterContext) -> Any:
        self.contexts.append(context)
        broker = self

        class Wrapped(AdapterWrapper):
            def wrap_sender(self, sender: Sender) -> Sender:
                return _Dropping(sender, broker)

        return Wrapped(self.inner.make_adapter(context))


class _Dropping(SenderWrapper):
    def __init__(self, inner: Sender, broker: DropsCopies) -> None:
        super().__init__(inner)
        self.broker = broker

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        broker = self.broker

        def answer(outbound: Outbound, result: Any) -> None:
            if outbound.topic in broker.lose:
                broker.lose.remove(outbound.topic)
                result = PublishOutcomeUnknown("the answer was lost")
            report(outbound, result)

        for outbound in batch:
            broker.hops.append(outbound.hop)
            known = (outbound.topic, broker.id_of(outbound))
            if known in broker.known:
                report(outbound, Receipt(outbound.topic, "0", duplicate=True))
            else:
                broker.known.add(known)
                await self.inner.submit([outbound], answer)


def _bus(broker: DropsCopies, **settings: Any) -> Bus:
    bus = Bus(broker, source="test", **settings)

    @bus.subscribe("orders", group="billing")
    @retry(attempts=1)
    async def charge(delivery: Delivery) -> None:
        raise Reject("no")

    return bus


async def _letters(bus: Bus) -> int:
    queue = bus.dead_letters("orders", "billing")
    queue.patience = 0.1
    return len(await queue.list())


def test_a_dead_letter_that_is_sent_again_is_there_once() -> None:
    """Its outcome was unknown, and it was stored: the broker's word that it has it already is true."""

    async def main() -> None:
        broker = DropsCopies()
        broker.lose.append("orders.billing.dlq")
        bus = _bus(broker)
        async with bus:
            await bus.publish("orders", 1, type="t", id="same")
            await settled(bus)
            assert await _letters(bus) == 1
            assert bus.problems == {}
        dead = [hop for hop in broker.hops if hop.startswith("dead|")]
        assert len(dead) == 2
        assert len(set(dead)) == 1
        assert "|orders|" in dead[0]  # the lane

    asyncio.run(main())


def test_the_brokers_word_for_a_dead_letter_that_was_sent_once_is_not_believed() -> None:
    """A broker, or an adapter, that takes two events of one id for one keeps the second where it is, and says so."""

    async def main() -> None:
        broker = DropsCopies(lambda outbound: (outbound.event.source, outbound.event.id))
        bus = _bus(broker)
        async with bus:
            await bus.publish("orders", 1, type="t", id="same")
            await settled(bus)
            broker.known.remove(("orders", ("test", "same")))
            await bus.publish("orders", 2, type="t", id="same")
            await until(lambda: bool(bus.problems))
            assert "does not tell copies apart" in bus.problems["orders/billing"]
            assert await _letters(bus) == 1
            await bus.close(drain=0)

    asyncio.run(main())


def test_a_delivery_that_comes_and_fails_again_has_one_dead_letter() -> None:
    """As where its lease had run out: that the broker has the letter is true."""

    async def main() -> None:
        bus = _bus(DropsCopies())
        async with bus:
            await bus.publish("orders", 1, type="t", id="same")
            await settled(bus)
            event = Event.create(1, source="test", type="t", id="same")
            inbound = Inbound(event, Lane("orders", 1), 7, None, {}, None)
            for _ in range(2):
                delivery = Delivery(event, "orders", "billing", 1, None, inbound, LaneState(inbound.lane, None))
                await send_dead_letter(bus._core.copies, bus._core.topics, "orders.billing.dlq", delivery, Reject("no"))
            assert await _letters(bus) == 2  # that of the first, and one of this

    asyncio.run(main())


def test_a_name_that_is_taken_is_not_the_end_of_a_dead_letter(caplog: pytest.LogCaptureFixture) -> None:
    """The name is taken by anybody: the letter is sent under another name."""

    async def main() -> None:
        broker = DropsCopies()
        bus = _bus(broker)
        async with bus:
            event = Event.create(1, source="test", type="t", id="same")
            inbound = Inbound(event, Lane("orders", 1), 7, None, {}, None)
            taken = Outbound(event, "orders.billing.dlq", hop=f"dead|billing|0|1|orders|1|7|{bus._core.copies.mark}")
            broker.known.add((taken.topic, taken.deduplication_id()))
            delivery = Delivery(event, "orders", "billing", 1, None, inbound, LaneState(inbound.lane, None))
            await send_dead_letter(bus._core.copies, bus._core.topics, "orders.billing.dlq", delivery, Reject("no"))
            assert await _letters(bus) == 1

    asyncio.run(main())
    assert "under another name" in caplog.text


def test_nobody_can_know_the_hop_of_a_copy() -> None:
    async def hops() -> list[str]:
        broker = DropsCopies()
        bus = _bus(broker)
        async with bus:
            await bus.publish("orders", 1, type="t", id="same")
            await settled(bus)
        return [hop for hop in broker.hops if hop]

    assert asyncio.run(hops()) != asyncio.run(hops())


def test_a_copy_of_what_was_published_once_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        bus = _bus(DropsCopies())
        async with bus:
            for _ in range(3):
                receipt = await bus.publish("orders", 1, type="t", id="same")
            assert receipt.duplicate
            assert bus.stats.as_dict()["duplicates"] == 2
            await settled(bus)

    asyncio.run(main())
    said = [record for record in caplog.records if "dropped as a copy" in record.getMessage()]
    assert [record.levelno for record in said] == [logging.WARNING]


def test_what_a_handler_publishes_again_is_counted_and_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        bus = Bus(DropsCopies(), source="test")

        @bus.subscribe("carts", group="g")
        @retry(attempts=2, first=0.001)
        async def order(delivery: Delivery) -> None:
            await bus.publish("orders", 1, type="t")
            if delivery.attempt == 1:
                raise ValueError("again")

        async with bus:
            await bus.publish("carts", 1, type="t")
            await settled(bus)
            assert bus.stats.duplicates == 1

    asyncio.run(main())
    assert not [record for record in caplog.records if "dropped as a copy" in record.getMessage()]


def test_ids_are_keyed_and_the_key_is_not_shown() -> None:
    secret = "a secret of the whole deployment"

    async def keys() -> list[bytes]:
        broker = DropsCopies()
        for key in (secret, secret, None):
            async with _bus(broker, deduplication_key=key) as bus:
                assert secret not in repr(bus.settings)
        assert "deduplication_key" not in repr(broker.contexts[0])
        return [context.deduplication_key for context in broker.contexts]

    first, again, none = asyncio.run(keys())
    assert first == again
    assert none == b""
    for hop in ("", "dead|g"):
        for event in (Event.create(1, source="test", type="t", id="1"), Foreign(b"raw")):
            item = Outbound(event, "orders", hop=hop)
            ids = {item.deduplication_id(), item.deduplication_id(first)}
            assert [len(each) for each in ids] == [32, 32]


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="deduplication_key") as caught:
        Bus("memory://", source="test", deduplication_key="short")
    assert "'short'" not in str(caught.value)

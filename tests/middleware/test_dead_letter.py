"""What happens to an event that fails for good."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from anybroker import Bus, ConfigError, Delivery, MemoryBroker, Reject, Rejected, Unavailable
from anybroker.adapter import Outbound
from anybroker.middleware import dead_letter, retry
from anybroker.testing import FaultyBroker, Recorder, fail, settled

once = retry(attempts=1)


def to_dead_letters(outbound: Outbound) -> bool:
    return outbound.topic == "orders.billing.dlq"


def test_the_event_is_untouched_and_the_facts_stand_beside_it(bus: Bus, run: Any) -> None:
    @bus.subscribe("orders", group="billing", name="charge")
    @dead_letter()
    @once
    async def charge(delivery: Delivery) -> None:
        try:
            raise KeyError("customer\n7")
        except KeyError as exc:
            raise OSError("no such customer") from exc

    async def main() -> Any:
        async with bus:
            receipt = await bus.publish(
                "orders",
                b"\x00\xff raw",
                type="order.v1",
                key="k-1",
                subject="s",
                datacontenttype="application/octet-stream",
                extensions={"tenant": "t-9"},
                headers={"x-origin": "web"},
            )
            await settled(bus)
            return receipt.event, await bus.dead_letters("orders", "billing").list(1)

    event, (letter,) = run(main())
    assert letter.event == event
    assert letter.event.body == b"\x00\xff raw"
    assert letter.id == event.id
    assert (letter.topic, letter.group, letter.handler) == ("orders", "billing", "charge")
    assert letter.reason == "OSError: no such customer"
    assert letter.error == "builtins.OSError: no such customer <- builtins.KeyError: 'customer\\n7'"
    assert (letter.attempts, letter.replays) == (1, 0)
    assert letter.died.endswith("Z")
    assert letter.headers["x-origin"] == "web"


def test_reason_and_error_are_cut(bus: Bus, run: Any, handled: Any) -> None:
    @bus.subscribe("orders", group="billing")
    @dead_letter()
    @once
    async def charge(number: int) -> None:
        raise Reject("é" * 5_000 + "\r\n")

    (letter,) = run(handled(bus, 1))
    assert len(letter.reason.encode()) <= 1_024
    assert letter.reason.endswith("é…")
    assert len(letter.error.encode()) <= 4_096
    assert letter.error.startswith("anybroker.errors.Reject: é")


def test_it_is_confirmed_before_the_original_is_settled(run: Any) -> None:
    broker = FaultyBroker(MemoryBroker())
    bus = Bus(broker, source="shop")
    acked_then: list[int] = []

    def look(outbound: Outbound) -> bool:
        if to_dead_letters(outbound):
            acked_then.append(bus.subscriptions[0].stats.acked)
        return False

    broker.faults.append(fail("publish", when=look))

    @bus.subscribe("orders", group="billing")
    @dead_letter()
    @once
    async def charge(number: int) -> None:
        raise OSError("no")

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="order.v1")
            await settled(bus)

    run(main())
    assert acked_then == [0]
    assert bus.subscriptions[0].stats.acked == 1


def test_while_it_cannot_be_sent_the_original_stays_and_the_handler_is_not_run_again(run: Any, until: Any) -> None:
    fault = fail("publish", Unavailable("no room"), when=to_dead_letters)
    broker = FaultyBroker(MemoryBroker(), fault)
    topics = {"orders.billing.dlq": {"dead_letter": "orders.watched"}}
    bus = Bus(broker, source="shop", publish_deadline=0.05, topics=topics)
    starts: list[int] = []
    recorder = Recorder(bus, "orders.billing.dlq", group="watcher")

    @bus.subscribe("orders", group="billing")
    @dead_letter()
    @once
    async def charge(delivery: Delivery) -> None:
        starts.append(delivery.attempt)
        raise OSError("no")

    async def main() -> None:
        async with bus:
            subscription = bus.subscriptions[1]
            await bus.publish("orders", 1, type="order.v1")
            await until(lambda: subscription.stats.stuck >= 2)
            assert subscription.stats.acked == 0
            assert "Unavailable" in bus.problems["orders/billing"]
            broker.faults.clear()
            await recorder.wait(1)
            await settled(bus)
            assert bus.problems == {}
            (letter,) = await bus.dead_letters("orders", "billing").list(1)
            assert letter.attempts == 1
            assert letter.reason == "OSError: no"

    run(main())
    assert starts == [1]


def test_where_the_dead_letter_topic_refuses_it_the_key_is_held_and_the_others_go_on(run: Any, until: Any) -> None:
    refuse = fail("publish", Rejected("too old"), when=to_dead_letters)
    broker = FaultyBroker(MemoryBroker(), refuse)
    bus = Bus(broker, source="shop")
    starts: list[int] = []

    @bus.subscribe("orders", group="billing", max_in_flight=1)
    @dead_letter()
    @once
    async def charge(number: int) -> None:
        starts.append(number)
        if number < 2:
            raise OSError("no")

    async def main() -> None:
        async with bus:
            (subscription,) = bus.subscriptions
            await bus.publish("orders", 1, type="order.v1", key="k")
            await until(lambda: subscription.stats.stuck)
            for number, key in ((2, "k"), (3, "other"), (4, None)):
                await bus.publish("orders", number, type="order.v1", key=key)
            await until(lambda: 4 in starts)
            assert bus.problems == {"orders/billing": "Rejected: too old"}
            await until(lambda: refuse.hits >= 6)  # it is tried again, twice each time: the topic may be missing
            assert starts == [1, 3, 4]
            broker.faults.clear()
            await settled(bus)
            assert bus.problems == {}
            assert subscription.stats.dead_lettered == 1

    run(main())
    assert starts == [1, 3, 4, 2]


def test_a_dead_letter_topic_that_was_deleted_is_made_again(run: Any, until: Any) -> None:
    broker = MemoryBroker()
    bus = Bus(broker, source="shop")

    @bus.subscribe("orders", group="billing")
    @once
    async def charge(number: int) -> None:
        raise OSError("no")

    async def main() -> None:
        async with bus:
            del broker.topics["orders.billing.dlq"]
            for number in range(20):
                await bus.publish("orders", number, type="order.v1", key=str(number))
            await settled(bus)
            assert bus.problems == {}
            assert len(await bus.dead_letters("orders", "billing").list()) == 20
            assert bus.subscriptions[0].stats.stuck == 0

    run(main())


def test_where_this_bus_makes_no_topics_it_makes_no_dead_letter_topic_either(run: Any, until: Any) -> None:
    broker = MemoryBroker()
    maker = Bus(broker, source="shop", topics={"orders": {"groups": ["billing"]}})

    async def main() -> None:
        async with maker:
            bus = Bus(broker, source="shop", provision="verify")

            @bus.subscribe("orders", group="billing")
            @once
            async def charge(number: int) -> None:
                raise OSError("no")

            async with bus:
                del broker.topics["orders.billing.dlq"]
                await maker.publish("orders", 1, type="order.v1", key="k")
                await until(lambda: bus.subscriptions[0].stats.stuck >= 2)
                assert "does not exist" in bus.problems["orders/billing"]
                assert "orders.billing.dlq" not in broker.topics

    run(main())


@pytest.mark.parametrize("topic", ["orders.billing.dlq", "any.dlq"])
def test_a_subscription_of_a_dead_letter_topic_is_refused(bus: Bus, topic: str) -> None:
    with pytest.raises(ConfigError, match=r"bus.dead_letters\(topic, group\)"):
        bus.subscription(topic, group="watcher")


def test_the_group_that_keeps_dead_letters_takes_no_handlers() -> None:
    bus = Bus(MemoryBroker(), source="shop", topics={"orders": {"dead_letter": "failures"}})
    with pytest.raises(ConfigError, match="keeps the dead letters"):
        bus.subscription("failures", group="dlq")


@pytest.mark.parametrize(
    "topics",
    [
        {"orders": {"dead_letter": "orders"}},
        {"orders": {"dead_letter": "failures"}, "failures": {"dead_letter": "orders"}},
    ],
    ids=["itself", "in a circle"],
)
def test_dead_letters_that_would_come_back_as_events_are_refused(topics: Any) -> None:
    with pytest.raises(ConfigError, match="leads back"):
        Bus(MemoryBroker(), source="shop", topics=topics)


@pytest.mark.parametrize("dead", ["failures", "failures.dlq"])
def test_a_configured_dead_letter_topic_may_have_groups_whose_failures_have_a_place(run: Any, dead: str) -> None:
    bus = Bus(
        MemoryBroker(),
        source="shop",
        topics={"orders": {"dead_letter": dead}, dead: {"dead_letter": "lost.dead"}},
    )

    @bus.subscribe("orders", group="billing")
    @once
    async def charge(number: int) -> None:
        raise OSError("no")

    @bus.subscribe(dead, group="alerts")
    @once
    async def alert(number: int) -> None:
        raise OSError("no pager")

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 7, type="order.v1", key="k")
            await settled(bus)
            (letter,) = await bus.dead_letters("orders", "billing").list()
            (second,) = await bus.dead_letters(dead, "alerts").list()
            assert (letter.reason, second.reason) == ("OSError: no", "OSError: no pager")
            assert bus.problems == {}

    run(main())


@pytest.mark.parametrize("kind", [str, list, iter, set], ids=["text", "list", "iterator", "set"])
def test_an_id_given_as_text_is_one_id(bus: Bus, run: Any, kind: Any) -> None:
    # Made here: a second run in one process would find an iterator of the module used up.
    ids = "one" if kind is str else kind(["one"])

    @bus.subscribe("orders", group="billing")
    @once
    async def charge(number: int) -> None:
        raise OSError("no")

    async def main() -> None:
        async with bus:
            for id_ in ("o", "one", "n"):
                await bus.publish("orders", 1, type="order.v1", id=id_)
            await settled(bus)
            queue = bus.dead_letters("orders", "billing")
            assert [letter.id for letter in await queue.discard(ids, 3)] == ["one"]
            assert [letter.id for letter in await queue.replay("n", 2)] == ["n"]
            for call in (queue.replay, queue.discard):
                for wrong in (7, [b"o"], [None]):
                    with pytest.raises(ConfigError, match="is not text"):
                        await call(wrong)  # type: ignore[operator]

    run(main())


def test_a_group_given_as_text_is_one_group_and_one_payload_is_not_many(run: Any) -> None:
    broker = MemoryBroker()
    bus = Bus(broker, source="shop")

    async def main() -> None:
        async with bus:
            await bus.declare("orders", groups="billing")
            assert list(broker.topics["orders"]) == ["billing"]
            for items in ("text", b"bytes", {"a": 1}):
                with pytest.raises(ConfigError, match="publish_many"):
                    await bus.publish_many("orders", items)

    run(main())


def test_switched_off_the_event_stays_until_it_succeeds(bus: Bus, run: Any, until: Any) -> None:
    broken = True
    attempts: list[int] = []

    @bus.subscribe("orders", group="billing")
    @dead_letter(enabled=False)
    @retry(attempts=2, first=0.0)
    async def charge(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if broken:
            raise OSError("no")

    async def main() -> None:
        nonlocal broken
        async with bus:
            (subscription,) = bus.subscriptions
            await bus.publish("orders", 1, type="order.v1")
            await until(lambda: subscription.stats.stuck >= 1)
            assert bus.problems == {"orders/billing": "OSError: no"}
            broken = False
            await settled(bus)
            assert subscription.stats.dead_lettered == 0
            assert bus.problems == {}

    run(main())
    assert attempts[:3] == [1, 2, 3]


def test_shutdown_dead_letters_nothing_that_is_healthy(run: Any) -> None:
    broker = MemoryBroker()
    running = asyncio.Event()
    bus = Bus(broker, source="shop")

    @bus.subscribe("orders", group="billing", max_in_flight=1)
    @dead_letter()
    @once
    async def charge(number: int) -> None:
        running.set()
        await asyncio.Event().wait()

    async def main() -> None:
        async with bus:
            for number in range(5):
                await bus.publish("orders", number, type="order.v1")
            await running.wait()
            await bus.close(0)

    run(main())
    assert bus.subscriptions[0].stats.dead_lettered == 0
    assert len(broker.topics["orders"]["billing"].returned) + len(broker.topics["orders"]["billing"].fresh) == 5


@pytest.mark.parametrize("group", ["billing", "stock"])
def test_a_replay_reaches_only_the_group_that_failed(run: Any, group: str) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    seen: list[str] = []
    broken = True

    def handler(name: str) -> Any:
        @dead_letter()
        @once
        async def handle(number: int) -> None:
            if broken and name == group:
                raise OSError("no")
            seen.append(name)

        return handle

    for name in ("billing", "stock"):
        bus.subscribe("orders", group=name)(handler(name))

    async def main() -> None:
        nonlocal broken
        async with bus:
            await bus.publish("orders", 1, type="order.v1")
            await settled(bus)
            broken = False
            seen.clear()
            (letter,) = await bus.dead_letters("orders", group).replay(limit=1)
            await settled(bus)
            assert letter.replays == 0

    run(main())
    assert seen == [group]


def test_an_event_that_no_handler_takes_and_whose_dead_letter_fails_first(run: Any, until: Any) -> None:
    broker = FaultyBroker(MemoryBroker(), fail("publish", Unavailable("no room"), when=to_dead_letters))
    bus = Bus(broker, source="shop", publish_deadline=0.05)
    subscription = bus.subscription("orders", group="billing", unhandled="dead_letter")

    @subscription.on(type="other.v1")
    async def charge(number: int) -> None: ...

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="order.v1")
            await until(lambda: subscription.stats.stuck)
            assert bus.problems
            broker.faults.clear()
            await settled(bus)
            assert bus.problems == {}
            (letter,) = await bus.dead_letters("orders", "billing").list(1)
            assert letter.attempts == 0
            assert letter.reason == "UnhandledError: no handler of the subscription takes events of type 'order.v1'"

    run(main())

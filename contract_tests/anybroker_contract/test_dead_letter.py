"""dead letter: what cannot be handled is kept, untouched, with the facts beside it, and can go back to its group."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from pydantic import BaseModel

from anybroker import Bus, DeadLetter, Delivery, Event, Reject, event_type
from anybroker.adapter import Foreign, Receipt
from anybroker.errors import EventTooLarge, PublishOutcomeUnknown, Rejected
from anybroker.middleware import retry
from anybroker.testing import Fault, delay, fail

from ._checkers import duplicates, lost
from ._kit import TYPE, FailsUntilFixed, Kit, counted
from ._waiting import eventually
from .marks import needs_harness, requires


@event_type("com.example.contract.order.v1")
class Order(BaseModel):
    """A payload that validates."""

    order_id: str
    cents: int


async def broken(_: Delivery) -> None:
    """A handler that fails every time."""
    raise ValueError("broken on purpose")


async def letters(
    kit: Kit, bus: Bus, topic: str, count: int, group: str = "g", *, limit: int = 100
) -> Sequence[DeadLetter]:
    """The dead letters of the group, the first ``limit`` of them, as soon as there are that many."""
    queue = bus.dead_letters(topic, group)
    queue.patience = kit.brief
    loop = asyncio.get_running_loop()
    end = loop.time() + kit.patience
    while len(found := await queue.list(limit)) < count:
        assert loop.time() < end, f"{len(found)} of {count} dead letters within {kit.patience:g} s"
    return found


async def test_attempts_are_exact_and_the_dead_letter_says_why(kit: Kit) -> None:
    """An event that fails ``attempts`` times is started exactly that often, then dead-lettered with reason, error,
    attempts, origin and time, and settled."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic, behave=broken, middleware=[retry(attempts=3, first=0.01)])
    event = counted(7, key="k7")
    async with bus:
        await bus.publish(topic, event, headers={"x-origin": "contract"})
        (letter,) = await letters(kit, bus, topic, 1)
        await kit.drained(bus, topic)
        assert bus.problems == {}
    assert log.attempts("w-7") == [1, 2, 3]
    assert letter.event == event
    assert (letter.topic, letter.group, letter.handler, letter.attempts, letter.replays) == (
        topic,
        "g",
        "contract",
        3,
        0,
    )
    assert letter.reason == "ValueError: broken on purpose"
    assert "ValueError: broken on purpose" in letter.error
    assert letter.died.endswith("Z")
    assert letter.headers["x-origin"] == "contract"


async def test_what_dies_leaves_its_key_and_the_others_free(kit: Kit) -> None:
    """After a dead letter the next events of its key are handled, in order; events of other keys did not wait for
    it."""
    topic = kit.topic()
    bus = kit.bus()

    async def one_is_poison(delivery: Delivery) -> None:
        if delivery.event.id == "w-2":
            raise Reject("poison")

    log = kit.subscribe(bus, topic, behave=one_is_poison)
    async with bus:
        published = await kit.publish(bus, topic, 40, keys=4)
        await log.wait_done(id_ for _, id_ in published if id_ != "w-2")
        (letter,) = await letters(kit, bus, topic, 1)
    assert letter.id == "w-2"
    assert lost([id_ for _, id_ in published], log.handlings) == ["w-2"]
    assert not duplicates(log.handlings)


async def test_a_rejected_event_dies_at_its_first_start(kit: Kit) -> None:
    """``Reject`` and an exception of ``give_up_on`` are not retried, and the dead letter has the reason."""
    topic = kit.topic()
    bus = kit.bus()

    async def refuse(delivery: Delivery) -> None:
        if delivery.event.id == "w-0":
            raise Reject("not for us: ä")
        raise KeyError("gone")

    log = kit.subscribe(bus, topic, behave=refuse, middleware=[retry(attempts=5, first=0.01, give_up_on=KeyError)])
    async with bus:
        await kit.publish(bus, topic, 2)
        found = {letter.id: letter for letter in await letters(kit, bus, topic, 2)}
    assert log.attempts("w-0") == log.attempts("w-1") == [1]
    assert found["w-0"].reason == "not for us: ä"
    assert found["w-1"].reason.startswith("KeyError")


async def test_what_cannot_be_decoded_dies_without_a_retry(kit: Kit) -> None:
    """A body that is not JSON, and one that does not validate, are dead-lettered at once, bytes unchanged."""
    topic = kit.topic()
    bus = kit.bus()
    orders: list[Order] = []

    async def charge(order: Order) -> None:
        orders.append(order)

    bus.subscribe(topic, group="g", middleware=[retry(attempts=5, first=0.01)])(charge)
    kind = "com.example.contract.order.v1"
    bodies = {"no-json": b"{oops", "no-model": b'{"order_id": "o-1", "cents": "many"}'}
    async with bus:
        for name, body in bodies.items():
            await bus.publish(topic, body, type=kind, id=name, datacontenttype="application/json")
        await bus.publish(topic, Order(order_id="o-2", cents=5), id="good")
        found = {letter.id: letter for letter in await letters(kit, bus, topic, 2)}
    assert orders == [Order(order_id="o-2", cents=5)]
    assert {name: letter.event.body for name, letter in found.items()} == bodies
    assert all(letter.reason.startswith("undecodable") for letter in found.values())
    assert all(letter.attempts == 1 for letter in found.values())


@pytest.mark.parametrize("body", [b"", None, b"\xff\xfe\x00"], ids=["empty", "absent", "binary"])
async def test_a_dead_letter_is_the_event_untouched(kit: Kit, body: bytes | None) -> None:
    """Body bytes, key, id, time and every extension of a dead letter are those of the event."""
    topic = kit.topic()
    bus = kit.bus()
    kit.subscribe(bus, topic, behave=broken, middleware=[retry(attempts=1)])
    event = Event.create(
        source="/contract/%C3%A4?x=1",
        type=TYPE,
        id="id with spaces/ä",
        time="2024-02-29T23:59:59.123456789Z",
        subject="a subject",
        key="Kunde 7",
        extensions={
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "number": 7,
            "blob": b"\x00",
        },
    )
    if body is not None:
        event = event.replace(data=body, datacontenttype="application/octet-stream")
    async with bus:
        await bus.publish(topic, event)
        (letter,) = await letters(kit, bus, topic, 1)
    assert letter.event == event
    assert isinstance(letter.event, Event)
    assert letter.event.body == body
    assert letter.event.time_raw == event.time_raw


async def test_reason_and_error_are_cut(kit: Kit) -> None:
    """A reason over 1 KiB and an error over 4 KiB are cut to that size, at the end."""
    topic = kit.topic()
    bus = kit.bus()

    async def talk(_: Delivery) -> None:
        raise ValueError("ä" * 10_000 + "\nnext line")

    kit.subscribe(bus, topic, behave=talk, middleware=[retry(attempts=1)])
    async with bus:
        await bus.publish(topic, counted(0))
        (letter,) = await letters(kit, bus, topic, 1)
    assert 1000 < len(letter.reason.encode()) <= 1024
    assert 4000 < len(letter.error.encode()) <= 4096
    assert letter.reason.startswith("ValueError: ää")


async def test_the_dead_letter_queue_is_there_before_anything_died(kit: Kit) -> None:
    """Listing the dead letters of a group that has none returns an empty list, not an error."""
    topic = kit.topic()
    bus = kit.bus()
    kit.subscribe(bus, topic)
    async with bus:
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        assert await queue.list() == []


async def test_a_replay_reaches_only_the_group_that_failed(kit: Kit) -> None:
    """A replayed dead letter is handled again by the group that failed, with a first attempt, and by no other."""
    topic = kit.topic()
    bus = kit.bus()
    handler = FailsUntilFixed()
    log = kit.subscribe(bus, topic, "failing", behave=handler, middleware=[retry(attempts=2, first=0.01)])
    other = kit.subscribe(bus, topic, "other")
    event = counted(0, key="k")
    async with bus:
        await bus.publish(topic, event, headers={"x-origin": "contract"})
        await letters(kit, bus, topic, 1, "failing")
        handler.fixed = True
        queue = bus.dead_letters(topic, "failing")
        queue.patience = kit.brief
        assert [letter.id for letter in await queue.replay()] == ["w-0"]
        await log.wait_done(["w-0"])
        await other.quiet()
        assert await queue.list() == []
        await kit.drained(bus, topic, "failing")
    assert log.attempts("w-0") == [1, 2, 1]
    assert log.handlings[-1].event == event
    assert log.handlings[-1].headers["x-origin"] == "contract"
    assert other.started == ["w-0"]


async def test_dead_letter_replay_fail_and_replay_again(kit: Kit) -> None:
    """An event that fails, is replayed, fails and is replayed again within seconds is never dropped as a copy."""
    topic = kit.topic()
    bus = kit.bus()
    rounds = 0

    async def fail_twice(_: Delivery) -> None:
        if rounds < 2:
            raise ValueError(f"round {rounds}")

    log = kit.subscribe(bus, topic, behave=fail_twice, middleware=[retry(attempts=1)])
    async with bus:
        await bus.publish(topic, counted(0, key="k"))
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        for rounds in range(2):
            (letter,) = await letters(kit, bus, topic, 1)
            assert letter.replays == rounds
            if rounds == 1:
                break
            assert len(await queue.replay()) == 1
            await log.wait_started(2)
        rounds = 2
        assert len(await queue.replay()) == 1
        await log.wait_done(["w-0"])
        assert await queue.list() == []
    assert len(log.handlings) == 3


async def test_groups_that_share_a_dead_letter_topic_see_their_own(kit: Kit) -> None:
    """If two groups' dead letters are in one topic, each lists, replays and discards only its own."""
    topic = kit.topic()
    bus = kit.bus(topics={topic: {"dead_letter": f"{topic}.dead.dlq"}})
    handler = FailsUntilFixed()
    logs = {
        group: kit.subscribe(bus, topic, group, behave=handler, middleware=[retry(attempts=1)])
        for group in ("one", "two")
    }
    async with bus:
        await bus.publish(topic, counted(0, key="k"))
        for group in logs:
            (letter,) = await letters(kit, bus, topic, 1, group)
            assert (letter.id, letter.group) == ("w-0", group)
        handler.fixed = True
        assert [letter.id for letter in await bus.dead_letters(topic, "one").replay()] == ["w-0"]
        await logs["one"].wait_done(["w-0"])
        assert [letter.id for letter in await letters(kit, bus, topic, 1, "two")] == ["w-0"]
        assert logs["two"].done == []


async def test_one_dead_letter_is_replayed_or_discarded_by_its_id(kit: Kit) -> None:
    """``replay(ids)`` and ``discard(ids)`` affect only those letters; the others stay, however often they are
    listed."""
    topic = kit.topic()
    bus = kit.bus()
    handler = FailsUntilFixed()
    log = kit.subscribe(bus, topic, behave=handler, middleware=[retry(attempts=1)])
    async with bus:
        await kit.publish(bus, topic, 3, keys=3)
        await letters(kit, bus, topic, 3)
        handler.fixed = True
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        assert [letter.id for letter in await queue.replay(["w-1"])] == ["w-1"]
        assert [letter.id for letter in await queue.discard(["w-0"])] == ["w-0"]
        await log.wait_done(["w-1"])
        assert [letter.id for letter in await queue.list()] == ["w-2"]
        assert [letter.id for letter in await queue.list()] == ["w-2"]
    assert log.done == ["w-1"]


async def test_all_dead_letters_of_one_key_are_listed_and_replayed_in_order(kit: Kit) -> None:
    """However many events of one key were dead-lettered, one listing shows them all, and one replay sends them all back
    in order."""
    topic = kit.topic()
    bus = kit.bus()
    handler = FailsUntilFixed()
    log = kit.subscribe(bus, topic, behave=handler, middleware=[retry(attempts=1)])
    async with bus:
        ids = [id_ for _, id_ in await kit.publish(bus, topic, 25, keys=1)]
        assert [letter.id for letter in await letters(kit, bus, topic, 25)] == ids
        handler.fixed = True
        assert [letter.id for letter in await bus.dead_letters(topic, "g").replay()] == ids
        await log.wait_done(ids)
    assert log.done == ids


async def test_a_dead_letter_that_cannot_be_sent_leaves_the_event_unsettled(kit: Kit) -> None:
    """While the dead-letter topic is unavailable, the event stays, its handler does not run again, and the subscription
    reports a problem; afterwards the dead letter is there, once."""
    topic = kit.topic()
    faulty = kit.faulty(fail("publish", when=lambda outbound: outbound.topic.endswith(".dlq")))
    bus = kit.bus(target=faulty, publish_deadline=3.0)
    log = kit.subscribe(bus, topic, behave=broken, middleware=[retry(attempts=2, first=0.01)])
    async with bus:
        await bus.publish(topic, counted(0, key="k"))
        await log.until(lambda: len(log.handlings) >= 2, "two starts")
        await kit.unwell(bus)
        assert list(bus.problems) == [f"{topic}/g"]
        faulty.faults.clear()
        (letter,) = await letters(kit, bus, topic, 1)
        await kit.drained(bus, topic)
        await kit.well(bus)
    assert (letter.id, letter.attempts) == ("w-0", 2)
    assert log.attempts("w-0") == [1, 2]


async def test_an_event_whose_dead_letter_is_refused_is_not_lost(kit: Kit) -> None:
    """If the broker rejects the dead letter, the next member gets the event."""
    topic = kit.topic()
    log = kit.log()
    refuse = fail("publish", Rejected("no such topic"), when=lambda outbound: outbound.topic.endswith(".dlq"))
    bus = kit.bus(target=kit.faulty(refuse))
    kit.subscribe(bus, topic, log=log, behave=broken, middleware=[retry(attempts=1)])
    async with bus:
        await bus.publish(topic, counted(0, key="k"))
        await log.until(lambda: refuse.hits, "a refused dead letter")
    again = kit.bus()
    kit.subscribe(again, topic, log=log)
    async with again:
        await log.wait_done(["w-0"])


def sized(size: int) -> Event[Any]:
    """An event with this many bytes of data."""
    return Event.create(b"x" * size, source="contract", type=TYPE, id="w-0", datacontenttype="text/plain")


@pytest.mark.parametrize("letter_of_it", ["x", "ж"], ids=["ascii", "cyrillic"])
@requires("max_event_bytes")
async def test_an_event_of_the_maximum_size_can_be_dead_lettered(kit: Kit, letter_of_it: str) -> None:
    """The largest event that publish accepts still fits with reason, error and origin, in any script."""
    topic = kit.topic()
    bus = kit.bus()
    limit = kit.capabilities.max_event_bytes
    assert limit is not None

    async def talk(_: Delivery) -> None:
        raise ValueError(letter_of_it * 10_000)

    kit.subscribe(bus, topic, behave=talk, middleware=[retry(attempts=1)])
    async with bus:
        size = limit
        event = sized(size)
        stored = False
        while not stored:
            try:
                stored = bool(await bus.publish(topic, event))
            except EventTooLarge as exc:
                size -= exc.size - exc.limit
                event = sized(size)
        (letter,) = await letters(kit, bus, topic, 1)
    assert letter.event == event
    assert size > limit - 12 * 1024


async def test_a_foreign_message_is_kept_raw_and_the_consumer_lives_on(kit: Kit) -> None:
    """A message that is not a CloudEvent is dead-lettered, body byte for byte, and those around it are handled."""
    topic = kit.topic()
    body = b"\x00\xff{not an event"
    await kit.send_foreign(topic, ["g"], Foreign(body, [("x-legacy", b"yes")]))
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        published = await kit.publish(bus, topic, 10, keys=4)
        await log.wait_done(id_ for _, id_ in published)
        (letter,) = await letters(kit, bus, topic, 1)
        assert bus.subscriptions[0].stats.foreign == 1
        await kit.drained(bus, topic)
    message: Any = letter.event
    assert isinstance(message, Foreign)
    assert message.body == body
    assert "not a CloudEvent" in letter.reason


async def test_foreign_messages_are_wrapped_where_the_topic_says_so(kit: Kit) -> None:
    """With ``foreign = "wrap"`` a message that is not a CloudEvent reaches the handler as an event around its bytes."""
    topic = kit.topic()
    body = b"plain old bytes"
    await kit.send_foreign(topic, ["g"], Foreign(body))
    bus = kit.bus(topics={topic: {"foreign": "wrap"}})
    log = kit.subscribe(bus, topic)
    async with bus:
        await log.wait_started(1)
        await kit.drained(bus, topic)
    (handling,) = log.handlings
    assert (handling.event.body, handling.event.type) == (body, "io.anybroker.foreign.v1")


async def test_events_that_no_handler_takes_are_dead_lettered_where_asked_for(kit: Kit) -> None:
    """With ``unhandled="dead_letter"`` an event of a type that no handler takes is kept, its starts counted as 0."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.log()
    subscription = bus.subscription(topic, group="g", unhandled="dead_letter")
    subscription.on(log.handler("", None), type="com.example.wanted.v1", name="wanted")
    async with bus:
        await bus.publish(topic, counted(0))
        (letter,) = await letters(kit, bus, topic, 1)
    assert (letter.id, letter.attempts, log.started) == ("w-0", 0, [])


async def test_a_dead_letter_refused_once_holds_nothing_up(kit: Kit) -> None:
    """A dead letter that is refused once is sent again, and all other events are handled."""
    topic = kit.topic()
    refuse = fail("publish", Rejected("refused once"), nth=1, when=lambda outbound: outbound.topic.endswith(".dlq"))
    bus = kit.bus(target=kit.faulty(refuse))

    async def one_is_poison(delivery: Delivery) -> None:
        if delivery.event.id == "w-0":
            raise Reject("poison")

    log = kit.subscribe(bus, topic, behave=one_is_poison)
    async with bus:
        await kit.publish(bus, topic, 10, keys=10)
        await log.until(lambda: refuse.hits, "a refused dead letter")
        await kit.publish(bus, topic, 5, keys=5, first=10)
        await log.wait_done(f"w-{number}" for number in range(1, 15))
        (letter,) = await letters(kit, bus, topic, 1)
        await kit.drained(bus, topic)
        assert bus.problems == {}
    assert (letter.id, log.attempts("w-0")) == ("w-0", [1])
    assert not duplicates(log.handlings)


async def test_while_dead_letters_are_refused_the_other_keys_go_on(kit: Kit) -> None:
    """A dead-letter topic that refuses everything blocks the keys of the failed events and no others; ``problems`` says
    why. When it accepts dead letters again, they are sent, and their keys continue in order."""
    topic = kit.topic()
    refuse = fail("publish", Rejected("this topic is full"), when=lambda outbound: outbound.topic.endswith(".dlq"))
    faulty = kit.faulty(refuse)
    bus = kit.bus(target=faulty)

    async def one_is_poison(delivery: Delivery) -> None:
        if delivery.event.id == "w-0":
            raise Reject("poison")

    log = kit.subscribe(bus, topic, behave=one_is_poison)
    async with bus:
        await kit.publish(bus, topic, 1, keys=1)
        await _more_hits(kit, refuse, 0)
        await kit.publish(bus, topic, 39, keys=4, first=1)  # those that four divides are behind it
        await log.wait_done(f"w-{number}" for number in range(1, 40) if number % 4)
        await _more_hits(kit, refuse, refuse.hits)
        assert "this topic is full" in bus.problems[f"{topic}/g"]
        assert [id_ for id_ in log.started if int(id_[2:]) % 4 == 0] == ["w-0"]
        faulty.faults.clear()
        await log.wait_done(f"w-{number}" for number in range(1, 40))
        (letter,) = await letters(kit, bus, topic, 1)
        await kit.drained(bus, topic)
        assert bus.problems == {}
    assert letter.id == "w-0"
    assert [id_ for id_ in log.started if int(id_[2:]) % 4 == 0] == [f"w-{number}" for number in range(0, 40, 4)]


async def _more_hits(kit: Kit, fault: Fault, than: int) -> None:
    """Return when the fault has hit more often; no handler starts or ends meanwhile."""

    async def more() -> bool:
        return fault.hits > than

    await eventually(more, kit.patience, f"the fault has hit {fault.hits} times")


@needs_harness("raw")
async def test_a_deleted_dead_letter_topic_is_made_again(kit: Kit) -> None:
    """A dead-letter topic that is deleted under load is created again, and has every event that fails afterwards. No
    event is lost, and none is handled twice unless its publish had an unknown outcome (a broker may cut the connection
    while it deletes) and was repeated."""
    topic = kit.topic()
    dead = f"{topic}.g.dlq"
    bus = kit.bus()

    async def odd_ones_die(delivery: Delivery) -> None:
        if int(delivery.event.id[2:]) % 2:
            raise Reject("odd")

    log = kit.subscribe(bus, topic, behave=odd_ones_die)
    async with kit.harness.raw() as client, bus:
        await kit.publish(bus, topic, 40, keys=8)
        await letters(kit, bus, topic, 20)
        deleting = asyncio.create_task(client.delete(dead, "dlq"))
        count = 40
        unknown: set[str] = set()
        while not deleting.done():
            events = [counted(number, key=f"k{number % 8}") for number in range(count, count + 8)]
            while events:
                results = await bus.publish_many(topic, events)
                events = [
                    event for event, result in zip(events, results, strict=True) if not isinstance(result, Receipt)
                ]
                assert all(isinstance(result, Receipt | PublishOutcomeUnknown) for result in results)
                unknown.update(event.id for event in events)
            count += 8
        await deleting
        await kit.publish(bus, topic, 80, keys=8, first=count)
        every = [f"w-{number}" for number in range(count + 80)]
        await log.wait_done(every[0::2])
        await log.until(lambda: len(log.handlings) >= len(every), "every event started")
        await kit.drained(bus, topic)
        found = {letter.id for letter in await letters(kit, bus, topic, 40, limit=len(every))}
        assert bus.problems == {}
    assert found >= set(every[count + 1 :: 2])
    assert duplicates(log.handlings).keys() <= unknown


@needs_harness("raw")
async def test_a_message_at_the_brokers_limit_is_dead_lettered(kit: Kit) -> None:
    """Messages of other programs at or near the broker's size limit are dead-lettered byte for byte, with the reason if
    it fits; events among them are handled."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    room = (0, 1, 60, 400, 1_500, 7_000)
    async with kit.harness.raw() as client, bus:
        noise = Random(7).randbytes(client.largest)  # what can be compressed may fit where it should not
        if not client.carries(client.build(noise)):
            noise = b64encode(noise)
        bodies = [b"%05d" % free + noise[free + 5 : client.largest] for free in room]
        for number, body in enumerate(bodies):
            await client.send(topic, "g", client.build(body))
            await bus.publish(topic, counted(number))
        await log.wait_done(f"w-{number}" for number in range(len(room)))
        await log.until(lambda: bus.subscriptions[0].stats.dead_lettered == len(room), "every one dead-lettered")
        found = {letter.event.body: letter for letter in await letters(kit, bus, topic, len(room))}
        assert bus.problems == {}
        await kit.drained(bus, topic)
    assert found.keys() == set(bodies)
    reasons = {free: found[body].reason for free, body in zip(room, bodies, strict=True)}
    assert all(reasons[free].startswith("not a CloudEvent") for free in room if free >= 400), reasons
    assert found[bodies[-1]].error
    whole = found[bodies[-1]].error
    assert bus.subscriptions[0].stats.dead_letters_cut == sum(letter.error != whole for letter in found.values())


async def test_a_replay_keeps_its_leases_and_settles_one_by_one(kit: Kit) -> None:
    """A replay that takes longer than the lease replays each dead letter once, leaves none behind, and gives no other
    member what it holds; a discard leaves the others."""
    topic = kit.topic()
    faulty = kit.faulty()
    bus, other = kit.bus(target=faulty, lease=kit.lease), kit.bus(consume=False, lease=kit.lease)
    handler = FailsUntilFixed()
    log = kit.subscribe(bus, topic, behave=handler, middleware=[retry(attempts=1)])
    count = kit.pick(30, 100)
    async with bus, other:
        ids = [id_ for _, id_ in await kit.publish(bus, topic, count, keys=5)]
        assert {letter.id for letter in await letters(kit, bus, topic, count)} == set(ids)
        handler.fixed = True
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.lease + 0.5
        assert sorted(letter.id for letter in await queue.discard(ids[:5], count)) == sorted(ids[:5])
        begun = asyncio.Event()

        def begins(outbound: Any) -> bool:
            replayed = str(outbound.hop).startswith("replay|")
            if replayed:
                begun.set()
            return replayed

        faulty.faults.append(delay("publish", 3 * kit.lease / count, when=begins))
        seen: list[int] = []
        replaying = asyncio.create_task(queue.replay(limit=count, progress=seen.append))
        watching = []
        if kit.capabilities.lease_extension and kit.capabilities.processes:
            await begun.wait()
            rival = other.dead_letters(topic, "g")
            rival.patience = 2 * kit.lease
            watching.append(asyncio.create_task(rival.discard(ids[5:], count)))
        back = await replaying
        assert sorted(letter.id for letter in back) == sorted(ids[5:])
        assert sum(seen) == count - 5
        assert [await task for task in watching] == [[]] * len(watching)
        await log.wait_done(ids[5:])
        assert await queue.list() == []
        await kit.drained(bus, topic)
    assert sorted(log.done) == sorted(ids[5:])

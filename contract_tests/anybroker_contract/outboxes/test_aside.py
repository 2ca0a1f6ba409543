"""What is rejected for good is set aside with its reason; later events of its key go on or wait, as is set."""

from __future__ import annotations

import time

import pytest

from anybroker.adapter import Outbound
from anybroker.errors import BrokerError, Rejected

from .._waiting import eventually
from ._kit import TOPIC, OutboxKit
from .harness import Outbox

REASON = "the broker does not want it: \u20ac"


def rejecting(kit: OutboxKit, *ids: str) -> None:
    """The broker rejects these events for good."""

    def refuse(outbound: Outbound) -> BrokerError | None:
        return Rejected(REASON) if outbound.event.id in ids else None  # type: ignore[union-attr] # it is an Event

    kit.wire.refuse = refuse


async def aside_of(kit: OutboxKit, outbox: Outbox) -> list[tuple[str | None, str]]:
    """Key and id of what is set aside."""
    return [(parked.key, parked.id) for parked in await outbox.parked()]


async def test_it_is_set_aside_with_its_reason(kit: OutboxKit) -> None:
    """An event that the broker rejects is kept apart with all that is needed to decide, and counted; others of its key
    and of other keys go on."""
    app = await kit.app()
    rejecting(kit, "k-1")
    relay = kit.relay()
    await kit.relaying(relay)
    begun = time.time()
    receipts = await kit.commit(app, "k", 3)
    await kit.commit(app, "other", 2)
    await kit.wire.until(4)
    assert [sent.place for sent in kit.wire.sent if sent.event.key == "k"] == [("k", 0), ("k", 2)]
    outbox = await kit.open()
    (parked,) = await kit.aside(outbox, 1)
    assert (parked.topic, parked.key, parked.id, parked.type) == (TOPIC, "k", "k-1", "order")
    assert str(parked.position) == receipts[1].broker_id
    assert REASON.rpartition(" ")[0] in parked.reason
    assert "Rejected" in parked.reason
    assert begun - 5 <= parked.since <= time.time() + 5
    assert '"k-1"' in parked.payload
    await kit.emptied(outbox)
    waiting = await outbox.waiting()
    assert (waiting.rows, waiting.age, waiting.parked) == (0, None, 1)
    assert relay.set_aside == 1
    assert relay.relayed == 4
    assert list(await outbox.parked_keys()) == [(TOPIC, "k")]


async def test_hold_keeps_the_key_until_it_is_retried(kit: OutboxKit) -> None:
    """``rejected="hold"``: later events of the key wait, those that are written later too, other keys do not; after
    ``retry`` all are sent in order."""
    app = await kit.app()
    rejecting(kit, "k-1")
    await kit.relaying(kit.relay(rejected="hold", lease=1.5))
    await kit.commit(app, "k", 4)
    await kit.commit(app, "other", 2)
    await kit.wire.until(3)
    outbox = await kit.open()
    await kit.aside(outbox, 1)
    await kit.commit(app, "k", 2)
    await kit.wire.quiet(1.0)
    assert [sent.place for sent in kit.wire.sent if sent.event.key == "k"] == [("k", 0)]
    assert (await outbox.waiting()).rows == 4
    rejecting(kit)
    assert await outbox.retry() == 1
    await kit.wire.until(8)
    kit.in_order()
    await kit.emptied(outbox)
    assert await outbox.parked() == []


async def test_hold_goes_on_when_it_is_discarded(kit: OutboxKit) -> None:
    """``rejected="hold"``: after ``discard`` the later events of the key are sent, and the rejected one is not."""
    app = await kit.app()
    rejecting(kit, "k-0")
    await kit.relaying(kit.relay(rejected="hold", lease=1.5))
    await kit.commit(app, "k", 3)
    outbox = await kit.open()
    (parked,) = await kit.aside(outbox, 1)
    assert await kit.wire.quiet(0.5) == []
    assert await outbox.discard([parked.position]) == 1
    await kit.wire.until(2)
    assert kit.wire.ids == ["k-1", "k-2"]
    await kit.emptied(outbox)


async def test_hold_is_kept_across_a_restart(kit: OutboxKit) -> None:
    """A relay that starts later, or takes over, holds the same keys."""
    app = await kit.app()
    rejecting(kit, "k-0")
    first = await kit.relaying(kit.relay(rejected="hold"))
    await kit.commit(app, "k", 2)
    outbox = await kit.open()
    await kit.aside(outbox, 1)
    await first.close()
    rejecting(kit)
    await kit.relaying(kit.relay(rejected="hold", lease=1.5))
    await kit.commit(app, "k", 1)
    await kit.commit(app, "other", 1)
    await kit.wire.until(1)
    assert [sent.place for sent in await kit.wire.quiet(0.8)] == [("other", 0)]
    assert await outbox.retry() == 1
    await kit.wire.until(4)
    kit.in_order()


async def test_two_of_one_key_are_held(kit: OutboxKit) -> None:
    """Two rejected events of a key: it waits until both are decided."""
    app = await kit.app()
    rejecting(kit, "k-0", "k-1")
    await kit.relaying(kit.relay(rejected="hold", lease=0.9))
    await kit.commit(app, "k", 3)
    outbox = await kit.open()
    (first,) = await kit.aside(outbox, 1)
    assert await outbox.discard([first.position]) == 1

    async def second() -> bool:
        return await aside_of(kit, outbox) == [("k", "k-1")]

    await eventually(second, kit.patience, "the second one is not set aside")
    assert await kit.wire.quiet(0.5) == []
    rejecting(kit)
    await outbox.retry()
    await kit.wire.until(2)
    assert kit.wire.ids == ["k-1", "k-2"]


async def test_pass_retries_too(kit: OutboxKit) -> None:
    """What was set aside is sent after ``retry`` where its key has gone on; what is rejected again is set aside
    again."""
    app = await kit.app()
    rejecting(kit, "k-0", "k-1")
    await kit.relaying()
    await kit.commit(app, "k", 3)
    outbox = await kit.open()
    first, second = await kit.aside(outbox, 2)
    rejecting(kit, "k-1")
    assert await outbox.retry([first.position]) == 1
    await kit.wire.until(2)
    assert kit.wire.ids == ["k-2", "k-0"]
    assert await aside_of(kit, outbox) == [("k", "k-1")]
    assert await outbox.retry([second.position]) == 1

    async def again() -> bool:
        return await aside_of(kit, outbox) == [("k", "k-1")] and (await outbox.waiting()).rows == 0

    await eventually(again, kit.patience, "it is not set aside again")
    assert len(await kit.wire.quiet(0.3)) == 2


async def test_events_without_a_key_hold_nothing(kit: OutboxKit) -> None:
    """``rejected="hold"``, and an event without a key is rejected: nothing waits for it."""
    app = await kit.app()
    rejecting(kit, "1")
    await kit.relaying(kit.relay(rejected="hold"))
    writer = await kit.writer()
    for number in range(3):
        await app.publish(TOPIC, {}, type="t", id=str(number), within=writer.within)
    await writer.commit()
    await kit.wire.until(2)
    assert sorted(kit.wire.ids) == ["0", "2"]
    outbox = await kit.open()
    await kit.aside(outbox, 1)
    assert list(await outbox.parked_keys()) == []


@pytest.mark.parametrize(
    ("payload", "headers"),
    [
        ("not JSON", None),
        ("", None),
        ("[]", None),
        ("null", None),
        ('"text"', None),
        ("{}", None),
        ('{"specversion":"1.0","id":"1","source":"x"}', None),
        ('{"specversion":"0.3","id":"1","source":"x","type":"t"}', None),
        ('{"specversion":"1.0","id":"1","source":"x","type":"t","data_base64":"!"}', None),
        ("[" * 5_000, None),
        ('{"specversion":"1.0","id":"1","source":"x","type":"t"}', "not JSON"),
        ('{"specversion":"1.0","id":"1","source":"x","type":"t"}', "[]"),
        ('{"specversion":"1.0","id":"1","source":"x","type":"t"}', '{"a":1}'),
        ('{"specversion":"1.0","id":"1","source":"x","type":"t"}', '{"content-type":"text/html"}'),
        ('{"specversion":"1.0","id":"1","source":"x","type":"t"}', '{"a":"b\\r\\nc: d"}'),
        ('{"specversion":"1.0","id":"1","source":"x","type":"t"}', "{" * 5_000),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_rows_of_others_are_set_aside(kit: OutboxKit, payload: str, headers: str | None) -> None:
    """A row that another program has written, which holds no event or headers that none may have: it is set aside,
    with a reason, and the rows around it are relayed."""
    app = await kit.app()
    relay = kit.relay()
    bus = await kit.relaying(relay)
    await kit.commit(app, "k", 1)
    await kit.insert(payload, key="k", headers=headers)
    await kit.commit(app, "k", 1)
    await kit.wire.until(2)
    outbox = await kit.open()
    (parked,) = await kit.aside(outbox, 1)
    assert (parked.payload, parked.id, parked.type, parked.key) == (payload, "foreign", "foreign", "k")
    assert len(parked.reason) > 10
    assert kit.wire.ids == ["k-0", "k-1"]
    await kit.emptied(outbox)
    assert not bus.problems


async def test_a_topic_that_is_none_is_set_aside(kit: OutboxKit) -> None:
    """A row of another program for a topic that no broker can have."""
    import asyncio

    app = await kit.app()
    await kit.relaying()
    payload = '{"specversion":"1.0","id":"1","source":"x","type":"t"}'
    await asyncio.to_thread(kit.harness.insert, kit.place, "no topic\n!", None, payload, None)
    await kit.commit(app, "k", 1)
    await kit.wire.until(1)
    outbox = await kit.open()
    (parked,) = await kit.aside(outbox, 1)
    assert parked.topic == "no topic\n!"
    await kit.emptied(outbox)
    assert kit.wire.ids == ["k-0"]


async def test_the_key_of_the_row_is_that_of_the_event(kit: OutboxKit) -> None:
    """A foreign row that is an event is relayed."""
    await kit.relaying()
    payload = '{"specversion":"1.0","id":"1","source":"x","type":"t","partitionkey":"k","key":"k","data":{"n":0}}'
    await kit.insert(payload, key="k")
    (sent,) = await kit.wire.until(1)
    assert (sent.event.id, sent.event.source, sent.event.key) == ("1", "x", "k")

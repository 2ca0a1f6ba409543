"""Taking lanes over: whose a lane is, and from when on its order is certain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from anybroker.adapter import Ack
from anybroker.errors import Unavailable

Run = Callable[[Any], Any]


def test_a_new_member_waits_for_everything_that_another_one_has(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case()
        this.unacknowledged = 2  # 3 and 4, with a member that died
        this.waiting = 1
        assert await this.receive(timeout=0.01) == []
        assert [pull["batch"] for pull in this.pulls()] == [10]
        this.deliver(5, 6)
        assert await this.receive(timeout=0.05) == []
        assert this.listener.held == []
        assert [pull["batch"] for pull in this.pulls()] == [], "the first pull still has room"
        this.deliver(4, 3, deliveries=2, pending=False)
        batch = await this.receive(timeout=2)
        assert this.ids(batch) == ["3", "4", "5", "6"], "in the stream's order"
        assert [inbound.deliveries for inbound in batch] == [2, 2, 1, 1]
        assert [lane.name for lane in this.listener.held] == ["orders/0"]
        this.deliver(7)
        assert this.ids(await this.receive()) == ["7"]

    run(check())


def test_while_another_member_finishes_hardly_anything_is_pulled(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case()
        this.waiting = 1
        this.unacknowledged = 50
        await this.receive(timeout=0.01)
        this.deliver(*range(101, 111))
        this.pulls()
        assert await this.receive(timeout=0.5) == []
        assert [pull["batch"] for pull in this.pulls()] == [1]
        this.unacknowledged -= 50  # it has finished
        assert len(await this.receive(timeout=2)) == 10

    run(check())


def test_the_only_member_has_a_lane_without_events_too(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case()
        await this.receive(timeout=0.01)
        assert len(this.listener.held) == 1
        other = await receiver_case()
        other.waiting = 1
        await other.receive(timeout=0.01)
        assert other.listener.held == []

    run(check())


def test_after_a_lost_pin_the_member_pulls_again_and_forgets_nothing(
    run: Run, receiver_case: Callable[..., Any]
) -> None:
    async def check() -> None:
        this = await receiver_case()
        this.deliver(1, 2)
        batch = await this.receive(1)
        this.pulls()
        this.status("423 Nats-Wrong-Pin-Id")
        this.status("423 Nats-Wrong-Pin-Id")  # of a generation that is over
        assert await this.receive(timeout=0.01) == []
        (pull,) = this.pulls()
        assert "id" not in pull
        this.deliver(
            2, pin="p2", deliveries=2, pending=False
        )  # it was given back, because another member could have been pinned
        this.deliver(3, pin="p2")
        assert this.ids(await this.receive(timeout=2)) == ["2", "3"]
        assert list(await this.receiver.settle([Ack(batch[0])])) == [None]
        assert (len(this.listener.held), this.listener.gone, this.listener.given) == (1, [], [])

    run(check())


def test_a_pin_that_went_to_a_lost_connection_does_not_keep_the_lane(
    run: Run, receiver_case: Callable[..., Any], until: Run
) -> None:
    """The only member has a lane from which nothing has come. The first message pins its pull on a connection that is
    dead: no member knows the pin, and the server would keep the lane for it until it runs out."""

    async def check() -> None:
        this = await receiver_case()
        await this.receive(timeout=0.01)
        assert len(this.listener.held) == 1
        this.client.is_connected = False
        this.receiver.lost()
        this.pinned, this.unacknowledged = "nobody", 1

        def unpin(_: Any) -> dict[str, Any]:
            this.pinned = ""
            return {}

        this.link.answers["CONSUMER.UNPIN.orders.g@0"] = unpin
        this.client.is_connected = True
        this.receiver.back()
        await this.receive(timeout=0.01)
        assert this.pinned == ""
        this.pinned = "p2"
        this.deliver(1, pin="p2", deliveries=2, pending=False)
        assert this.ids(await this.receive(timeout=2)) == ["1"]
        assert len(this.listener.held) == 1
        assert this.listener.given == []
        assert [operation for operation, _ in this.link.asked].count("CONSUMER.UNPIN.orders.g@0") == 1
        await this.receiver.close()

    run(check())


def test_after_a_lost_connection_acknowledgements_are_repeated_and_the_order_is_checked(
    run: Run, receiver_case: Callable[..., Any]
) -> None:
    async def check() -> None:
        this = await receiver_case()
        this.deliver(1, 2)
        batch = await this.receive()
        await this.receiver.settle([Ack(batch[0])])
        this.client.is_connected = False
        this.receiver.lost()
        results = await this.receiver.settle([Ack(batch[1])])
        assert type(results[0]) is Unavailable
        this.client.is_connected = True
        this.client.written()
        this.receiver.back()
        assert [ack for ack in this.acks() if not ack[1]] == [(1, b""), (2, b"")]
        this.pinned = "p1"
        this.deliver(2, deliveries=2)
        assert this.acks() == [(2, b"")], "done already: not delivered to the core again"
        this.unacknowledged = 1  # 3 was sent into the void
        this.deliver(4)
        assert await this.receive(timeout=0.05) == []
        this.deliver(3, deliveries=2, pending=False)
        assert this.ids(await this.receive(timeout=2)) == ["3", "4"]
        assert (len(this.listener.held), this.listener.gone) == (1, [])

    run(check())


def test_a_lane_without_a_leader_does_not_hold_up_the_others(run: Run, receiver_case: Callable[..., Any]) -> None:
    """Its server answers nothing for as long as the servers take to choose another leader."""

    async def check() -> None:
        this = await receiver_case(lanes=2)
        this.link.timeout = 60.0
        this.link.answers["CONSUMER.INFO.orders.g@1"] = asyncio.Event()
        this.deliver(1)
        async with asyncio.timeout(2.0):
            assert this.ids(await this.receive()) == ["1"]
        await this.receiver.close()

    run(check())


def test_a_new_leader_is_asked_at_once(run: Run, receiver_case: Callable[..., Any], until: Run) -> None:
    """Nothing answers what was asked before."""

    async def check() -> None:
        this = await receiver_case()
        this.link.timeout = 60.0
        info, this.link.answers["CONSUMER.INFO.orders.g@0"] = (
            this.link.answers["CONSUMER.INFO.orders.g@0"],
            asyncio.Event(),
        )
        this.deliver(1)
        receiving = asyncio.create_task(this.receive(timeout=30.0))
        await asyncio.sleep(0.02)
        this.link.answers["CONSUMER.INFO.orders.g@0"] = info
        this.status("409 Leadership Change")
        async with asyncio.timeout(0.5):
            assert this.ids(await receiving) == ["1"]
        await this.receiver.close()

    run(check())

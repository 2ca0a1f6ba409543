"""Letting lanes go: what goes back, when, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from anybroker.adapter import Ack, Lane, Release
from anybroker.errors import LeaseLost

Run = Callable[[Any], Any]


def test_what_is_released_in_order_goes_back_with_the_lane(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case()
        this.deliver(1, 2, 3)
        batch = await this.receive(2)
        results = await this.receiver.settle([Release(batch[1], 3), Release(batch[0], 0)])
        assert list(results) == [None, None]
        assert this.acks() == []
        closing = asyncio.create_task(this.receiver.close())
        noted = ""
        while not noted:
            await asyncio.sleep(0.001)
            for each in this.client.written():
                if each.verb == "HPUB":
                    noted = each.subject
                    assert b"Nats-TTL" in each.headers
                    this.client.listeners["_INBOX.me.a.*"](each.reply.encode(), b"", b'{"seq":9}', None)
        await closing
        assert noted == "orders.@.g.~.2.3"
        assert "CONSUMER.UNPIN.orders.g@0" in [operation for operation, _ in this.link.asked]
        assert this.acks() == [(1, b"-NAK"), (2, b"-NAK"), (3, b"-NAK")]
        assert this.client.listeners == {}
        assert await this.receive() == []

    run(check())


def test_what_is_released_without_order_goes_back_at_once(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case(ordered=False)
        this.deliver(1, 2)
        first, _ = await this.receive()
        assert list(await this.receiver.settle([Release(first, 0)])) == [None]
        assert this.acks() == [(1, b"-NAK")]
        this.deliver(3)
        await this.receiver.stop()
        assert this.acks() == [(3, b"-NAK")], "what the core does not have"
        await this.receiver.close()
        assert this.acks() == [(2, b"-NAK")]

    run(check())


def test_a_lane_that_another_member_has_is_given_up(run: Run, receiver_case: Callable[..., Any], until: Run) -> None:
    async def check() -> None:
        this = await receiver_case()
        this.deliver(1)
        await this.receive()
        this.pinned = "p1"
        assert await this.receiver.members() == 1
        this.members = 2
        assert await this.receiver.members() == 2
        this.status("423 Nats-Wrong-Pin-Id")
        this.pinned = "p9"
        await this.receiver.members()
        assert this.listener.given == [], "it may be ours: its first delivery may be on its way"
        await this.receiver.members()
        await until(lambda: this.listener.given == this.listener.held)
        assert (1, b"-NAK") in this.acks()
        assert "CONSUMER.UNPIN.orders.g@0" not in [operation for operation, _ in this.link.asked]

    run(check())


def test_giving_back_unpins_first_and_queues_up_again(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case()
        this.deliver(1, 2)
        batch = await this.receive(1)
        (lane,) = this.listener.held
        await this.receiver.give_back(Lane("orders/0", 99))
        assert this.link.asked[-1][0] != "CONSUMER.UNPIN.orders.g@0"
        this.client.written()
        await this.receiver.give_back(lane)
        assert this.link.asked[-1] == ("CONSUMER.UNPIN.orders.g@0", {"group": "lane"})
        assert this.acks() == [(1, b"-NAK"), (2, b"-NAK")]
        assert isinstance((await this.receiver.settle([Ack(batch[0])]))[0], LeaseLost)
        this.deliver(3, pin="p1")
        assert this.acks() == [(3, b"-NAK")], "late, under the old pin"
        this.unacknowledged = 0
        await this.receive(timeout=0.01)
        (pull,) = this.pulls()
        assert "id" not in pull
        this.deliver(1, pin="p2", deliveries=2)
        (inbound,) = await this.receive()
        assert inbound.lane is not lane
        assert inbound.lane.epoch > lane.epoch

    run(check())


def test_a_member_that_lost_its_pin_gives_back_at_once_what_has_not_started(
    run: Run, receiver_case: Callable[..., Any]
) -> None:
    """The member that is pinned next waits for it, perhaps for ever: no handler here finishes it."""

    async def check() -> None:
        this = await receiver_case()
        this.deliver(1, 2, 3)
        (first,) = await this.receive(1)
        this.client.written()
        this.status("423 Nats-Wrong-Pin-Id")
        assert this.acks() == [(2, b"-NAK"), (3, b"-NAK")]
        this.deliver(4, pin="p1")  # it was on its way under the pin that is lost
        assert this.acks() == [(4, b"-NAK")]
        assert await this.receive(timeout=0.01) == []
        assert await this.receiver.settle([Ack(first)]) == [None]
        await this.receiver.close()

    run(check())

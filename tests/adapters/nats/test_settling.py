"""Settling: each delivery once, and acknowledgements until the server has them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from anybroker.adapter import Ack, Release
from anybroker.errors import LeaseLost, Unavailable

Run = Callable[[Any], Any]


def test_each_delivery_is_settled_once(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case()
        this.deliver(1, 2, 3)
        batch = await this.receive()
        assert list(await this.receiver.settle([Ack(batch[1]), Ack(batch[0])])) == [None, None]
        assert this.acks() == [(2, b""), (1, b"")]
        again = await this.receiver.settle([Ack(batch[0]), Release(batch[1], 0)])
        assert [type(result) for result in again] == [LeaseLost, LeaseLost]
        assert this.acks() == []
        extended = await this.receiver.extend(batch)
        assert [type(result) for result in extended] == [LeaseLost, LeaseLost, type(None)]

    run(check())


def test_a_confirmed_acknowledgement_waits_for_the_servers_answer(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case(confirm=True)
        this.deliver(1, 2)
        batch = await this.receive()
        this.client.written()
        settling = asyncio.create_task(this.receiver.settle([Ack(inbound) for inbound in batch]))
        await asyncio.sleep(0)
        first, second = this.client.written()
        assert (first.subject.startswith("$JS.ACK"), first.body) == (True, b"")
        this.client.listeners["_INBOX.me.a.*"](second.reply.encode(), b"", b"", None)
        results = await settling
        assert [type(result) for result in results] == [Unavailable, type(None)]

    run(check())


def test_an_acknowledgement_that_is_not_allowed_is_repeated_until_it_is(
    run: Run, receiver_case: Callable[..., Any], kit: SimpleNamespace, until: Run
) -> None:
    """The first one is handed over before the server says no. After that each is waited for, and what was handled stays
    ours and is not handled again."""

    async def check() -> None:
        this = await receiver_case(ordered=False)
        this.receiver._member.answers._timeout = 60.0
        this.deliver(1, 2)
        first, second = await this.receive()
        assert await this.receiver.settle([Ack(first)]) == [None]
        this.receiver.refused(kit.violation("$JS.ACK.orders.g.1.1.1.1.0"))
        settling = asyncio.create_task(this.receiver.settle([Ack(second)]))
        await until(lambda: 2 in [sequence for sequence, _ in this.acks()])
        this.receiver.refused(kit.violation("$JS.ACK.orders.g.1.2.2.1.0"))
        (result,) = await asyncio.wait_for(settling, 5)
        assert isinstance(result, Unavailable)
        assert "does not let this user acknowledge" in str(result)
        this.deliver(2, deliveries=2, pending=False)
        assert await this.receive(timeout=0.01) == []
        settling = asyncio.create_task(this.receiver.settle([Ack(second)]))
        await until(lambda: bool(this.client.data))
        for command in this.client.written():
            if command.reply:
                this.client.listeners["_INBOX.me.a.*"](command.reply.encode(), b"", b"", None)
        assert await asyncio.wait_for(settling, 5) == [None]
        assert isinstance((await this.receiver.settle([Ack(second)]))[0], LeaseLost)
        await this.receiver.close()

    run(check())


def test_acknowledgements_are_repeated_when_the_server_has_said_whose_the_lane_is(
    run: Run, receiver_case: Callable[..., Any]
) -> None:
    """Right after a reconnect there may be no leader to take them, and the lane may go to another member."""

    async def check() -> None:
        this = await receiver_case()
        this.deliver(1)
        (inbound,) = await this.receive()
        await this.receiver.settle([Ack(inbound)])
        this.receiver.lost()
        this.receiver.back()
        this.client.written()
        this.pinned = "p9"
        await this.receive(timeout=0.01)
        assert (1, b"") in this.acks()
        await this.receiver.close()

    run(check())


def test_acknowledgements_are_repeated_to_a_new_leader_of_the_consumer(
    run: Run, receiver_case: Callable[..., Any]
) -> None:
    """The one that they were sent to died, or stepped down, before another server had them. Our connection is to a
    third server, and stays up. The next pull of any member brings what is unacknowledged: nothing is asked first."""

    async def check() -> None:
        this = await receiver_case()
        this.deliver(1, 2)
        batch = await this.receive()
        await this.receiver.settle([Ack(batch[0])])
        this.client.written()
        this.link.answers["CONSUMER.INFO.orders.g@0"] = asyncio.Event()  # whatever the receiver waits for now
        this.status("409 Leadership Change")
        assert this.acks() == [(1, b"")]
        await this.receiver.close()

    run(check())


def test_unconfirmed_acknowledgements_are_repeated_to_a_new_leader_too(
    run: Run, receiver_case: Callable[..., Any]
) -> None:
    """If the lane has gone to another member meanwhile, the settlement is not repeated."""

    async def check() -> None:
        this = await receiver_case(confirm=True)
        this.deliver(1)
        settling = asyncio.create_task(this.receiver.settle([Ack(inbound) for inbound in await this.receive()]))
        await asyncio.sleep(0)
        assert this.acks() == [(1, b"")]
        this.status("409 Leadership Change")
        assert this.acks() == [(1, b"")]
        assert type((await settling)[0]) is Unavailable
        await this.receiver.close()

    run(check())

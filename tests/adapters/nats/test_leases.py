"""Leases: what is extended, and how they end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from anybroker.errors import LeaseLost

Run = Callable[[Any], Any]


def test_the_leases_of_buffered_deliveries_are_extended_too(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case(lease=0.15)
        this.deliver(1, 2)
        await this.receive(1)
        seen: dict[str, int] = {}
        touches = 0
        end = asyncio.get_running_loop().time() + 5
        while min(seen.get("1", 0), seen.get("2", 0), touches) < 2:
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.01)
            for each in this.client.written():
                if each.body == b"+WPI":
                    seen[each.subject.split(".")[5]] = seen.get(each.subject.split(".")[5], 0) + 1
                elif b"no_wait" in each.body:
                    touches += 1
                    assert json.loads(each.body)["id"] == "p1"
                    this.status("409 Message Size Exceeds MaxBytes", suffix=".t")
        await this.receiver.close()

    run(check())


def test_a_member_that_lost_its_pin_extends_nothing_until_the_server_says_whose_the_lane_is(
    run: Run, receiver_case: Callable[..., Any]
) -> None:
    async def check() -> None:
        this = await receiver_case(lease=60.0)
        (consumer,) = this.receiver._consumers

        def extended() -> list[tuple[int, bytes]]:
            consumer.extended -= 5  # of the 20 s for which the server waits
            this.receiver._leases.extend()
            return [(sequence, word) for sequence, word in this.acks() if word == b"+WPI"]

        this.deliver(1)
        await this.receive()
        assert extended() == [(1, b"+WPI")]
        this.status("423 Nats-Wrong-Pin-Id")
        assert extended() == []
        this.pinned = "p9"
        await this.receive(timeout=0.01)
        assert extended() == [], "another member has the lane, and waits"
        await this.receiver.close()

    run(check())


def test_a_member_that_stood_still_for_a_lease_has_lost_everything(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case()
        this.deliver(1, 2)
        batch = await this.receive(1)
        this.receiver._consumers[0].extended -= 61  # as if the process had been stopped
        results = await this.receiver.extend(batch)
        assert isinstance(results[0], LeaseLost)
        assert this.listener.gone == this.listener.held
        assert this.acks() == [], "another member may have them: nothing is given back"
        this.deliver(1, 2, deliveries=2, pending=False)
        assert this.ids(await this.receive()) == ["1", "2"]
        assert len(this.listener.held) == 2
        await this.receiver.close()

    run(check())


def test_without_a_connection_nothing_is_started_and_the_lease_ends(
    run: Run, receiver_case: Callable[..., Any], until: Run
) -> None:
    async def check() -> None:
        this = await receiver_case(lease=0.3)
        this.deliver(1, 2)
        batch = await this.receive()
        this.listener.busy = asyncio.Event()  # a handler runs
        this.client.is_connected = False
        this.receiver.lost()
        await until(lambda: this.listener.given == this.listener.held)
        assert this.listener.gone == [], "what is running may finish"
        await until(lambda: this.listener.gone == this.listener.held)
        this.listener.busy.set()
        assert [type(each) for each in await this.receiver.extend(batch)] == [LeaseLost, LeaseLost]
        await this.receiver.close()

    run(check())


def test_a_shorter_lease_of_a_later_member_is_adopted(run: Run, receiver_case: Callable[..., Any], until: Run) -> None:
    async def check() -> None:
        this = await receiver_case(lease=60.0)
        this.deliver(1)
        await this.receive()
        this.ack_wait = 0.15
        await this.receiver.members()
        this.client.written()
        await until(lambda: (1, b"+WPI") in this.acks())
        await this.receiver.close()

    run(check())

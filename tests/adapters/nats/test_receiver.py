"""The receiver on a fake client: what it pulls, what may arrive, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from anybroker.errors import Unavailable
from anybroker_nats.client import RawClient

Run = Callable[[Any], Any]


def test_one_pull_at_a_time_and_no_more_than_the_prefetch(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case()
        assert await this.receive(timeout=0.01) == []
        (pull,) = this.pulls()
        assert (pull["batch"], pull["group"], "id" in pull) == (10, "lane", False)
        this.deliver(*range(1, 9))
        assert len(await this.receive()) == 8
        assert this.pulls() == [], "two may still come"
        this.deliver(9, 10)
        assert this.ids(await this.receive()) == ["9", "10"]
        (pull,) = this.pulls()
        assert (pull["batch"], pull["id"]) == (10, "p1")
        this.status("408 Request Timeout")
        await this.receive(timeout=0.01)
        assert len(this.pulls()) == 1

    run(check())


def test_an_unordered_group_pulls_what_the_core_asks_for(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case(ordered=False)
        assert [lane.name for lane in this.listener.held] == ["orders/0"]
        await this.receive(3, timeout=0.01)
        assert this.pulls()[0] | {"expires": 0, "max_bytes": 0} == {"batch": 3, "expires": 0, "max_bytes": 0}
        this.deliver(1, 2, 3)
        assert this.ids(await this.receive(2)) == ["1", "2"]
        assert this.ids(await this.receive(2)) == ["3"]

    run(check())


@pytest.mark.parametrize(
    ("subject", "reply"),
    [
        (b"orders.7", b"$JS.ACK.orders.g@0.1.x.1.1.0"),
        (b"orders.7", b"$JS.ACK.orders.nobody.1.1.1.1.0"),
        (b"orders.7", b"short"),
        (b"orders.7", b"$JS.ACK.orders.g@0." + b"9" * 5_000 + b".1.1.1.0"),
        (b"%b.d.x.1", b""),
        (b"%b.d.99.1", b""),
        (b"%b.d.0", b""),
        (b"%b.d.0." + b"9" * 5_000, b""),
    ],
)
def test_what_others_write_into_the_inbox_ends_nothing(
    run: Run, receiver_case: Callable[..., Any], subject: bytes, reply: bytes
) -> None:
    """Anyone who knows the inbox may write there. The client drops what its listener cannot read."""

    async def check() -> None:
        this = await receiver_case()
        inbox = this.receiver._member.prefix.removesuffix(b".d.")
        client = RawClient(require_tls=False)
        client._listeners[1] = this.receiver._arrived
        await client._process_msg(1, subject.replace(b"%b", inbox), reply, b"", b"NATS/1.0 408 x\r\n\r\n")
        this.deliver(1)
        (inbound,) = await this.receive()
        assert inbound.event.id == "1"

    run(check())


def test_a_consumer_that_was_deleted_ends_the_receiver(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case()
        await this.receive(timeout=0.01)
        this.status("503")
        this.link.answers.clear()
        with pytest.raises(Unavailable, match="g@0"):
            await this.receive(timeout=5)
        assert this.listener.gone == this.listener.held
        await this.receiver.close()
        refused = await receiver_case()
        refused.status("400 Bad Request")
        with pytest.raises(Unavailable, match="Bad Request"):
            await refused.receive()

    run(check())


def test_the_end_of_the_client_ends_the_receiver(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case()
        receiving = asyncio.create_task(this.receive(timeout=30))
        await asyncio.sleep(0)
        this.client.is_connected = False
        this.receiver.gone()
        with pytest.raises(Unavailable):
            await receiving
        await this.receiver.close()

    run(check())


def test_a_user_who_may_not_pull_is_told_so(run: Run, receiver_case: Callable[..., Any], kit: SimpleNamespace) -> None:
    async def check() -> None:
        this = await receiver_case()
        await this.receive(timeout=0.01)
        this.receiver.refused(kit.violation("$JS.API.CONSUMER.MSG.NEXT.orders.other"))
        await this.receive(timeout=0.01)
        this.receiver.refused(kit.violation("$JS.API.CONSUMER.MSG.NEXT.orders.g@0"))
        with pytest.raises(Unavailable, match="does not let this user consume: permissions violation"):
            await this.receive()
        await this.receiver.close()

    run(check())


def test_stop_ends_a_receive_at_once(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        for ordered in (True, False):
            this = await receiver_case(ordered=ordered)
            receiving = asyncio.create_task(this.receive(timeout=30))
            await asyncio.sleep(0)
            await this.receiver.stop()
            assert await asyncio.wait_for(receiving, 5) == []
            await this.receiver.stop()
            await this.receiver.close()
            await this.receiver.close()
            assert this.link.watchers == set()

    run(check())


def test_leaving_without_a_connection_closes_the_inboxes(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case()
        this.client.is_connected = False
        await this.receiver.close()
        assert this.client.listeners == {}, "the next connection would subscribe them again"

    run(check())

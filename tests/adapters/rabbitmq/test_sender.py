"""The sender on fake channels: order, routes, and each way in which a publish may end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, DeliveryError, PublishError
from pamqp.commands import Basic

from anybroker.adapter import Outbound, Receipt, slot_of
from anybroker.errors import BrokerError, EventTooLarge, PublishOutcomeUnknown, Rejected, Unavailable
from anybroker_rabbitmq import sender as module
from anybroker_rabbitmq.sender import RabbitmqSender
from anybroker_rabbitmq.wire import Wire

Run = Callable[[Any], Any]
NOW = 1_800_000_000.0


class Case:
    """An open sender; topics ``orders`` and ``empty`` (without a group) and the group ``orders:billing`` exist."""

    def __init__(self, kit: SimpleNamespace, *, makes_rungs: bool = True, limit: int = 100_000) -> None:
        self.kit = kit
        self.publish = kit.FakeLink()
        self.control = kit.FakeLink()
        self.control.there |= {"orders", "empty", "orders:billing"}
        self.results: dict[str, Receipt | BrokerError] = {}
        self.sender = RabbitmqSender(
            self.publish, self.control, Wire(), {"orders"}, limit=limit, makes_rungs=makes_rungs
        )

    def report(self, outbound: Outbound, result: Receipt | BrokerError) -> None:
        id = outbound.event.id  # type: ignore[union-attr]
        assert id not in self.results, "reported twice"
        self.results[id] = result

    async def submit(
        self, *ids: str, key: str | None = "k", topic: str = "orders", group: str | None = None, **options: Any
    ) -> None:
        batch = [Outbound(self.kit.event(id, key), topic, group, **options) for id in ids]
        await self.sender.submit(batch, self.report)

    @property
    def channel(self) -> Any:
        return self.publish.channels[-1]

    def confirm(self, tag: int) -> None:
        """What aiormq does for a Basic.Ack."""
        self.channel.confirmations.pop(tag).set_result(Basic.Ack(tag))

    def bounce(self, tag: int, exchange: str) -> None:
        """What aiormq does for a Basic.Return."""
        frame = Basic.Return(312, "NO_ROUTE", exchange, "1")
        message = SimpleNamespace(delivery=frame)
        self.channel.confirmations.pop(tag).set_exception(PublishError(message, frame))  # type: ignore[arg-type]

    def types(self) -> dict[str, type]:
        return {id: type(result) for id, result in self.results.items()}


@pytest.fixture
def case(kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Case]:
    monkeypatch.setattr(module, "time", lambda: NOW)
    return lambda **options: Case(kit, **options)


def test_a_batch_is_written_in_order_with_the_slot_as_routing_key(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1", "2", key="customer-7")
        await this.submit("3", key=None)
        written = this.channel.written()
        publishes = [frame for frame in written if frame.name == "Basic.Publish"]
        assert {(frame.exchange, frame.mandatory) for frame in publishes} == {("orders", True)}
        assert [frame.routing_key for frame in publishes[:2]] == [str(slot_of("customer-7"))] * 2
        assert 0 <= int(publishes[2].routing_key) < 64
        headers = [frame.properties for frame in written if frame.name == "ContentHeader"]
        assert [header.headers["cloudEvents_id"] for header in headers] == ["1", "2", "3"]
        assert len({header.message_id for header in headers}) == 3
        assert {header.delivery_mode for header in headers} == {2}
        assert this.results == {}

    run(check())


def test_each_ends_by_its_own_confirmation(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1", "2", "3")
        this.confirm(3)
        this.confirm(1)
        assert this.types() == {"3": Receipt, "1": Receipt}
        this.channel.confirmations.pop(2).set_exception(DeliveryError(None, Basic.Nack(2)))
        assert this.types()["2"] is PublishOutcomeUnknown
        assert this.channel.message_id_delivery_tag == {}
        assert this.results["1"].broker_id != this.results["3"].broker_id  # type: ignore[union-attr]

    run(check())


def test_a_return_is_success_only_where_the_topic_has_no_group(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1", topic="empty")
        this.bounce(1, "empty")
        assert this.types() == {"1": Receipt}
        await this.submit("2")
        this.bounce(2, "orders")
        await this.submit("3", group="billing")
        this.bounce(3, "orders:billing")
        await this.submit("4", topic="empty", not_before=NOW + 5)
        this.bounce(4, "anybroker:delay:2")
        assert this.types() == {"1": Receipt, "2": Rejected, "3": Rejected, "4": Rejected}

    run(check())


def test_what_is_not_there_fails_alone_and_is_looked_for_again(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        batch = [Outbound(this.kit.event(id), topic) for id, topic in (("1", "orders"), ("2", "nix"), ("3", "orders"))]
        await this.sender.submit(batch, this.report)
        await this.submit("4", group="nobody")
        assert this.types() == {"2": Rejected, "4": Rejected}
        assert "'nix'" in str(this.results["2"])
        assert len(this.channel.confirmations) == 2
        this.control.there.add("nix")
        await this.submit("5", topic="nix")
        assert len(this.channel.confirmations) == 3
        assert this.control.asked("exchange").count("orders") == 1

    run(check())


def test_too_much_is_refused_alone_and_not_sent(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case(limit=200_000)
        batch = [
            Outbound(this.kit.event("1", data=b"x" * 200_000), "orders"),
            Outbound(this.kit.event("2"), "orders", headers={"x": "x" * 130_000}),
            Outbound(this.kit.event("3"), "orders", headers={"x" * 256: "x"}),
            Outbound(this.kit.event("4", data=b"x" * 195_000), "orders"),
            Outbound(this.kit.event("5", data=b"x" * 195_000), "orders", reserve=0),
            Outbound(this.kit.event("6"), "orders"),
        ]
        await this.sender.submit(batch, this.report)
        assert this.types() == {"1": EventTooLarge, "2": EventTooLarge, "3": Rejected, "4": EventTooLarge}
        assert sorted(this.channel.confirmations) == [1, 2]

    run(check())


def test_a_lost_channel_leaves_what_was_written_unknown_and_the_next_submit_opens_another(
    run: Run, case: Callable[..., Case]
) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1", "2")
        this.confirm(1)
        first = this.channel
        first.lose()
        await this.submit("3")
        assert this.types() == {"1": Receipt, "2": PublishOutcomeUnknown}
        assert isinstance(this.results["2"].__cause__, ConnectionResetError)  # type: ignore[union-attr]
        assert this.channel is not first
        this.confirm(1)
        assert this.types()["3"] is Receipt
        this.publish.refuses = Unavailable("nobody answers")
        this.channel.lose()
        with pytest.raises(Unavailable):
            await this.submit("4")

    run(check())


def test_a_channel_lost_while_writing_ends_each_event_once(run: Run, case: Callable[..., Case]) -> None:
    """What was written is unknown; what was not, the raised error tells of."""

    async def check() -> None:
        this = case(limit=10_000_000)
        channel = await this.sender.open()
        take = channel.write_queue.put

        async def lose_at_the_second(frame: Any) -> None:
            await take(frame)
            if channel.write_queue.qsize() == 2:
                channel.lose()

        channel.write_queue.put = lose_at_the_second
        batch = [Outbound(this.kit.event(str(n), data=b"x" * 40_000), "orders") for n in range(10)]
        with pytest.raises(Unavailable):
            await this.sender.submit(batch, this.report)
        assert this.types() == {str(n): PublishOutcomeUnknown for n in range(4)}
        with pytest.raises(Unavailable):
            await this.sender._write(channel, [b"late"], 4, channel.delivery_tag + 1)

    run(check())


def test_a_delay_takes_the_ladder_made_up_to_there(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1", key=None, not_before=NOW + 5.9)
        await this.submit("2", key=None, not_before=NOW + 4)
        await this.submit("3", key=None, not_before=NOW + 0.9)
        await this.submit("4", key=None, not_before=NOW - 100, group="billing")
        publishes = [frame for frame in this.channel.written() if frame.name == "Basic.Publish"]
        assert [frame.exchange for frame in publishes] == [
            "anybroker:delay:2", "anybroker:delay:2", "orders", "orders:billing",
        ]  # fmt: skip
        assert publishes[0].routing_key.startswith("0." * 17 + "1.0.1.orders.")
        made = [name for name, arguments in this.control.asked("queue") if arguments]
        assert made == ["anybroker:delay:sink", "anybroker:delay:0", "anybroker:delay:1", "anybroker:delay:2"]
        due = ("orders", "anybroker:delay:due", "*." * 20 + "orders.*")
        assert this.control.asked("bind exchange").count(due) == 1

    run(check())


def test_without_the_right_to_make_queues_the_ladder_must_be_there(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case(makes_rungs=False)
        await this.submit("1", not_before=NOW + 5)
        assert this.types() == {"1": Rejected}
        this.control.there.add("anybroker:delay:2")
        await this.submit("2", not_before=NOW + 5)
        assert len(this.channel.confirmations) == 1

    run(check())


def test_close_waits_for_the_confirmations(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1", "2")
        closing = asyncio.create_task(this.sender.close())
        await asyncio.sleep(0)
        assert not closing.done()
        this.confirm(1)
        this.confirm(2)
        await closing
        assert this.types() == {"1": Receipt, "2": Receipt}
        assert this.publish.closed
        await this.sender.close()
        with pytest.raises(Unavailable):
            await this.submit("3")

    run(check())


def test_a_close_cut_short_says_what_is_unknown(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await this.sender.close()
        assert this.types() == {"1": PublishOutcomeUnknown}
        assert this.publish.closed

    run(check())


def test_the_ladders_end_is_bound_again_and_again(
    run: Run, case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic that was deleted and made again has lost the binding: what is due would reach nobody, silently."""

    async def check() -> None:
        this = case()
        loop = asyncio.get_running_loop()
        now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: now)
        due = ("orders", "anybroker:delay:due", "*." * 20 + "orders.*")
        for id, later in (("1", 0.0), ("2", 0.5), ("3", 1.2)):
            now += later
            await this.submit(id, not_before=NOW + 4)
        assert this.control.asked("bind exchange").count(due) == 2

    run(check())


def test_what_was_deleted_of_the_ladder_is_made_again(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1", not_before=NOW + 1)
        this.bounce(1, "anybroker:delay:0")  # its queue is gone
        await this.submit("2", not_before=NOW + 1)
        this.channel.lose(ChannelNotFoundEntity("NOT_FOUND - no exchange 'anybroker:delay:0' in vhost '/'"))
        await this.submit("3", not_before=NOW + 1)
        made = [name for name, arguments in this.control.asked("queue") if name == "anybroker:delay:0"]
        assert len(made) == 3
        assert this.types() == {"1": Rejected, "2": PublishOutcomeUnknown}

    run(check())


def test_a_broker_that_takes_nothing_is_not_written_to(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1")
        this.publish.hindrance = "RabbitMQ takes no events now: it is low on memory (connection.blocked)"
        assert this.sender.hindrance == this.publish.hindrance
        with pytest.raises(Unavailable, match="low on memory"):
            await this.submit("2")
        assert len(this.channel.confirmations) == 1
        this.publish.hindrance = None
        await this.submit("2")
        assert len(this.channel.confirmations) == 2

    run(check())


def test_a_nack_says_that_a_queue_may_be_full(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1")
        this.channel.confirmations.pop(1).set_exception(DeliveryError(None, Basic.Nack(1)))
        assert this.types() == {"1": PublishOutcomeUnknown}
        assert "is full (max-length" in str(this.results["1"])

    run(check())


def refused(exchange: str) -> ChannelAccessRefused:
    return ChannelAccessRefused(f"ACCESS_REFUSED - access to exchange '{exchange}' in vhost '/' refused for user 'u'")


def test_where_the_user_may_not_publish_is_rejected_alone(
    run: Run, case: Callable[..., Case], caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        this = case()
        this.publish.closed_to.add("empty")
        await this.submit("1")
        await this.submit("2", topic="empty")
        this.channel.lose(refused("empty"))
        await asyncio.sleep(0)
        assert this.types() == {"1": PublishOutcomeUnknown, "2": Rejected}
        assert "may not publish there (ACCESS_REFUSED" in str(this.results["2"])
        assert "ACCESS_REFUSED" in caplog.text
        await this.submit("3")  # and what is asked costs a channel of its own, once
        channels = len(this.publish.channels)
        for id in ("4", "5"):
            await this.submit(id, topic="empty")
        assert len(this.publish.channels) == channels + 1
        assert {id: kind for id, kind in this.types().items() if id > "2"} == {"4": Rejected, "5": Rejected}
        assert len([each for channel in this.publish.channels for each in channel.confirmations]) == 1  # of "3"
        this.publish.closed_to.clear()
        this.sender._permissions._refused.clear()
        await this.submit("6", topic="empty")
        assert "6" not in this.results

    run(check())


def test_what_may_have_been_stored_before_the_permission_was_taken_is_unknown(
    run: Run, case: Callable[..., Case]
) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1", "2", "3")
        this.confirm(1)
        this.channel.lose(refused("orders"))
        await asyncio.sleep(0)
        assert this.types() == {"1": Receipt, "2": PublishOutcomeUnknown, "3": PublishOutcomeUnknown}

    run(check())

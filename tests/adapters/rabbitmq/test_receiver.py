"""The receiver on fake channels: lanes, order, settling, giving back."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from anybroker.adapter import Ack, BalancesLanes, Inbound, Lane, Release, SubscriptionSpec
from anybroker.errors import LeaseLost, Unavailable
from anybroker_rabbitmq.notes import note_key
from anybroker_rabbitmq.receiver import RabbitmqReceiver
from anybroker_rabbitmq.wire import Wire

Run = Callable[[Any], Any]


class Case:
    """A member of ``orders:billing``."""

    def __init__(self, kit: SimpleNamespace, *, ordered: bool = True, lanes: int = 2) -> None:
        self.kit = kit
        self.link = kit.FakeLink()
        self.publish = kit.FakeLink()
        self.link.there.add("orders:billing:members")
        self.ear = kit.Ear()
        self.left: list[RabbitmqReceiver] = []
        spec = SubscriptionSpec("orders", "billing", ordered, lanes if ordered else 1, "new", 100)
        self.receiver = RabbitmqReceiver(
            self.link, self.publish, Wire(), spec, self.ear, itertools.count(1), 100, self.left.append
        )

    def lane(self, number: int) -> Any:
        """The channel that consumes the lane now."""
        wanted = ("consume", f"orders:billing:{number}")
        return next(channel for channel in reversed(self.link.channels) if wanted in channel.calls)

    async def deliver(self, lane: int, *numbers: int, **options: Any) -> None:
        for number in numbers:
            await self.lane(lane).callback(self.kit.delivery(number, **options))

    async def take(self, limit: int = 100, lanes: Any = None, timeout: float = 0) -> Sequence[Inbound]:
        return await self.receiver.receive(limit, lanes=lanes, timeout=timeout)

    def called(self, number: int) -> str:
        """What the event of that number is called in a note."""
        return str(note_key(Wire().read(self.kit.delivery(number), Lane("orders/0", 1), number, None)))

    def note(self, number: int, starts: object) -> bytes:
        """What a member that left has noted."""
        return json.dumps({self.called(number): starts}).encode()

    def settled(self, lane: int) -> list[tuple[str, int, bool]]:
        """Names, tags and 'multiple' or 'requeue' of what was written to a lane."""
        found = []
        for frame in self.lane(lane).written():
            flag = frame.multiple if frame.name == "Basic.Ack" else frame.requeue
            found.append((frame.name.removeprefix("Basic."), frame.delivery_tag, flag))
        return found


@pytest.fixture
def joined(kit: SimpleNamespace) -> Callable[..., Any]:
    async def join(**options: Any) -> Case:
        case = Case(kit, **options)
        await case.receiver.start()
        return case

    return join


def ids(batch: Sequence[Inbound]) -> list[str]:
    return [inbound.event.id for inbound in batch]  # type: ignore[union-attr]


def test_a_lane_is_ours_with_its_first_delivery(run: Run, joined: Callable[..., Any]) -> None:
    async def check() -> None:
        case = await joined()
        assert isinstance(case.receiver, BalancesLanes)
        assert await case.take() == ()
        assert case.ear.held == []
        await case.deliver(1, 1, 2)
        batch = await case.take()
        assert [lane.name for lane in case.ear.held] == ["orders/1"]
        assert [inbound.lane for inbound in batch] == case.ear.held * 2
        assert ids(batch) == ["1", "2"]
        assert [inbound.position for inbound in batch] == [1, 2]
        assert ("qos", 100) in case.lane(0).calls

    run(check())


def test_the_only_member_has_every_lane_at_once(run: Run, joined: Callable[..., Any]) -> None:
    async def check() -> None:
        case = await joined()
        case.link.channels[0].members = 1
        assert await case.take() == ()
        assert [lane.name for lane in case.ear.held] == ["orders/0", "orders/1"]
        case.link.there.add("orders:billing:1:notes")
        case.link.notes.append(case.note(1, 3))
        await case.deliver(1, 1, redelivered=True)
        [inbound] = await case.take()
        assert inbound.lane is case.ear.held[1]
        assert inbound.attempts == 3
        assert len(case.ear.held) == 2

    run(check())


def test_receive_waits_and_wakes(run: Run, joined: Callable[..., Any]) -> None:
    async def check() -> None:
        case = await joined()
        waiting = asyncio.create_task(case.take(timeout=60))
        await asyncio.sleep(0)
        await case.deliver(0, 1)
        assert ids(await waiting) == ["1"]
        waiting = asyncio.create_task(case.take(timeout=60))
        await asyncio.sleep(0)
        await case.receiver.stop()
        assert await waiting == ()
        await case.deliver(0, 2)
        assert await case.take() == ()

    run(check())


def test_limits_and_lanes_leave_the_rest_for_later(run: Run, joined: Callable[..., Any]) -> None:
    async def check() -> None:
        case = await joined()
        await case.deliver(0, 1, 2, 3)
        await case.deliver(1, 4)
        everything = [*await case.take(2), *await case.take(1)]
        first, second = case.ear.held
        rest = await case.take(lanes=[second])
        assert {inbound.lane for inbound in rest} <= {second}
        rest = [*rest, *await case.take(lanes=[first])]
        assert sorted(ids([*everything, *rest])) == ["1", "2", "3", "4"]
        of_first = [inbound for inbound in [*everything, *rest] if inbound.lane is first]
        assert [inbound.position for inbound in of_first] == [1, 2, 3]

    run(check())


def test_acks_are_batched_where_they_are_contiguous(run: Run, joined: Callable[..., Any]) -> None:
    async def check() -> None:
        case = await joined()
        await case.deliver(0, *range(1, 9))
        batch = await case.take(7)
        assert await case.receiver.settle([Ack(batch[n]) for n in (1, 0, 2, 5)]) == [None] * 4
        assert case.settled(0) == [("Ack", 6, False), ("Ack", 3, True)]
        assert await case.receiver.settle([Ack(batch[n]) for n in (3, 4, 6)]) == [None] * 3
        assert case.settled(0) == [("Ack", 7, True)]
        assert case.receiver.in_flight == 1

    run(check())


def test_a_released_one_in_a_lane_goes_back_with_the_channel_only(run: Run, joined: Callable[..., Any]) -> None:
    async def check() -> None:
        case = await joined()
        await case.deliver(0, 1, 2, 3, 4)
        batch = await case.take()
        await case.receiver.stop()
        settlements = [Ack(batch[0]), Release(batch[1], 0), Ack(batch[3]), Release(batch[2], 2)]
        assert await case.receiver.settle(settlements) == [None] * 4
        assert case.settled(0) == [("Ack", 4, False), ("Ack", 1, True)]
        again = await case.receiver.settle([Ack(batch[1]), Release(batch[1], 0), Ack(batch[0])])
        assert [type(result) for result in again] == [LeaseLost] * 3
        channel = case.lane(0)
        await case.receiver.close()
        assert channel.is_closed
        assert channel.written() == []
        assert case.left == [case.receiver]
        [(queue, body)] = case.publish.asked("publish")
        assert (queue, json.loads(body)) == ("orders:billing:0:notes", {case.called(3): 2})
        assert isinstance((await case.receiver.settle([Ack(batch[1])]))[0], LeaseLost)

    run(check())


def test_the_notes_of_the_last_member_are_read_before_the_first_event(run: Run, joined: Callable[..., Any]) -> None:
    async def check() -> None:
        case = await joined()
        case.link.there.add("orders:billing:0:notes")
        case.link.notes += [case.note(2, 3), case.note(4, 1)]
        await case.deliver(0, 1, 2, redelivered=True)
        await case.deliver(1, 3)
        batch = await case.take()
        assert {inbound.event.id: inbound.attempts for inbound in batch} == {"1": 0, "2": 3, "3": 0}
        assert case.link.notes == []
        await case.receiver.give_back(next(lane for lane in case.ear.held if lane.name == "orders/0"))
        [(_, body)] = case.publish.asked("publish")
        assert json.loads(body) == {case.called(4): 1}

    run(check())


def test_unordered_each_goes_back_by_itself(run: Run, joined: Callable[..., Any]) -> None:
    async def check() -> None:
        case = await joined(ordered=False)
        assert [call for channel in case.link.channels for call in channel.calls if call[0] == "consume"] == [
            ("consume", "orders:billing:members"),
            ("consume", "orders:billing:0"),
        ]
        await case.deliver(0, 1, 2, 3, 4, 5)
        batch = await case.take(3)
        settlements = [Release(batch[0], 1, failed=True), Release(batch[1], 0), Ack(batch[2])]
        assert await case.receiver.settle(settlements) == [None] * 3
        assert case.settled(0) == [("Reject", 1, True), ("Nack", 2, True), ("Ack", 3, True)]
        await case.receiver.stop()
        assert ("cancel", "tag") in case.lane(0).calls
        assert case.settled(0) == [("Nack", 4, True), ("Nack", 5, True)]
        assert await case.take() == ()

    run(check())


def test_give_back_closes_the_channel_and_queues_up_again(run: Run, joined: Callable[..., Any]) -> None:
    async def check() -> None:
        case = await joined()
        await case.deliver(0, 1)
        [inbound] = await case.take()
        old = case.lane(0)
        await case.receiver.give_back(inbound.lane)
        assert old.is_closed
        assert case.lane(0) is not old
        assert isinstance((await case.receiver.settle([Ack(inbound)]))[0], LeaseLost)
        await case.receiver.give_back(inbound.lane)  # no longer ours
        await case.deliver(0, 1)
        [again] = await case.take()
        assert again.lane is not inbound.lane
        assert (again.lane.name, again.lane.epoch > inbound.lane.epoch) == (inbound.lane.name, True)
        assert case.ear.gone == []

    run(check())


def test_members_are_the_consumers_of_the_groups_list(run: Run, joined: Callable[..., Any]) -> None:
    async def check() -> None:
        case = await joined()
        case.link.channels[0].members = 3
        assert await case.receiver.members() == 3
        case.link.there.clear()
        with pytest.raises(Unavailable):
            await case.receiver.members()
        with pytest.raises(Unavailable):
            await case.take()

    run(check())


@pytest.mark.parametrize("which", ["lane", "members", "cancel"])
def test_whatever_the_broker_ends_ends_the_receiver(run: Run, joined: Callable[..., Any], which: str) -> None:
    async def check() -> None:
        case = await joined()
        await case.deliver(0, 1, 2)
        await case.deliver(1, 3)
        batch = await case.take()
        waiting = asyncio.create_task(case.take(timeout=60))
        await asyncio.sleep(0)
        if which == "cancel":
            for callback in case.lane(1).on_consumer_cancel_callbacks:
                callback(None)
        else:
            (case.lane(1) if which == "lane" else case.link.channels[0]).lose(RuntimeError("consumer timed out"))
        with pytest.raises(Unavailable) as caught:
            await waiting
        if which != "cancel":
            assert "consumer timed out" in str(caught.value)
            assert isinstance(caught.value.__cause__, RuntimeError)
        assert case.ear.gone == case.ear.held
        with pytest.raises(Unavailable):
            await case.take()
        await case.receiver.close()
        assert {type(result) for result in await case.receiver.settle([Ack(batch[0])])} == {LeaseLost}

    run(check())


def test_close_ends_every_channel_and_reports_nothing_lost(run: Run, joined: Callable[..., Any]) -> None:
    async def check() -> None:
        case = await joined()
        await case.deliver(0, 1)
        await case.take()
        await case.receiver.close()
        await case.receiver.close()
        assert all(channel.is_closed for channel in case.link.channels)
        assert case.ear.gone == []
        assert case.publish.asked("publish") == []

    run(check())


def test_a_link_that_is_gone_while_giving_back_ends_the_receiver(run: Run, joined: Callable[..., Any]) -> None:
    async def check() -> None:
        case = await joined()
        await case.deliver(0, 1)
        [inbound] = await case.take()
        case.link.refuses = Unavailable("gone")
        await case.receiver.give_back(inbound.lane)
        with pytest.raises(Unavailable):
            await case.take()

    run(check())


def test_what_is_not_a_note_is_dropped_aloud(
    run: Run, joined: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Other programs can publish to the queue of notes: the lane goes on, with the notes that are ours."""

    async def check() -> None:
        case = await joined()
        case.link.there.add("orders:billing:0:notes")
        case.link.notes += [b"\xff", b"[1]", case.note(1, "2"), case.note(1, -2), b"[" * 100_000, case.note(1, 10**400)]
        case.link.notes.append(case.note(1, 2))
        await case.deliver(0, 1, redelivered=True)
        [inbound] = await case.take()
        assert inbound.attempts == 2
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 6
        assert "orders:billing:0:notes" in caplog.text

    run(check())


def test_a_queue_that_others_fill_with_notes_holds_up_nothing(
    run: Run, joined: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        case = await joined()
        case.link.there.add("orders:billing:0:notes")
        case.link.notes += [case.note(1, 2), *[case.note(2, 1)] * 500]
        await case.deliver(0, 1, redelivered=True)
        [inbound] = await case.take()
        assert inbound.attempts == 2
        assert case.link.notes == []
        assert "more than 100 notes" in caplog.text

    run(check())


def test_another_message_of_the_same_source_and_id_has_starts_of_its_own(run: Run, joined: Callable[..., Any]) -> None:
    async def check() -> None:
        case = await joined()
        case.link.there.add("orders:billing:0:notes")
        case.link.notes.append(case.note(1, 3))
        forged = case.kit.delivery(1, redelivered=True)
        forged.header.properties.message_id = "another program's"
        await case.lane(0).callback(forged)
        await case.deliver(0, 1, redelivered=True)
        assert [inbound.attempts for inbound in await case.take()] == [0, 3]

    run(check())

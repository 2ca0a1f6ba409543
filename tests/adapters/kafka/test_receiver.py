"""The receiver on a fake consumer: lanes, notes, rebalances, commits."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors as kafka_errors
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from anybroker.adapter import Commit, Inbound, Lane
from anybroker.errors import LeaseLost, Unavailable
from anybroker_kafka.closing import Closing
from anybroker_kafka.receiver import KafkaReceiver
from anybroker_kafka.wire import Wire

Run = Callable[[Any], Any]
Open = Callable[..., Any]
ONE, TWO, INLET = TopicPartition("orders", 1), TopicPartition("orders", 2), TopicPartition("orders.billing.retry", 1)


class Case:
    """A receiver that has joined."""

    def __init__(self, kit: SimpleNamespace, fakes: Any, timeout: float, drain: float) -> None:
        self.kit = kit
        self.consumer = fakes.FakeConsumer()
        self.offsets = fakes.FakeOffsets()
        self.listener = kit.Listener()
        self.closing = Closing()
        self.receiver = KafkaReceiver(
            self.consumer,
            "orders.billing",
            self.offsets,
            Wire(),
            self.listener,
            itertools.count(1),
            self.closing,
            timeout=timeout,
            drain=drain,
        )

    async def assign(self, *tps: TopicPartition) -> None:
        await self.receiver.on_partitions_assigned(set(tps))

    async def revoke(self) -> None:
        await self.receiver.on_partitions_revoked(set())

    async def receive(self, limit: int = 100, lanes: Any = None, timeout: float = 0.01) -> list[Inbound]:
        return list(await self.receiver.receive(limit, lanes=lanes, timeout=timeout))


@pytest.fixture
def opened(kit: SimpleNamespace, fakes: Any) -> Open:
    @asynccontextmanager
    async def open_one(timeout: float = 5.0, drain: float = 5.0) -> AsyncIterator[Case]:
        case = Case(kit, fakes, timeout, drain)
        await case.receiver.start(("orders", "orders.billing.retry"))
        yield case
        await case.receiver.close()
        await case.closing.finish(1)
        assert case.consumer.stopped

    return open_one


def positions(inbounds: list[Inbound]) -> list[tuple[str, int]]:
    return [(inbound.lane.name, inbound.position) for inbound in inbounds]


def test_lanes_come_with_their_notes_and_start_where_the_notes_belong(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            case.offsets.commits = {ONE: OffsetAndMetadata(7, "note"), INLET: OffsetAndMetadata(3, "")}
            case.consumer.put(case.kit.record(ONE, 5))  # fetched before the positions were set
            assert await case.receive() == []
            await case.assign(ONE, TWO, INLET)
            assert case.consumer.topics == ["orders", "orders.billing.retry"]
            assert {lane.name: note for lane, note in case.listener.lanes.items()} == {
                "orders/1": "note", "orders/2": "", "orders.billing.retry/1": "",
            }  # fmt: skip
            assert {lane.epoch for lane in case.listener.lanes} == {1}
            assert case.consumer.positions == {ONE: 7, TWO: 0, INLET: 3}
            case.consumer.put(case.kit.record(ONE, 7), case.kit.record(ONE, 8))
            assert positions(await case.receive()) == [("orders/1", 7), ("orders/1", 8)]

    run(check())


def test_only_lanes_with_room_are_asked(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            await case.assign(ONE, TWO)
            one, two = case.listener.lane("orders/1"), case.listener.lane("orders/2")
            case.consumer.put(case.kit.record(ONE, 0), case.kit.record(TWO, 0))
            assert positions(await case.receive(lanes=[two])) == [("orders/2", 0)]
            asked = len(case.consumer.asked)
            assert await case.receive(lanes=[]) == []
            assert await case.receive(lanes=[Lane("orders/1", 99)]) == []
            assert len(case.consumer.asked) == asked, "no partitions would mean all"
            assert positions(await case.receive(lanes=[one])) == [("orders/1", 0)]

    run(check())


def test_a_later_receive_takes_up_what_an_earlier_one_did_not_wait_for(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            await case.assign(ONE, TWO)
            two = case.listener.lane("orders/2")
            assert await case.receive() == []
            case.consumer.put(*(case.kit.record(ONE, at) for at in range(5)), case.kit.record(TWO, 0))
            await case.consumer.returned.wait()
            assert positions(await case.receive(lanes=[two])) == [("orders/2", 0)]
            assert positions(await case.receive(limit=2)) == [("orders/1", 0), ("orders/1", 1)]
            case.consumer.put(case.kit.record(ONE, 5))
            assert positions(await case.receive(limit=9)) == [("orders/1", 2), ("orders/1", 3), ("orders/1", 4)]
            assert positions(await case.receive()) == [("orders/1", 5)]

    run(check())


def test_stop_lets_a_waiting_receive_return(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            await case.assign(ONE)
            waiting = asyncio.create_task(case.receive(timeout=60))
            await case.consumer.waiting.wait()
            await case.receiver.stop()
            async with asyncio.timeout(1):
                assert await waiting == []
            case.consumer.put(case.kit.record(ONE, 0))
            assert await case.receive() == []
            one = case.listener.lane("orders/1")
            assert await case.receiver.settle([Commit(one, 1, "")]) == [None]

    run(check())


def test_a_rebalance_settles_first_and_forgets_what_was_polled(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            await case.assign(ONE, TWO)
            old = case.listener.lane("orders/1")
            assert await case.receive() == []
            case.consumer.put(case.kit.record(ONE, 0), case.kit.record(ONE, 1))
            await case.consumer.returned.wait()  # the poll has them now
            results: list[Any] = []

            async def settle(lanes: Any) -> None:
                assert await case.receive() == [], "nothing comes while lanes are on their way"
                results.extend(await case.receiver.settle([Commit(old, 1, "n")]))

            case.listener.on_revoked = settle
            await case.revoke()
            assert results == [None]
            assert case.consumer.commits == [{ONE: OffsetAndMetadata(1, "n")}]
            assert isinstance((await case.receiver.settle([Commit(old, 2, "")]))[0], LeaseLost)
            case.offsets.commits = {ONE: OffsetAndMetadata(1, "n")}
            await case.assign(ONE)
            new = case.listener.lane("orders/1")
            assert new.epoch > old.epoch
            assert list(case.listener.lanes) == [new]
            case.consumer.put(case.kit.record(ONE, 1))
            inbounds = await case.receive()
            assert [(inbound.lane, inbound.position) for inbound in inbounds] == [(new, 1)]
            stale, fresh = await case.receiver.settle([Commit(old, 2, ""), Commit(new, 2, "")])
            assert isinstance(stale, LeaseLost)
            assert fresh is None
            assert case.consumer.commits[-1] == {ONE: OffsetAndMetadata(2, "")}

    run(check())


def test_receive_does_not_spin_on_a_poll_that_has_ended(
    run: Run, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = 0
    wait = asyncio.wait

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal turns
        turns += 1
        return await wait(*args, **options)

    async def check() -> None:
        async with opened() as case:
            await case.assign(ONE)
            assert await case.receive() == []
            case.consumer.put(case.kit.record(ONE, 0))
            await case.consumer.returned.wait()
            monkeypatch.setattr(asyncio, "wait", counted)
            assert await case.receive(lanes=[], timeout=0.05) == []
            assert turns < 3
            assert positions(await case.receive()) == [("orders/1", 0)]

    run(check())


def test_a_revoke_that_takes_too_long_loses_the_lanes(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened(drain=0.01) as case:
            await case.assign(ONE)
            one = case.listener.lane("orders/1")

            async def forever(lanes: Any) -> None:
                await asyncio.get_running_loop().create_future()

            case.listener.on_revoked = forever
            await case.revoke()
            assert case.listener.gone == [one]

    run(check())


@pytest.mark.parametrize("cause", [kafka_errors.UnknownMemberIdError(), kafka_errors.IllegalGenerationError()])
def test_a_member_that_was_put_out_loses_its_lanes_at_once(run: Run, opened: Open, cause: Exception) -> None:
    async def check() -> None:
        async with opened() as case:
            await case.assign(ONE, TWO)
            lanes = list(case.listener.lanes)
            case.consumer.commit_error = kafka_errors.CommitFailedError("too late")
            case.consumer.commit_error.__cause__ = cause
            results = await case.receiver.settle([Commit(lane, 1, "") for lane in lanes])
            assert [type(result) for result in results] == [LeaseLost, LeaseLost]
            assert case.listener.gone == lanes
            case.consumer.put(case.kit.record(ONE, 0))
            assert await case.receive() == []

    run(check())


def test_a_commit_during_a_rebalance_fails_and_can_be_repeated(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            await case.assign(ONE)
            one = case.listener.lane("orders/1")
            case.consumer.commit_error = kafka_errors.CommitFailedError("rebalance")
            case.consumer.commit_error.__cause__ = kafka_errors.RebalanceInProgressError()
            (result,) = await case.receiver.settle([Commit(one, 1, "")])
            assert isinstance(result, Unavailable)
            case.consumer.commit_error = None
            assert await case.receiver.settle([Commit(one, 1, "")]) == [None]

    run(check())


def test_a_commit_does_not_overtake_an_unanswered_one(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened(timeout=0.02) as case:
            await case.assign(ONE)
            one = case.listener.lane("orders/1")
            case.consumer.commit_gate = asyncio.Event()
            for position in (1, 2):
                (result,) = await case.receiver.settle([Commit(one, position, "")])
                assert isinstance(result, Unavailable)
            case.consumer.commit_gate.set()
            assert await case.receiver.settle([Commit(one, 3, "")]) == [None]
            assert [commit[ONE].offset for commit in case.consumer.commits] == [1, 3]

    run(check())


def test_an_unanswered_commit_ends_with_its_assignment(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened(timeout=0.02) as case:
            await case.assign(ONE)
            one = case.listener.lane("orders/1")
            case.consumer.commit_gate = asyncio.Event()
            await case.receiver.settle([Commit(one, 1, "")])
            await case.revoke()
            case.consumer.commit_gate.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert case.consumer.commits == []

    run(check())


@pytest.mark.parametrize("error", [kafka_errors.GroupAuthorizationFailedError("orders.billing"), ValueError("bad zip")])
def test_what_the_client_does_not_repair_is_raised(run: Run, opened: Open, error: Exception) -> None:
    async def check() -> None:
        async with opened() as case:
            await case.assign(ONE)
            case.consumer.error = error
            with pytest.raises(Unavailable) as caught:
                await case.receive()
            assert caught.value.__cause__ is case.consumer.error

    run(check())


def test_lanes_without_their_notes_are_not_taken(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            case.offsets.error = kafka_errors.GroupLoadInProgressError()
            waiting = asyncio.create_task(case.receive(timeout=60))
            await asyncio.sleep(0)
            await case.assign(ONE)
            with pytest.raises(Unavailable):
                await waiting
            assert not case.listener.lanes

    run(check())


def test_a_refusal_by_the_group_is_raised_although_nothing_is_fetched(
    run: Run, kit: SimpleNamespace, fakes: Any
) -> None:
    """aiokafka keeps the reason for the next getmany, and without lanes there is none."""

    async def check() -> None:
        reasons: list[BaseException] = []
        case = Case(kit, fakes, 5.0, 5.0)
        receiver = KafkaReceiver(
            case.consumer, "orders.billing", case.offsets, Wire(), case.listener, itertools.count(1), case.closing,
            timeout=5.0, drain=5.0, refused=reasons.append, watch=0.01,
        )  # fmt: skip
        refusal = case.consumer.refusal = kafka_errors.InvalidSessionTimeoutError()
        await receiver.start(("orders", "orders.billing.retry"))
        with pytest.raises(Unavailable, match=r"joining as a member of 'orders.billing'.*session.timeout") as raised:
            await receiver.receive(1, lanes=None, timeout=5.0)
        assert (raised.value.__cause__, reasons) == (refusal, [refusal])
        await receiver.close()
        await case.closing.finish(1)

    run(check())


def test_joined_returns_as_soon_as_the_group_has_answered(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            case.consumer.refusal = kafka_errors.InconsistentGroupProtocolError()
            with pytest.raises(Unavailable, match="another assignment strategy"):
                await case.receiver.joined()
        async with opened() as case:
            waiting = asyncio.create_task(case.receiver.joined())
            await case.assign(ONE)
            await asyncio.wait_for(waiting, 5.0)

    run(check())

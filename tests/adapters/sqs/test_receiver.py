"""The receiver on a stand-in for SQS: polls, settlements, leases, notes, and what a leaving member gives back."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError

from anybroker.adapter import Ack, Commit, Inbound, Lane, Release
from anybroker.errors import LeaseLost, Unavailable
from anybroker_sqs.notes import Notes
from anybroker_sqs.queue import Queue
from anybroker_sqs.receiver import SqsReceiver
from anybroker_sqs.wire import Wire

LEASE = 6
HIDE = "change_message_visibility_batch"
DELETE = "delete_message_batch"


def document(number: int) -> str:
    return json.dumps({"specversion": "1.0", "id": str(number), "source": "/s", "type": "t"})


class Case:
    """A member of the group whose queue is ``orders``."""

    def __init__(self, aws: Any, kit: SimpleNamespace, *, pollers: int = 4, wait: int = 1) -> None:
        self.aws = aws
        self.client = aws.client
        self.kit = kit
        self.ear = kit.Ear()
        lane = Lane("orders/1", 1)
        self.queue = Queue(aws, "orders", Notes(aws, "notes"), Wire(), lane, LEASE)
        self.receiver = SqsReceiver(self.queue, lane, self.ear, aws.pool, wait=wait, pollers=pollers)

    def arrive(self, *numbers: int, **options: Any) -> None:
        """Put messages into the queue."""
        waiting = self.client.waiting.setdefault("orders", deque())
        attributes = options.pop("attributes", None)
        for number in numbers:
            waiting.append(self.kit.received(document(number), attributes, id=f"m{number}", **options))

    async def take(self, count: int, limit: int = 100) -> list[Inbound]:
        found: list[Inbound] = []
        async with asyncio.timeout(10):
            while len(found) < count:
                found += await self.receiver.receive(min(limit, count - len(found)), lanes=None, timeout=1.0)
        return found

    def settled(self, request: str) -> list[tuple[str, int | None]]:
        """What was asked of which message, in all such requests."""
        return [
            (entry["ReceiptHandle"].removeprefix("handle of "), entry.get("VisibilityTimeout"))
            for parameters in self.client.of(request)
            for entry in parameters["Entries"]
        ]

    async def poll_began(self) -> None:
        """One more poll is at the client."""
        assert await asyncio.to_thread(self.client.polls_began.acquire, timeout=10)

    async def more_than_asked_for(self, numbers: Sequence[int]) -> list[Inbound]:
        """Have a poll bring these when the core has room for one only: the others stay in the buffer."""
        self.client.polls_end.clear()
        assert await self.receiver.receive(len(numbers), lanes=None, timeout=0.01) == []
        self.arrive(*numbers)
        self.client.polls_end.set()
        return list(await self.receiver.receive(1, lanes=None, timeout=10))

    def polls(self) -> list[dict[str, Any]]:
        return [each for each in self.client.of("receive_message") if each["QueueUrl"] == "orders"]


def ids(batch: Any) -> list[str]:
    return [inbound.event.id for inbound in batch]


@pytest.fixture
def case(aws: Any, kit: SimpleNamespace) -> Any:
    return lambda **options: Case(aws, kit, **options)


def test_messages_come_in_order_on_one_lane(case: Any) -> None:
    async def main() -> None:
        run = case(pollers=1)  # without message groups, SQS promises no order between polls that are side by side
        run.arrive(*range(25))
        batch = await run.take(25)
        assert ids(batch) == [str(number) for number in range(25)]
        assert [inbound.position for inbound in batch] == list(range(1, 26))
        assert run.ear.held == [batch[0].lane]
        poll = run.polls()[0]
        assert (poll["VisibilityTimeout"], poll["WaitTimeSeconds"]) == (LEASE, 1)
        await run.receiver.close()

    asyncio.run(main())


def test_no_more_than_was_asked_for(case: Any) -> None:
    async def main() -> None:
        run = case()
        run.arrive(*range(30), group="a")
        batch = await run.receiver.receive(3, lanes=None, timeout=5)
        assert ids(batch) == ["0", "1", "2"]
        assert max(poll["MaxNumberOfMessages"] for poll in run.polls()) <= 3
        await run.receiver.settle([Ack(inbound) for inbound in batch])
        assert ids(await run.receiver.receive(100, lanes=None, timeout=5))[0] == "3"
        await run.receiver.close()

    asyncio.run(main())


def test_polls_become_more_while_they_are_full_and_one_when_there_is_nothing(case: Any) -> None:
    async def main() -> None:
        run = case(pollers=3)
        run.arrive(*range(30))
        await run.take(10)
        for wanted in (2, 3, 3):  # one full poll has ended before; then two, then three
            run.client.polls_end.clear()
            began = len(run.polls())
            assert await run.receiver.receive(100, lanes=None, timeout=0.01) == []
            while len(run.polls()) - began < wanted:
                await run.poll_began()
            assert len(run.polls()) - began == wanted
            run.arrive(*range(100, 100 + 10 * wanted))
            run.client.polls_end.set()
            await run.take(10 * wanted)
        await run.receiver.close()

    asyncio.run(main())


def test_polls_that_fail_for_a_moment_change_nothing_about_what_is_held(
    case: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr("anybroker_sqs.receiver._BETWEEN_FAILURES", 0.05)
        run = case()
        run.arrive(1)
        (held,) = await run.take(1)
        run.client.raises = kit.refusal("ServiceUnavailable", "ReceiveMessage", 503)
        began = len(run.polls())
        assert await run.receiver.receive(10, lanes=None, timeout=0.3) == []
        assert 2 <= len(run.polls()) - began <= 8, "again and again, and not all the time"
        run.client.raises = None
        assert await run.receiver.settle([Ack(held)]) == [None]
        run.arrive(2)
        assert len(await run.take(1)) == 1
        await run.receiver.close()

    asyncio.run(main())


def test_polls_that_fail_for_a_lease_end_the_receiver(
    case: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr("anybroker_sqs.receiver._BETWEEN_FAILURES", 0.05)
        run = case()
        run.queue.lease = 0.3
        run.client.raises = kit.refusal("ServiceUnavailable", "ReceiveMessage", 503)
        with pytest.raises(Unavailable) as caught:
            await run.receiver.receive(10, lanes=None, timeout=5)
        assert caught.value.__cause__ is run.client.raises
        await run.receiver.close()

    asyncio.run(main())


def test_acks_are_deleted_and_releases_given_back(case: Any) -> None:
    async def main() -> None:
        run = case()
        run.arrive(*range(14))
        batch = await run.take(14)
        settlements = [*(Ack(inbound) for inbound in batch[:12]), Release(batch[12], 0), Release(batch[13], 0)]
        assert await run.receiver.settle(settlements) == [None] * 14
        assert sorted(len(each["Entries"]) for each in run.client.of(DELETE)) == [2, 10]
        assert sorted(run.settled(DELETE)) == sorted((f"m{number}", None) for number in range(12))
        assert run.settled(HIDE) == [("m12", 0), ("m13", 0)]
        again = await run.receiver.settle([Ack(batch[0]), Release(batch[13], 1)])
        assert [type(result) for result in again] == [LeaseLost, LeaseLost]
        with pytest.raises(TypeError):
            await run.receiver.settle([Commit(batch[0].lane, 1, "")])
        await run.receiver.close()
        assert len(run.settled(HIDE)) == 2, "nothing is left to give back"

    asyncio.run(main())


def test_each_settlement_has_its_own_result(case: Any, kit: SimpleNamespace) -> None:
    async def main() -> None:
        run = case()
        run.arrive(*range(3))
        batch = await run.take(3)
        run.client.failed = {
            "0": {"Code": "ReceiptHandleIsInvalid", "Message": "old", "SenderFault": True},
            "2": {"Code": "InternalError", "Message": "later", "SenderFault": False},
        }
        results = await run.receiver.settle([Ack(inbound) for inbound in batch])
        assert [type(result) for result in results] == [LeaseLost, type(None), Unavailable]
        run.client.failed = {}
        run.arrive(3)
        (last,) = await run.take(1)
        run.client.raises = kit.refusal("ServiceUnavailable", "DeleteMessageBatch", 503)
        (result,) = await run.receiver.settle([Ack(last)])
        assert isinstance(result, Unavailable)
        await run.receiver.close()

    asyncio.run(main())


def test_credentials_that_cannot_be_refreshed_are_no_exception_of_settle(case: Any) -> None:
    async def main() -> None:
        run = case()
        run.arrive(0, 1)
        batch = await run.take(2)
        run.client.raises = RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired.")
        results = await run.receiver.settle([Ack(batch[0]), Release(batch[1], 1)])
        assert [type(result) for result in results] == [Unavailable, Unavailable]
        run.client.raises = None
        await run.receiver.close()

    asyncio.run(main())


def test_what_waits_in_the_buffer_behind_a_lost_lease_is_given_up_with_it(case: Any) -> None:
    async def main() -> None:
        run = case()
        run.client.polls_end.clear()
        assert await run.receiver.receive(3, lanes=None, timeout=0.01) == []
        for number, group in enumerate("aab"):
            run.arrive(number, group=group)
        run.client.polls_end.set()
        batch = list(await run.receiver.receive(1, lanes=None, timeout=10))
        run.client.failed = {"0": {"Code": "AWS.SimpleQueueService.MessageNotInflight", "Message": "old"}}
        assert [type(result) for result in await run.receiver.extend(batch)] == [LeaseLost]
        run.client.failed = {}
        assert ids(await run.take(1, limit=1)) == ["2"]
        assert run.settled(HIDE)[3:] == [("m1", 0)]
        await run.receiver.close()

    asyncio.run(main())


def test_what_follows_what_goes_back_from_the_buffer_goes_with_it(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        run = case()
        run.client.polls_end.clear()
        assert await run.receiver.receive(4, lanes=None, timeout=0.01) == []
        for number, group in enumerate("aaba"):
            run.arrive(number, group=group)
        run.client.polls_end.set()
        batch = list(await run.receiver.receive(1, lanes=None, timeout=10))
        loop = asyncio.get_running_loop()
        real = loop.time
        run.client.failed = {"1": {"Code": "InternalError", "Message": "later", "SenderFault": False}}
        monkeypatch.setattr(loop, "time", lambda: real() + LEASE / 4)
        assert await run.receiver.extend(batch) == [None]
        run.client.failed = {}
        monkeypatch.setattr(loop, "time", lambda: real() + LEASE / 2 + 0.5)
        assert ids(await run.take(1, limit=1)) == ["2"]
        assert run.settled(HIDE)[4:] == [("m1", 0), ("m3", 0)]
        await run.receiver.close()

    asyncio.run(main())


def test_leases_are_extended_in_tens_with_what_waits_in_the_buffer(case: Any) -> None:
    async def main() -> None:
        run = case()
        run.arrive(*range(10, 22))
        batch = await run.take(12)
        batch += await run.more_than_asked_for([0, 1, 2])
        assert await run.receiver.extend(batch) == [None] * 13
        assert sorted(len(each["Entries"]) for each in run.client.of(HIDE)) == [5, 10]
        hidden = dict(run.settled(HIDE))
        assert hidden == dict.fromkeys([f"m{number}" for number in (*range(10, 22), 0, 1, 2)], LEASE)
        await run.receiver.settle([Ack(batch[0])])
        assert isinstance((await run.receiver.extend(batch))[0], LeaseLost)
        await run.receiver.close()

    asyncio.run(main())


def test_what_follows_a_lost_lease_in_its_message_group_is_given_up_with_it(case: Any) -> None:
    async def main() -> None:
        run = case()
        for number, group in enumerate("aababa"):
            run.arrive(number, group=group)
        batch = await run.take(6)
        run.client.failed = {"1": {"Code": "MessageNotInflight", "Message": "old", "SenderFault": True}}
        results = await run.receiver.extend(batch)
        assert [isinstance(result, LeaseLost) for result in results] == [False, True, False, True, False, True]
        assert run.settled(HIDE)[6:] == [("m3", 0), ("m5", 0)]
        run.client.failed = {}
        settled = await run.receiver.settle([Ack(inbound) for inbound in batch])
        assert [isinstance(result, LeaseLost) for result in settled] == [False, True, False, True, False, True]
        await run.receiver.close()

    asyncio.run(main())


@pytest.mark.parametrize("first", ["settle", "extend"])
def test_what_is_settled_while_its_lease_is_extended_is_not_lost(case: Any, first: str) -> None:
    async def main() -> None:
        run = case()
        for number in range(2):
            run.arrive(number, group="a")
        batch = await run.take(2)
        run.client.gate.clear()
        run.client.failed = {"0": {"Code": "ReceiptHandleIsInvalid", "Message": "old", "SenderFault": True}}
        calls = {"settle": lambda: run.receiver.settle([Ack(batch[0])]), "extend": lambda: run.receiver.extend(batch)}
        tasks = {}
        for name in sorted(calls, key=lambda name: name != first):
            tasks[name] = asyncio.create_task(calls[name]())
            assert await asyncio.to_thread(run.client.began.acquire, timeout=10)
        if first == "settle":
            run.client.failed = {}
        run.client.gate.set()
        assert await tasks["extend"] == [None, None]
        await tasks["settle"]
        assert {seconds for _, seconds in run.settled(HIDE)} == {LEASE}, "nothing was given back"
        await run.receiver.close()

    asyncio.run(main())


def test_what_lay_in_the_buffer_for_half_a_lease_goes_back(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        run = case()
        (first,) = await run.more_than_asked_for([0, 1, 2])
        loop = asyncio.get_running_loop()
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + LEASE / 2 + 1)
        run.arrive(3)
        assert ids(await run.receiver.receive(1, lanes=None, timeout=10)) == ["3"]
        assert sorted(run.settled(HIDE)) == [("m1", 0), ("m2", 0)]
        assert await run.receiver.settle([Ack(first)]) == [None]
        await run.receiver.close()

    asyncio.run(main())


def test_what_may_not_be_handled_yet_is_hidden_until_then(case: Any) -> None:
    async def main() -> None:
        run = case()

        def at(seconds: float) -> dict[str, str]:
            return {"anybroker": json.dumps({"anybroker-not-before": str(time.time() + seconds)})}

        run.arrive(0, attributes=at(100.5))
        run.arrive(1, attributes=at(43_100))
        run.arrive(2, attributes=at(0.5))
        run.arrive(3, attributes=at(-5))
        run.arrive(4, attributes={"anybroker": '{"anybroker-not-before": "soon"}'})
        assert ids(await run.take(3)) == ["2", "3", "4"]
        assert run.settled(HIDE) == [("m0", 100), ("m1", 43_000)]
        await run.receiver.close()

    asyncio.run(main())


def test_attempts_are_noted_and_found_by_the_next_member(case: Any) -> None:
    async def main() -> None:
        run = case()
        run.arrive(*range(3))
        batch = await run.take(3)
        assert (
            await run.receiver.settle([Release(batch[0], 2), Release(batch[1], 0), Release(batch[2], 7)]) == [None] * 3
        )
        await run.receiver.close()
        assert json.loads(run.client.of("send_message")[0]["MessageBody"]) == {"m0": 2, "m2": 7}
        order = [request for request, _ in run.client.requests]
        assert order.index("send_message") < order.index(HIDE), "the note is there before the messages are"
        other = case()
        other.arrive(0, 1, 2, count=2)
        assert [inbound.attempts for inbound in await other.take(3)] == [2, 0, 7]
        await other.receiver.close()

    asyncio.run(main())


def test_what_others_write_among_the_notes_is_not_a_note(case: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        run = case()
        run.arrive(0, 1)
        batch = await run.take(2)
        assert await run.receiver.settle([Release(batch[0], 2), Release(batch[1], 7)]) == [None] * 2
        await run.receiver.close()
        junk = ["{", "[1]", "\ud800", '{"m0": "x"}', '{"m0": 1e400}', '{"m1": -1, "m0": 1000001}']
        junk.append(f'{{"m0": {"9" * 4000}}}')
        for body in junk:
            run.client.send_message(QueueUrl="notes", MessageBody=body)
        other = case()
        other.arrive(0, 1, count=2)
        assert [inbound.attempts for inbound in await other.take(2)] == [2, 7]
        await other.receiver.close()

    asyncio.run(main())
    assert len([record for record in caplog.records if "not one of our notes" in record.getMessage()]) == 1


def test_without_notes_nobody_waits_for_any(case: Any) -> None:
    async def main() -> None:
        run = case()
        run.arrive(0, count=2)
        (inbound,) = await run.take(1)
        assert (inbound.attempts, inbound.deliveries) == (0, 2)
        assert len(run.client.of("receive_message")) == len(run.polls())
        await run.receiver.close()

    asyncio.run(main())


def test_a_note_that_cannot_be_written_holds_up_nothing(case: Any, kit: SimpleNamespace) -> None:
    async def main() -> None:
        run = case()
        run.arrive(0)
        (inbound,) = await run.take(1)

        def refuse(**_: Any) -> None:
            raise kit.refusal("AccessDenied", "CreateQueue", 403)

        run.client.create_queue = refuse
        assert await run.receiver.settle([Release(inbound, 3)]) == [None]
        assert run.settled(HIDE) == [("m0", 0)]
        await run.receiver.close()

    asyncio.run(main())


def test_a_leaving_member_gives_back_what_it_has_and_what_still_comes(case: Any) -> None:
    async def main() -> None:
        run = case()
        run.arrive(0)
        (first,) = await run.take(1)
        receiving = asyncio.create_task(run.receiver.receive(10, lanes=None, timeout=30))
        await asyncio.sleep(0)
        run.arrive(1, 2)
        await run.receiver.stop()
        assert await receiving == ()
        assert await run.receiver.receive(1, lanes=None, timeout=30) == ()
        assert await run.receiver.settle([Ack(first)]) == [None]
        await run.receiver.close()
        taken = 2 - len(run.client.waiting["orders"])
        assert len(run.settled(HIDE)) == taken
        await run.receiver.close()

    asyncio.run(main())


def test_close_gives_back_what_was_not_settled(case: Any) -> None:
    async def main() -> None:
        run = case()
        run.arrive(*range(12))
        await run.take(12)
        await run.receiver.close()
        assert sorted(run.settled(HIDE)) == sorted((f"m{number}", 0) for number in range(12))

    asyncio.run(main())


def test_pollers_side_by_side_keep_the_order_of_each_message_group(case: Any) -> None:
    async def main() -> None:
        run = case()
        run.client.slow = random.Random(7)
        groups = "abcde"
        for number in range(200):
            run.arrive(number, group=groups[number // 40])  # SQS hands over many of a group at once
        came: dict[str, list[int]] = {group: [] for group in groups}
        async with asyncio.timeout(30):
            while sum(map(len, came.values())) < 200:
                batch = await run.receiver.receive(100, lanes=None, timeout=1)
                for inbound in batch:
                    came[inbound.key].append(int(inbound.event.id))
                assert not any(await run.receiver.settle([Ack(inbound) for inbound in batch]))
        assert all(numbers == sorted(numbers) for numbers in came.values())
        assert run.client.most_polls > 1, "none of this was side by side"
        await run.receiver.close()

    asyncio.run(main())


def test_an_answer_later_than_the_lease_is_not_handed_out_behind_what_came_meanwhile(
    case: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of a poll, or the process, may stand still: others have had the messages by then."""

    async def main() -> None:
        run = case(wait=0)
        run.arrive(0, group="z")
        (full,) = await run.take(1, limit=1)  # a full poll: from now on two at once
        await run.receiver.settle([Ack(full)])
        assert run.client.handed_over.acquire(blocking=False)
        late = run.client.answers_end = threading.Event()
        run.arrive(3, group="a")
        assert await run.receiver.receive(2, lanes=None, timeout=0.01) == []
        assert await asyncio.to_thread(run.client.handed_over.acquire, timeout=10)
        run.client.answers_end = run.client.polls_end  # the others are answered at once
        run.client.expire()
        run.arrive(13, group="a")
        came = await run.receiver.receive(100, lanes=None, timeout=10)
        assert ids(came) == ["3", "13"]
        assert await run.receiver.settle([Ack(inbound) for inbound in came]) == [None, None]
        monkeypatch.setattr("anybroker_sqs.receiver.monotonic", lambda: time.monotonic() + LEASE)
        late.set()
        assert ids(await run.receiver.receive(100, lanes=None, timeout=0.2)) == []
        assert run.settled(HIDE) == [], "it may be another member's"
        assert "later than the lease" in caplog.text
        await run.receiver.close()

    asyncio.run(main())


THROTTLED = {"Code": "RequestThrottled", "Message": "slow down", "SenderFault": True}


def test_one_failed_entry_of_ten_is_still_ours_and_can_be_settled_again(case: Any) -> None:
    async def main() -> None:
        run = case()
        run.arrive(*range(10), group="a")
        batch = await run.take(10)
        run.client.failed = {"4": THROTTLED}
        results = await run.receiver.settle([Ack(inbound) for inbound in batch])
        assert [type(result) for result in results] == [type(None)] * 4 + [Unavailable] + [type(None)] * 5
        run.client.failed = {}
        assert await run.receiver.extend([batch[4]]) == [None]
        assert run.settled(HIDE) == [("m4", LEASE)]
        again = await run.receiver.settle([Ack(inbound) for inbound in batch])
        assert [type(result) for result in again] == [LeaseLost] * 4 + [type(None)] + [LeaseLost] * 5
        assert run.settled(DELETE)[10:] == [("m4", None)], "what is done is not asked for again"
        assert run.client.in_flight == {}
        await run.receiver.close()
        assert len(run.settled(HIDE)) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    "error",
    [("RequestThrottled", 403), ("ThrottlingException", 400), ("ServiceUnavailable", 503), ("ExpiredToken", 403)],
    ids=lambda error: error[0],
)
def test_while_sqs_puts_off_everything_what_is_held_stays_ours(case: Any, kit: SimpleNamespace, error: Any) -> None:
    async def main() -> None:
        run = case()
        run.arrive(*range(20), group="a")
        batch = await run.take(10)
        run.client.raises = kit.refusal(error[0], status=error[1])
        settlements = [Ack(inbound) for inbound in batch[:9]] + [Release(batch[9], 1)]
        for _ in range(3):
            assert {type(result) for result in await run.receiver.settle(settlements)} == {Unavailable}
            assert {type(result) for result in await run.receiver.extend(batch)} == {Unavailable}
        run.client.raises = None
        assert await run.receiver.extend(batch) == [None] * 10
        assert await run.receiver.settle(settlements) == [None] * 10
        assert ids(await run.take(10)) == [str(number) for number in range(10, 20)]
        await run.receiver.close()

    asyncio.run(main())


def test_a_lost_answer_to_a_delete_is_no_lost_lease(case: Any, kit: SimpleNamespace) -> None:
    """The message may be deleted: what follows in its message group goes on."""

    async def main() -> None:
        run = case()
        run.arrive(*range(3), group="a")
        batch = await run.take(3)
        run.client.raises = ReadTimeoutError(endpoint_url="http://x")
        (result,) = await run.receiver.settle([Ack(batch[0])])
        assert isinstance(result, Unavailable)
        run.client.raises = None
        run.client.failed = {"0": {"Code": "ReceiptHandleIsInvalid", "Message": "gone", "SenderFault": True}}
        assert await run.receiver.extend(batch) == [None] * 3
        run.client.failed = {}
        assert await run.receiver.settle([Ack(inbound) for inbound in batch]) == [None] * 3
        await run.receiver.close()
        assert {seconds for _, seconds in run.settled(HIDE)} == {LEASE}, "nothing was given back"

    asyncio.run(main())


def test_a_failed_delete_whose_lease_is_lost_then_takes_its_followers_along(case: Any) -> None:
    async def main() -> None:
        run = case()
        run.arrive(*range(3), group="a")
        batch = await run.take(3)
        run.client.failed = {"0": THROTTLED}
        assert isinstance((await run.receiver.settle([Ack(batch[0])]))[0], Unavailable)
        run.client.failed = {"0": {"Code": "MessageNotInflight", "Message": "old", "SenderFault": True}}
        assert [type(result) for result in await run.receiver.extend(batch)] == [LeaseLost] * 3
        run.client.failed = {}
        assert [type(result) for result in await run.receiver.settle([Ack(batch[0])])] == [LeaseLost]
        await run.receiver.close()

    asyncio.run(main())


def test_what_is_being_given_back_is_not_extended(case: Any) -> None:
    async def main() -> None:
        run = case()
        run.arrive(0)
        batch = await run.take(1)
        run.client.gate.clear()
        settling = asyncio.create_task(run.receiver.settle([Release(batch[0], 0)]))
        assert await asyncio.to_thread(run.client.began.acquire, timeout=10)
        assert await run.receiver.extend(batch) == [None]
        run.client.gate.set()
        assert await settling == [None]
        assert run.settled(HIDE) == [("m0", 0)]
        await run.receiver.close()

    asyncio.run(main())


def test_close_deletes_what_was_handled_and_does_not_give_it_back(case: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        run = case()
        run.arrive(*range(3))
        batch = await run.take(3)
        run.client.failed = {"0": THROTTLED, "1": THROTTLED}
        await run.receiver.settle([Ack(inbound) for inbound in batch[:2]])
        run.client.failed = {"1": THROTTLED}
        await run.receiver.close()
        assert run.settled(DELETE) == [("m0", None), ("m1", None)] * 2
        assert run.settled(HIDE) == [("m2", 0)]
        assert "1 handled messages could not be deleted" in caplog.text

    asyncio.run(main())


PASSING = [
    ("ExpiredToken", 403, "The security token included in the request is expired"),
    ("ExpiredTokenException", 400, "expired"),
    ("AWS.SimpleQueueService.OverLimit", 403, "Too many messages"),
    ("OverLimit", 403, "Too many messages"),
    ("RequestThrottled", 403, "Request is throttled."),
    ("InvalidSignatureException", 403, "Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z"),
    ("SignatureDoesNotMatch", 403, "Signature not yet current: 20260101T000000Z is still later than 2025"),
    ("RequestTimeTooSkewed", 403, "The difference between the request time and the current time is too large."),
    ("RequestExpired", 400, "Request has expired."),
    ("RequestTimeout", 408, "idle"),
    ("InternalFailure", 500, "oh"),
]


@pytest.mark.parametrize("code", PASSING, ids=lambda code: code[0])
def test_polls_that_are_refused_for_a_passing_reason_are_made_again(
    case: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: Any
) -> None:
    async def main() -> None:
        monkeypatch.setattr("anybroker_sqs.receiver._BETWEEN_FAILURES", 0.02)
        run = case()
        run.arrive(*range(5), group="a")
        held = await run.take(5)
        run.client.raises = kit.refusal(code[0], "ReceiveMessage", code[1], code[2])
        assert await run.receiver.receive(10, lanes=None, timeout=0.1) == []
        run.client.raises = None
        assert await run.receiver.settle([Ack(inbound) for inbound in held]) == [None] * 5
        run.arrive(5, group="a")
        assert ids(await run.take(1)) == ["5"]
        assert code[2] in caplog.text, "the reason is reported"
        await run.receiver.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "code",
    [
        ("AccessDenied", 403, "no"),
        ("AccessDeniedException", 400, "no"),
        ("AWS.SimpleQueueService.NonExistentQueue", 400, "The specified queue does not exist."),
        ("InvalidClientTokenId", 403, "The security token included in the request is invalid."),
        ("InvalidSignatureException", 403, "The request signature we calculated does not match the signature"),
    ],
    ids=lambda code: code[0],
)
def test_polls_that_only_a_person_can_help_end_the_receiver_at_once(case: Any, kit: SimpleNamespace, code: Any) -> None:
    async def main() -> None:
        run = case()
        run.client.raises = kit.refusal(code[0], "ReceiveMessage", code[1], code[2])
        with pytest.raises(Unavailable, match=code[2]):
            await run.receiver.receive(10, lanes=None, timeout=5)
        run.client.raises = None
        await run.receiver.close()

    asyncio.run(main())


def test_what_was_held_of_a_queue_that_is_gone_is_not_ours(case: Any, kit: SimpleNamespace) -> None:
    async def main() -> None:
        run = case()
        run.arrive(0)
        (inbound,) = await run.take(1)
        run.client.raises = kit.refusal("AWS.SimpleQueueService.NonExistentQueue", "DeleteMessageBatch")
        assert [type(result) for result in await run.receiver.settle([Ack(inbound)])] == [LeaseLost]
        run.client.raises = None
        await run.receiver.close()

    asyncio.run(main())


def test_settling_after_the_adapter_is_closed_raises_nothing(case: Any, aws: Any) -> None:
    async def main() -> None:
        run = case()
        run.arrive(0, 1)
        batch = await run.take(2)
        aws.pool.shutdown()
        results = await run.receiver.settle([Ack(batch[0]), Release(batch[1], 1)])
        assert [type(result) for result in results] == [Unavailable, Unavailable]
        await run.receiver.close()

    asyncio.run(main())

"""The publisher over a scripted sender: order, retries, overtaking, deadlines, cancellation, close."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.engine.scripted_adapter import run, until

from anybroker.adapter import (
    Outbound,
    Receipt,
    Report,
)
from anybroker.engine import trouble
from anybroker.engine.publisher import Publisher, Publishing
from anybroker.errors import BrokerError, PublishOutcomeUnknown, Rejected, StateError, Unavailable
from anybroker.event import Event
from anybroker.stats import PublishStats


class Scripted:
    """A sender that answers each event with what the script says for its number; None: no answer."""

    def __init__(self, script: Callable[[int, int], BrokerError | bool | None]) -> None:
        self.script = script
        self.batches: list[list[int]] = []
        self.tries: dict[int, int] = {}
        self.closed = False
        self.submitted = asyncio.Event()

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        self.batches.append([item.event.data for item in batch])  # type: ignore[union-attr]
        self.submitted.set()
        for item in batch:
            number = item.event.data  # type: ignore[union-attr]
            self.tries[number] = self.tries.get(number, 0) + 1
            result = self.script(number, self.tries[number])
            if result is True:
                report(item, Receipt(item.topic, str(number)))
            elif isinstance(result, BrokerError):
                report(item, result)

    async def close(self) -> None:
        self.closed = True


class Late(Scripted):
    """A sender that reports when the test says so."""

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        self.report, self.batch = report, batch
        self.submitted.set()


def publishing(number: int, key: str | None = "k") -> Publishing:
    return Publishing(Event.create(number, type="t", source="s", key=key), "topic", None, None, None, "")


def test_concurrent_publishes_become_one_batch_in_call_order() -> None:
    async def main() -> None:
        sender = Scripted(lambda number, tries: True)
        publisher = Publisher(sender, 5.0, PublishStats())
        receipts = await asyncio.gather(*(publisher.send(publishing(n)) for n in range(100)))
        assert sender.batches == [list(range(100))]
        assert [receipt.broker_id for receipt in receipts] == [str(n) for n in range(100)]
        await publisher.close(1.0)
        assert sender.closed

    run(main)


def test_unavailable_is_sent_again_under_the_same_id_and_in_order() -> None:
    async def main() -> None:
        stats = PublishStats()
        sender = Scripted(lambda number, tries: Unavailable("later") if tries < 3 else True)
        publisher = Publisher(sender, 5.0, stats)
        items = [publishing(n) for n in range(5)]
        ids = [item.event.id for item in items]  # type: ignore[union-attr]
        receipts = await asyncio.gather(*(publisher.send(item) for item in items))
        assert sender.batches == [list(range(5))] * 3
        assert [receipt.event.id for receipt in receipts if receipt.event] == ids
        assert (stats.published, stats.retried, stats.failed) == (5, 10, 0)
        await publisher.close(1.0)

    run(main)


def test_a_retry_never_overtakes_a_later_event_of_the_key() -> None:
    async def main() -> None:
        sender = Scripted(lambda number, tries: Unavailable("this one") if number == 0 else True)
        publisher = Publisher(sender, 5.0, PublishStats())
        first, later, other = publishing(0, "k"), publishing(1, "k"), publishing(2, "other")
        results = await asyncio.gather(*map(publisher.send, (first, later, other)), return_exceptions=True)
        assert isinstance(results[0], Unavailable)
        assert isinstance(results[1], Receipt)
        assert isinstance(results[2], Receipt)
        assert sender.tries[0] == 1
        await publisher.close(1.0)

    run(main)


def test_an_event_of_another_key_does_not_end_the_retries() -> None:
    async def main() -> None:
        sender = Scripted(lambda number, tries: Unavailable("x") if number == 0 and tries < 3 else True)
        publisher = Publisher(sender, 5.0, PublishStats())
        results = await asyncio.gather(publisher.send(publishing(0, "a")), publisher.send(publishing(1, "b")))
        assert [receipt.broker_id for receipt in results] == ["0", "1"]
        await publisher.close(1.0)

    run(main)


def test_a_failure_that_is_reported_after_the_deadline_is_counted_once() -> None:
    async def main() -> None:
        stats = PublishStats()
        sender = Late(lambda number, tries: None)
        publisher = Publisher(sender, 0.1, stats)
        with pytest.raises(PublishOutcomeUnknown):
            await publisher.send(publishing(7))
        sender.report(sender.batch[0], PublishOutcomeUnknown("the connection was lost"))
        assert (stats.failed, stats.unknown) == (1, 1)
        await publisher.close(1.0)

    run(main)


def test_no_confirmation_by_the_deadline_is_unknown_and_carries_the_event() -> None:
    async def main() -> None:
        publisher = Publisher(Scripted(lambda number, tries: None), 0.2, PublishStats())
        item = publishing(7)
        with pytest.raises(PublishOutcomeUnknown, match="by the publish deadline") as caught:
            await publisher.send(item)
        assert caught.value.event is item.event
        with pytest.raises(PublishOutcomeUnknown):
            await publisher.send(publishing(8), deadline=0.05)
        await publisher.close(0.1)

    run(main)


def test_unavailable_until_the_deadline_is_unavailable_with_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        refused = Unavailable("refused")
        publisher = Publisher(Scripted(lambda number, tries: refused), 0.3, PublishStats())
        with pytest.raises(Unavailable, match="not stored") as caught:
            await publisher.send(publishing(1))
        assert caught.value.__cause__ is refused
        assert "(last failure: refused)" in str(caught.value)
        await publisher.close(0.1)

    run(main)
    assert [record.getMessage() for record in caplog.records] == [
        "topic 'topic' does not accept an event now, trying again: refused"
    ]


def test_a_refusal_between_the_deadline_and_the_sweep_says_the_same_as_the_sweep() -> None:
    async def main() -> None:
        refused = Unavailable("refused")
        sender = Late(lambda number, tries: None)
        publisher = Publisher(sender, 5.0, PublishStats())
        item = publishing(1)
        sent = publisher.send(item, deadline=0.01)
        await sender.submitted.wait()
        await asyncio.sleep(0.02)
        sender.report(item, refused)
        with pytest.raises(
            Unavailable, match=r"by the publish deadline: not stored \(last failure: refused\)"
        ) as caught:
            await sent
        assert caught.value.__cause__ is refused
        await publisher.close(0.1)

    run(main)


def test_rejected_is_not_tried_again_and_fails_alone() -> None:
    async def main() -> None:
        sender = Scripted(lambda number, tries: Rejected("no") if number == 1 else True)
        publisher = Publisher(sender, 5.0, PublishStats())
        results = await asyncio.gather(*(publisher.send(publishing(n)) for n in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [Receipt, Rejected, Receipt]
        assert sender.tries[1] == 1
        await publisher.close(1.0)

    run(main)


def test_what_a_raising_submit_did_not_report_gets_its_error() -> None:
    class Broken(Scripted):
        async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
            report(batch[0], Receipt("topic", "0"))
            raise Rejected("the rest")

    async def main() -> None:
        publisher = Publisher(Broken(lambda number, tries: True), 5.0, PublishStats())
        results = await asyncio.gather(*(publisher.send(publishing(n)) for n in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [Receipt, Rejected, Rejected]
        await publisher.close(1.0)

    run(main)


def test_what_was_reported_before_submit_raised_is_sent_again_once() -> None:
    async def main() -> None:
        sender = Scripted(lambda number, tries: True if tries > 1 else Unavailable("later") if number == 1 else None)
        scripted = sender.submit

        async def raising(batch: Sequence[Outbound], report: Report, /) -> None:
            await scripted(batch, report)
            if len(sender.batches) == 1:
                raise Unavailable("the connection is lost")

        sender.submit = raising  # type: ignore[method-assign]
        publisher = Publisher(sender, 5.0, PublishStats())
        await asyncio.gather(*(publisher.send(publishing(n)) for n in (1, 2)))
        assert sender.batches == [[1, 2], [1, 2]]
        await publisher.close(1.0)

    run(main)


def test_an_adapters_bug_ends_its_batch_and_not_the_publisher() -> None:
    async def main() -> None:
        sender = Scripted(lambda number, tries: True)
        scripted = sender.submit

        async def broken(batch: Sequence[Outbound], report: Report, /) -> None:
            await scripted(batch, report)
            raise ValueError("year 33658 is out of range")

        sender.script = lambda number, tries: number != 1 or None
        sender.submit = broken  # type: ignore[method-assign]
        publisher = Publisher(sender, 5.0, PublishStats())
        with pytest.raises(PublishOutcomeUnknown) as caught:
            await publisher.send(publishing(1))
        assert isinstance(caught.value.__cause__, ValueError)
        sender.submit = scripted  # type: ignore[method-assign]
        assert (await publisher.send(publishing(2))).broker_id == "2"
        await publisher.close(1.0)

    run(main)


def test_cancelling_a_publish_leaves_the_others_alone() -> None:
    async def main() -> None:
        reports: list[tuple[Report, Outbound]] = []

        class Slow(Scripted):
            async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
                reports.extend((report, item) for item in batch)
                self.submitted.set()

        sender = Slow(lambda number, tries: None)
        publisher = Publisher(sender, 5.0, PublishStats())

        async def publish(number: int) -> Receipt:
            return await publisher.send(publishing(number))

        tasks = [asyncio.create_task(publish(n)) for n in range(2)]
        await sender.submitted.wait()
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        for report, item in reports:
            report(item, Receipt("topic", "x"))
        assert (await tasks[1]).broker_id == "x"
        assert publisher.in_flight == 0
        await publisher.close(1.0)

    run(main)


def test_close_waits_for_confirmations_then_refuses() -> None:
    async def main() -> None:
        stats = PublishStats()
        publisher = Publisher(Scripted(lambda number, tries: Unavailable("x") if tries == 1 else True), 5.0, stats)
        future = publisher.send(publishing(1))
        await publisher.close(2.0)
        assert future.done()
        assert future.result().broker_id == "1"
        with pytest.raises(StateError, match="after close"):
            publisher.send(publishing(2))

    run(main)


def test_close_ends_what_is_never_confirmed() -> None:
    async def main() -> None:
        publisher = Publisher(Scripted(lambda number, tries: None), 30.0, PublishStats())
        future = publisher.send(publishing(1))
        await publisher.close(0.1)
        with pytest.raises(PublishOutcomeUnknown):
            future.result()

    run(main)


def test_what_is_remembered_of_accepted_keys_is_bounded() -> None:
    async def main() -> None:
        publisher = Publisher(Scripted(lambda number, tries: True), 5.0, PublishStats())
        for first in range(0, 40_000, 4_000):
            await asyncio.gather(*(publisher.send(publishing(n, f"k{n}")) for n in range(first, first + 4_000)))
        assert len(publisher._accepted) <= 20_000
        await publisher.close(1.0)

    asyncio.run(main())  # takes as long as it takes


def to(topic: str, number: int, key: str | None = "k") -> Publishing:
    return Publishing(Event.create(number, type="t", source="s", key=key), topic, None, None, None, "")


def test_a_topic_that_fails_delays_no_other() -> None:
    async def main() -> None:
        sender = Scripted(lambda number, tries: Unavailable("full") if number < 1000 else True)
        publisher = Publisher(sender, 30.0, PublishStats())
        loop = asyncio.get_running_loop()
        failing = [publisher.send(to("full", number)) for number in range(5)]
        took: list[float] = []
        for number in range(1000, 1050):
            await asyncio.sleep(0.02)  # over many of the failing topic's waits
            began = loop.time()
            await publisher.send(to("healthy", number))
            took.append(loop.time() - began)
        assert sorted(took)[len(took) // 2] < 0.01
        assert max(took) < 0.05
        assert sender.tries[0] > 2
        for future in failing:
            future.cancel()
        await publisher.close(0.1)

    run(main)


def test_what_comes_meanwhile_of_a_failing_topic_stays_behind_what_failed() -> None:
    async def main() -> None:
        sender = Scripted(lambda number, tries: Unavailable("full") if number == 0 and tries < 4 else True)
        publisher = Publisher(sender, 5.0, PublishStats())
        futures = [publisher.send(to("t", 0))]
        await sender.submitted.wait()
        for number in range(1, 20):
            futures.append(publisher.send(to("t", number, f"k{number % 3}")))
            await asyncio.sleep(0.001)
        receipts = await asyncio.gather(*futures)
        assert [receipt.broker_id for receipt in receipts] == [str(n) for n in range(20)]
        accepted = [number for batch in sender.batches for number in batch]
        assert accepted.index(1) > 0
        assert [number for number in accepted if number][:19] == sorted(set(accepted) - {0})
        assert not publisher._failing  # nothing is kept of a topic that is well again
        await publisher.close(1.0)

    run(main)


def test_a_cancellation_out_of_the_adapter_does_not_end_publishing() -> None:
    async def main() -> None:
        class Stray(Scripted):
            async def submit(self, batch: Sequence[Outbound], report: Report) -> None:
                if not self.batches:
                    self.batches.append([])
                    raise asyncio.CancelledError
                await super().submit(batch, report)

        publisher = Publisher(Stray(lambda number, tries: True), 5.0, PublishStats())
        with pytest.raises(PublishOutcomeUnknown):
            await publisher.send(publishing(1))
        assert (await publisher.send(publishing(2))).broker_id == "2"
        await publisher.close(1.0)

    run(main)


class Hindered(Scripted):
    """A sender whose broker takes nothing."""

    hindrance = "the broker is low on disk"


def test_a_deadline_says_why_the_broker_takes_nothing() -> None:
    async def main() -> None:
        publisher = Publisher(Hindered(lambda number, tries: None), 0.05, PublishStats())
        assert publisher.hindrance == "the broker is low on disk"
        with pytest.raises(PublishOutcomeUnknown, match="the broker is low on disk"):
            await publisher.send(publishing(1))
        await publisher.close(1.0)

    run(main)


def test_a_deadline_during_another_try_says_why_the_one_before_failed() -> None:
    async def main() -> None:
        sender = Scripted(lambda number, tries: Unavailable("no leader") if tries == 1 else None)
        publisher = Publisher(sender, 1.0, PublishStats())
        with pytest.raises(PublishOutcomeUnknown, match=r"publish deadline \(the previous try: no leader\): it may be"):
            await publisher.send(publishing(1))
        await publisher.close(0.1)

    run(main)


class ByHand:
    """A sender whose answers the test gives."""

    def __init__(self) -> None:
        self.sent: list[Outbound] = []
        self.report: Report | None = None
        self.hang = False
        self.error: PublishOutcomeUnknown | None = None

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        self.report = report
        self.sent += batch
        if self.error is not None:
            raise self.error
        if self.hang:
            await asyncio.Event().wait()

    def answer(self, item: Outbound, result: Any = None) -> None:
        assert self.report is not None
        self.report(item, result or Receipt(item.topic, "1"))

    async def close(self) -> None:
        pass


def test_a_publish_ends_by_its_deadline_while_the_sender_hangs_on_an_earlier_one() -> None:
    async def main() -> None:
        sender = ByHand()
        sender.hang = True
        publisher = Publisher(sender, 0.2, PublishStats())
        with pytest.raises(PublishOutcomeUnknown):
            await publisher.send(publishing(1))
        await asyncio.sleep(0.15)  # the last look at the deadlines found nothing in flight
        async with asyncio.timeout(2):
            with pytest.raises(Unavailable):
                await publisher.send(publishing(2))
        await publisher.close(0)

    run(main)


def test_each_unknown_outcome_carries_its_own_event() -> None:
    async def main() -> None:
        sender = ByHand()
        sender.error = PublishOutcomeUnknown("connection lost")
        publisher = Publisher(sender, 5, PublishStats())
        items = [publishing(number) for number in range(3)]
        results = await asyncio.gather(*map(publisher.send, items), return_exceptions=True)
        assert [getattr(result, "event", None) for result in results] == [item.event for item in items]
        await publisher.close(0)

    run(main)


def test_a_retry_waits_for_the_outcome_of_a_later_event_of_its_key() -> None:
    async def main() -> None:
        sender = ByHand()
        publisher = Publisher(sender, 5, PublishStats())
        first, second, other = publishing(1), publishing(2), publishing(3, "other")
        futures = [publisher.send(item) for item in (first, second, other)]
        await until(lambda: len(sender.sent) == 3)
        sender.answer(first, Unavailable("its turn was refused"))
        sender.answer(other, Unavailable("too"))
        await until(lambda: len(sender.sent) >= 4, "what may be sent again is")
        assert first not in sender.sent[3:]
        sender.answer(second)
        sender.answer(other)
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(results[0], Unavailable)
        assert isinstance(results[1], Receipt)
        assert first not in sender.sent[3:]
        await publisher.close(0)

    run(main)


def test_a_confirmation_out_of_order_does_not_hide_the_latest_one() -> None:
    async def main() -> None:
        sender = ByHand()
        publisher = Publisher(sender, 5, PublishStats())
        items = [publishing(number) for number in range(3)]
        futures = [publisher.send(item) for item in items]
        await until(lambda: len(sender.sent) == 3)
        sender.answer(items[2])
        sender.answer(items[0])
        sender.answer(items[1], Unavailable("no"))
        async with asyncio.timeout(5):
            results = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(results[1], Unavailable)
        assert len(sender.sent) == 3
        await publisher.close(0)

    run(main)


def test_what_is_confirmed_ends_the_problem_at_once() -> None:
    """Not a second later, when somebody looks: ``bus.problems`` and ``/ready`` say what is true now."""

    async def main() -> None:
        now = False
        sender = Scripted(lambda number, tries: True if now else None)
        stats = PublishStats()
        publisher = Publisher(sender, 30.0, stats)
        silent = publisher.send(publishing(1))
        await sender.submitted.wait()
        for _ in range(6):
            assert publisher.problem is None
            publisher.look()
        assert publisher.problem == "nothing was confirmed for more than 5 s"
        now = True
        await publisher.send(publishing(2))
        assert publisher.problem is None
        assert not silent.done(), "it may still be on its way"
        await publisher.close(0.01)
        assert isinstance(silent.exception(), PublishOutcomeUnknown)

    run(main)


def test_a_topic_that_accepts_an_event_ends_the_problem_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "AWAY_AFTER", 0.2)

    async def main() -> None:
        away = True
        publisher = Publisher(
            Scripted(lambda number, tries: Unavailable("away") if away else True), 30.0, PublishStats()
        )
        sent = publisher.send(publishing(1))
        await asyncio.sleep(0.3)
        assert publisher.problem is None, "nobody has looked"
        publisher.look()
        assert publisher.problem == "the topic 'topic' accepts no events: away"
        away = False
        await sent
        assert publisher.problem is None
        await publisher.close(1.0)

    run(main)

"""The sender on a fake producer: partitions, order, batches, and each way in which a batch may end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors as kafka_errors
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.protocol.produce import ProduceRequest

from anybroker.adapter import Outbound, Receipt
from anybroker.errors import BrokerError, EventTooLarge, PublishOutcomeUnknown, Rejected, Unavailable
from anybroker_kafka.closing import Closing
from anybroker_kafka.producers import Producers, keep_refusals
from anybroker_kafka.sender import KafkaSender
from anybroker_kafka.wire import Wire

Run = Callable[[Any], Any]


class Case:
    """An open sender, and short words for what the tests do to it."""

    def __init__(self, kit: SimpleNamespace, deadline: float) -> None:
        self.kit = kit
        self.kafka = kit.FakeKafka()
        self.reports = kit.Reports()
        self.closing = Closing()
        producers = Producers(self.kafka.make_producer, self.closing, deadline=deadline, connect_timeout=5)
        self.sender = KafkaSender(producers, self.kafka, Wire(), 100_000)

    def outbounds(
        self, *ids: str, key: str | None = "k", topic: str = "orders", group: str | None = None
    ) -> list[Outbound]:
        return [Outbound(self.kit.event(id, key), topic, group) for id in ids]

    async def submit(self, *ids: str, **options: Any) -> None:
        await self.sender.submit(self.outbounds(*ids, **options), self.reports)

    async def sent(self, count: int) -> None:
        await self.kafka.news.until(lambda: len(self.kafka.sent) >= count)

    def types(self) -> dict[str, type]:
        return {id: type(result) for id, result in self.reports.results.items()}


Open = Callable[..., Any]


@pytest.fixture
def opened(kit: SimpleNamespace) -> Open:
    @asynccontextmanager
    async def open_one(deadline: float = 5.0) -> AsyncIterator[Case]:
        case = Case(kit, deadline)
        yield case
        await case.sender.close()
        await case.closing.finish(1)

    return open_one


def test_keys_go_where_the_java_client_sends_them(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            keys = [f"customer-{number}" for number in range(50)] + ["é", "x" * 300]
            for number, key in enumerate(keys):
                await case.submit(f"{number}", key=key)
            await case.reports.have(len(keys))
            partitioner = DefaultPartitioner()
            where = {id: tp.partition for tp, batch, _ in case.kafka.sent for id in batch.ids}
            for number, key in enumerate(keys):
                assert where[f"{number}"] == partitioner(key.encode(), [0, 1, 2, 3], [0, 1, 2, 3])

    run(check())


def test_a_receipt_names_topic_partition_and_offset(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            await case.submit("1", "2")
            await case.submit("3", group="billing")
            await case.reports.have(3)
            partition = case.kafka.sent[0][0].partition
            assert {id: receipt.broker_id for id, receipt in case.reports.results.items()} == {
                "1": f"orders/{partition}/10",
                "2": f"orders/{partition}/11",
                "3": f"orders.billing.retry/{partition}/10",
            }

    run(check())


def test_events_without_a_key_share_a_batch_and_take_turns(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            for number in range(4):
                await case.submit(f"{number}a", f"{number}b", key=None)
            await case.reports.have(8)
            assert sorted(tp.partition for tp, _, _ in case.kafka.sent) == [0, 1, 2, 3]
            assert all(len(batch.records) == 2 for _, batch, _ in case.kafka.sent)

    run(check())


def test_one_batch_of_a_partition_is_under_way_and_others_go_on(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            case.kafka.answer = None
            case.kafka.batch_room = 2
            await case.submit("1", "2", "3", "4", "5")
            await case.sent(1)
            await case.submit("6", key="another")
            await case.sent(2)
            assert case.kafka.sent[1][0].partition != case.kafka.sent[0][0].partition
            for at, ids in ((0, ["1", "2"]), (2, ["3", "4"]), (3, ["5"])):
                await case.sent(at + 1)
                assert case.kafka.sent[at][1].ids == ids
                case.kafka.sent[at][2].set_result(SimpleNamespace(offset=at))
            await case.reports.have(5)
            assert case.reports.order == ["1", "2", "3", "4", "5"]
            case.kafka.sent[1][2].set_result(SimpleNamespace(offset=0))

    run(check())


def test_an_unknown_topic_and_a_large_event_fail_alone(run: Run, opened: Open, kit: SimpleNamespace) -> None:
    async def check() -> None:
        async with opened() as case:
            large = Outbound(kit.event("large", "k", "x" * 95_000), "orders")
            fits = Outbound(kit.event("fits", "k", "x" * 91_000), "orders")
            dead = Outbound(kit.event("dead", "k", "x" * 95_000), "orders", reserve=0)
            missing = case.outbounds("2", topic="missing")
            batch = [*case.outbounds("1"), large, fits, dead, *missing, *case.outbounds("3")]
            await case.sender.submit(batch, case.reports)
            await case.reports.have(6)
            assert case.types() == {
                "1": Receipt, "large": EventTooLarge, "fits": Receipt, "dead": Receipt, "2": Rejected, "3": Receipt,
            }  # fmt: skip
            assert "'missing'" in str(case.reports.results["2"])
            assert case.reports.results["large"].limit == 100_000 - 8192

    run(check())


def test_what_kafka_refuses_fails_alone_and_the_rest_keeps_its_order(run: Run, opened: Open) -> None:
    def answer(batch: Any) -> int | Exception:
        return kafka_errors.MessageSizeTooLargeError() if "bad" in batch.ids else 0

    async def check() -> None:
        async with opened() as case:
            case.kafka.answer = answer
            await case.submit("1", "2", "bad", "3", "4")
            await case.reports.have(5)
            assert case.reports.order == ["1", "2", "bad", "3", "4"]
            assert {id for id, kind in case.types().items() if kind is Receipt} == {"1", "2", "3", "4"}
            assert case.types()["bad"] is EventTooLarge
            assert len(case.kafka.producers) == 3, "each refusal leaves a hole in a producer's sequence"
            await case.kafka.news.until(lambda: len(case.kafka.ended) >= 2)
            assert case.kafka.ended == case.kafka.producers[:2]

    run(check())


@pytest.mark.parametrize(
    "error", [kafka_errors.OutOfOrderSequenceNumber(), kafka_errors.ProducerFenced(), kafka_errors.UnknownProducerId()]
)
def test_a_broken_sequence_is_unknown_and_the_next_producer_works(run: Run, opened: Open, error: Exception) -> None:
    async def check() -> None:
        async with opened() as case:
            case.kafka.answer = lambda batch: error
            await case.submit("1", "2")
            await case.reports.have(2)
            assert set(case.types().values()) == {PublishOutcomeUnknown}
            assert len({id(result) for result in case.reports.results.values()}) == 2, "each caller has its own"
            case.kafka.answer = lambda batch: 0
            await case.submit("3")
            await case.reports.have(3)
            assert case.types()["3"] is Receipt
            assert len(case.kafka.producers) == 2

    run(check())


def test_a_batch_of_another_partition_ends_on_the_old_producer(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            case.kafka.answer = None
            await case.submit("1")
            await case.submit("2", key="another")
            await case.sent(2)
            case.kafka.sent[0][2].set_exception(kafka_errors.OutOfOrderSequenceNumber())
            await case.reports.have(1)
            assert not case.kafka.ended
            case.kafka.sent[1][2].set_result(SimpleNamespace(offset=5))
            await case.reports.have(2)
            assert case.types() == {"1": PublishOutcomeUnknown, "2": Receipt}

    run(check())


def test_without_an_answer_the_outcome_is_unknown_and_nothing_overtakes(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened(deadline=0.05) as case:
            case.kafka.answer = None
            await case.submit("1")
            await case.sent(1)
            await case.submit("2")
            await case.reports.have(2)
            assert case.types() == {"1": PublishOutcomeUnknown, "2": Unavailable}
            await case.submit("3")
            assert case.types()["3"] is Unavailable
            await case.submit("4", key="another")
            await case.sent(2)
            case.kafka.sent[1][2].set_result(SimpleNamespace(offset=0))
            await case.reports.have(4)
            assert case.types()["4"] is Receipt
            case.kafka.answer = lambda batch: 0
            case.kafka.sent[0][2].set_result(SimpleNamespace(offset=0))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await case.submit("5")
            await case.reports.have(5)
            assert case.types()["5"] is Receipt
            assert len(case.reports.results) == 5

    run(check())


def test_a_broker_that_is_away_is_unavailable_and_reached_again(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            case.kafka.down = kafka_errors.KafkaConnectionError("no")
            with pytest.raises(Unavailable) as caught:
                await case.submit("1")
            assert isinstance(caught.value.__cause__, kafka_errors.KafkaConnectionError)
            assert not case.reports.results
            case.kafka.down = None
            await case.submit("1")
            await case.reports.have(1)
            assert case.types() == {"1": Receipt}

    run(check())


def test_a_dead_producer_gives_everything_back(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            case.kafka.batch_room = 1
            case.kafka.broken = kafka_errors.ProducerFenced()
            await case.submit("1", "2", "3")
            await case.reports.have(3)
            assert case.types() == dict.fromkeys("123", Unavailable)
            case.kafka.broken = None
            await case.submit("4")
            await case.reports.have(4)
            assert case.types()["4"] is Receipt

    run(check())


def test_close_sends_what_was_handed_over(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            case.kafka.batch_room = 1
            await case.submit(*"123456")
            await case.sender.close()
            assert case.types() == dict.fromkeys("123456", Receipt)
            assert case.kafka.ended == case.kafka.producers
            with pytest.raises(Unavailable):
                await case.submit("7")
            await case.sender.close()

    run(check())


def test_a_cancelled_close_reports_what_is_left(run: Run, opened: Open) -> None:
    async def check() -> None:
        async with opened() as case:
            case.kafka.answer = None
            case.kafka.batch_room = 1
            await case.submit("1", "2")
            await case.sent(1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await case.sender.close()
            assert case.types() == {"1": PublishOutcomeUnknown, "2": Unavailable}
            await case.closing.finish(1)
            assert case.kafka.ended == case.kafka.producers
        assert all(issubclass(kind, BrokerError) for kind in case.types().values())

    run(check())


def test_a_refusal_is_kept_until_kafka_takes_a_batch(run: Run) -> None:
    codes = [kafka_errors.NotEnoughReplicasError.errno, 0]

    async def send(node: Any, request: Any) -> Any:
        return SimpleNamespace(topics=[("orders", [(3, codes.pop(0), 7)])])

    client = SimpleNamespace(send=send)
    refusals: dict[tuple[str, int], Any] = {}
    keep_refusals(client, refusals)
    request = ProduceRequest(None, -1, 1000, [])
    run(client.send(1, request))
    assert refusals == {("orders", 3): kafka_errors.NotEnoughReplicasError}
    run(client.send(1, request))
    assert refusals == {}

"""The sender on a stand-in for SNS and SQS: batches, order, limits, and each way in which a publish may end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import CredentialRetrievalError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError

from anybroker.adapter import RESERVED_BYTES, Foreign, Outbound, Receipt
from anybroker.errors import BrokerError, ConfigError, EventTooLarge, PublishOutcomeUnknown, Rejected, Unavailable
from anybroker_sqs.sender import SqsSender
from anybroker_sqs.topology import Destination
from anybroker_sqs.wire import Wire

ORDERS = Destination("arn:orders.fifo", True, True)
PLAIN = Destination("arn:plain", True, False)
INLET = Destination("url:orders.fifo", False, True)
PLAIN_INLET = Destination("url:plain", False, False)


class FakePlaces:
    """Four destinations; the topic ``missing`` is not there."""

    def __init__(self) -> None:
        self.looked = 0

    async def destination(self, topic: str, group: str | None) -> Destination:
        self.looked += 1
        found = {"orders": (ORDERS, INLET), "plain": (PLAIN, PLAIN_INLET)}.get(topic)
        if found is None:
            raise Rejected(f"no topic {topic!r}")
        return found[0] if group is None else found[1]


class Case:
    """A sender, and what it reported, by event id, in order."""

    def __init__(self, aws: Any, *, requests: int = 4, limit: int | None = 100_000) -> None:
        self.client = aws.client
        self.places = FakePlaces()
        self.results: dict[str, Receipt | BrokerError] = {}
        self.wanted = 0
        self.all_reported = asyncio.Event()
        places: Any = self.places
        self.sender = SqsSender(aws, places, Wire(), requests=requests, limit=limit)

    def report(self, outbound: Outbound, result: Receipt | BrokerError) -> None:
        id = "foreign" if isinstance(outbound.event, Foreign) else outbound.event.id
        assert id not in self.results, "reported twice"
        self.results[id] = result
        if len(self.results) == self.wanted:
            self.all_reported.set()

    async def submit(self, *batch: Outbound) -> None:
        self.wanted += len(batch)
        self.all_reported.clear()
        await self.sender.submit(batch, self.report)

    async def reported(self) -> dict[str, Receipt | BrokerError]:
        async with asyncio.timeout(10):
            await self.all_reported.wait()
        return self.results

    async def began(self) -> None:
        """One more request is at the client."""
        assert await asyncio.to_thread(self.client.began.acquire, timeout=10)

    def entries(self, name: str = "publish_batch") -> list[list[dict[str, Any]]]:
        """The entries of each request."""
        key = "PublishBatchRequestEntries" if name == "publish_batch" else "Entries"
        return [parameters[key] for parameters in self.client.of(name)]


@pytest.fixture
def case(aws: Any) -> Callable[..., Any]:
    @asynccontextmanager
    async def opened(**options: Any) -> AsyncIterator[Case]:
        case = Case(aws, **options)
        yield case
        async with asyncio.timeout(10):
            await case.sender.close()

    return opened


def test_a_batch_goes_in_tens_with_receipts(kit: SimpleNamespace, case: Any) -> None:
    async def main() -> None:
        async with case() as run:
            await run.submit(*(Outbound(kit.event(str(n), f"k{n}"), "orders") for n in range(25)))
            results = await run.reported()
            assert sorted(map(len, run.entries())) == [5, 10, 10]
            assert all(isinstance(result, Receipt) and result.broker_id for result in results.values())
            assert run.places.looked == 1
            entry = run.entries()[0][0]
            assert (entry["MessageGroupId"], len(entry["MessageDeduplicationId"])) == ("k0", 32)

    asyncio.run(main())


def test_events_of_one_key_are_in_one_request_at_a_time(kit: SimpleNamespace, case: Any) -> None:
    async def main() -> None:
        async with case() as run:
            run.client.gate.clear()
            await run.submit(*(Outbound(kit.event(f"a{n}", "a"), "orders") for n in range(12)))
            await run.submit(Outbound(kit.event("b0", "b"), "orders"))
            await run.began()
            await run.began()
            assert [entry["MessageGroupId"] for entries in run.entries() for entry in entries] == ["a"] * 10 + ["b"]
            run.client.gate.set()
            await run.reported()
        sent = [entry["Message"] for entries in run.entries() for entry in entries if entry["MessageGroupId"] == "a"]
        assert [n for n in range(12) if f'"id":"a{n}"' in sent[n]] == list(range(12))

    asyncio.run(main())


def test_without_order_requests_go_side_by_side_up_to_the_limit(kit: SimpleNamespace, case: Any) -> None:
    async def main() -> None:
        async with case(requests=3) as run:
            run.client.gate.clear()
            await run.submit(*(Outbound(kit.event(str(n), "k"), "plain") for n in range(45)))
            for _ in range(3):
                await run.began()
            run.client.gate.set()
            await run.reported()
            assert run.client.most_at_once == 3
            assert "MessageGroupId" not in run.entries()[0][0]

    asyncio.run(main())


def test_an_event_without_a_key_is_a_group_of_its_own(kit: SimpleNamespace, case: Any) -> None:
    async def main() -> None:
        async with case() as run:
            await run.submit(*(Outbound(kit.event(str(n)), "orders") for n in range(3)))
            await run.reported()
            groups = {entry["MessageGroupId"] for entry in run.entries()[0]}
            assert len(groups) == 3
            assert all(group.startswith("#") for group in groups)

    asyncio.run(main())


def test_the_inlet_is_the_groups_queue(kit: SimpleNamespace, case: Any) -> None:
    async def main() -> None:
        async with case() as run:
            later = time.time() + 100.5
            await run.submit(
                Outbound(kit.event("now", "k"), "orders", "g", hop="replay"),
                Outbound(kit.event("later", "k"), "orders", "g", not_before=later),
                Outbound(Foreign(b"\xff", key="k"), "orders", "g"),
            )
            await run.submit(
                Outbound(kit.event("plain", "k"), "plain", "g", not_before=later),
                Outbound(kit.event("long", "k"), "plain", "g", not_before=later + 5000),
            )
            await run.reported()
            fifo, plain = run.entries("send_message_batch")
            groups = {
                "later" if '"id":"later"' in each["MessageBody"] else n: each["MessageGroupId"]
                for n, each in enumerate(fifo)
            }
            assert groups.pop("later") != "k", "it would hold up its key"
            assert list(groups.values()) == ["k", "k"]
            assert not any("DelaySeconds" in entry for entry in fifo), "refused by a FIFO queue"
            assert [entry["DelaySeconds"] for entry in plain] == [100, 900]

    asyncio.run(main())


def test_what_is_too_large_fails_alone_and_batches_stay_below_the_limit(kit: SimpleNamespace, case: Any) -> None:
    async def main() -> None:
        async with case(limit=40_000) as run:
            sizes = {"0": 15_000, "1": 15_000, "big": 40_000, "2": 15_000}
            await run.submit(*(Outbound(kit.event(id, data="x" * size), "plain") for id, size in sizes.items()))
            results = await run.reported()
            assert [type(results[id]) for id in sizes] == [Receipt, Receipt, EventTooLarge, Receipt]
            assert sorted(map(len, run.entries())) == [1, 2]

    asyncio.run(main())


def test_what_binary_mode_cannot_carry_fails_alone(kit: SimpleNamespace, aws: Any) -> None:
    async def main() -> None:
        run = Case(aws)
        places: Any = run.places
        run.sender = SqsSender(aws, places, Wire("binary"), requests=4, limit=100_000)
        await run.submit(Outbound(kit.event("bad", data=b"\xff"), "plain"), Outbound(kit.event("good"), "plain"))
        results = await run.reported()
        assert isinstance(results["bad"], Rejected)
        assert isinstance(results["good"], Receipt)
        await run.sender.close()

    asyncio.run(main())


def test_entries_of_a_batch_fail_by_themselves(kit: SimpleNamespace, case: Any) -> None:
    async def main() -> None:
        async with case() as run:
            run.client.failed = {
                "1": {"Code": "InvalidParameter", "Message": "no", "SenderFault": True},
                "2": {"Code": "InternalError", "Message": "later", "SenderFault": False},
            }
            await run.submit(*(Outbound(kit.event(str(n)), "plain") for n in range(4)))
            results = await run.reported()
            assert [type(results[str(n)]) for n in range(4)] == [Receipt, Rejected, Unavailable, Receipt]

    asyncio.run(main())


def test_what_waits_behind_a_failed_event_of_its_key_does_not_overtake_it(kit: SimpleNamespace, case: Any) -> None:
    async def main() -> None:
        async with case() as run:
            run.client.gate.clear()
            await run.submit(*(Outbound(kit.event(f"a{n}", "a"), "orders") for n in range(13)))
            await run.began()
            run.client.failed = {"9": {"Code": "InternalError", "Message": "later", "SenderFault": False}}
            run.client.gate.set()
            results = await run.reported()
            assert [n for n in range(13) if isinstance(results[f"a{n}"], Unavailable)] == [9, 10, 11, 12]
            run.client.failed = {}
            await run.submit(Outbound(kit.event("next", "a"), "orders"))
            assert isinstance((await run.reported())["next"], Receipt)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (("AuthorizationError", 403), Rejected),
        (("InvalidParameter", 400), Rejected),
        (("NotFound", 404), Rejected),
        (("ThrottlingException", 400), Unavailable),
        (("Throttled", 429), Unavailable),
        (("ServiceUnavailable", 503), Unavailable),
        (("InternalFailure", 500), PublishOutcomeUnknown),
        (("InternalError", 500), PublishOutcomeUnknown),
        (("504", 504), PublishOutcomeUnknown),
        (("RequestThrottled", 403), Unavailable),
        (("ExpiredToken", 403), Unavailable),
        (("ExpiredTokenException", 400), Unavailable),
        (CredentialRetrievalError(provider="assume-role", error_msg="timed out"), Unavailable),
        (NoCredentialsError(), Rejected),
        (EndpointConnectionError(endpoint_url="http://x"), Unavailable),
        (ReadTimeoutError(endpoint_url="http://x"), PublishOutcomeUnknown),
    ],
)
def test_a_batch_that_fails_says_how(kit: SimpleNamespace, case: Any, error: Any, kind: type[BrokerError]) -> None:
    async def main() -> None:
        async with case() as run:
            run.client.raises = kit.refusal(error[0], status=error[1]) if isinstance(error, tuple) else error
            await run.submit(Outbound(kit.event("1"), "orders"), Outbound(kit.event("2"), "orders"))
            results = await run.reported()
            assert {type(result) for result in results.values()} == {kind}
            assert all(result.__cause__ is run.client.raises for result in results.values())
            run.client.raises = None
            await run.submit(Outbound(kit.event("3"), "orders"))
            assert isinstance((await run.reported())["3"], Receipt)
            assert run.places.looked == (2 if error == ("NotFound", 404) else 1), "what is gone is looked for again"

    asyncio.run(main())


def test_a_throttled_entry_may_be_sent_again_whosever_fault_aws_says_it_is(kit: SimpleNamespace, case: Any) -> None:
    async def main() -> None:
        async with case() as run:
            run.client.failed = {"0": {"Code": "RequestThrottled", "Message": "slow down", "SenderFault": True}}
            await run.submit(Outbound(kit.event("1"), "plain"))
            assert type((await run.reported())["1"]) is Unavailable

    asyncio.run(main())


def test_dead_letters_of_one_key_do_not_hide_each_other(kit: SimpleNamespace, case: Any) -> None:
    async def main() -> None:
        async with case() as run:
            await run.submit(*(Outbound(kit.event(str(n), "k"), "orders", hop="dead|g|0|1") for n in range(3)))
            await run.reported()
            entries = [entry for batch in run.entries() for entry in batch]
            assert len({entry["MessageGroupId"] for entry in entries}) == 3
            assert all(entry["MessageGroupId"] == f"#{entry['MessageDeduplicationId']}" for entry in entries)

    asyncio.run(main())


def test_a_missing_topic_fails_alone(kit: SimpleNamespace, case: Any) -> None:
    async def main() -> None:
        async with case() as run:
            await run.submit(Outbound(kit.event("1"), "missing"), Outbound(kit.event("2"), "orders"))
            results = await run.reported()
            assert isinstance(results["1"], Rejected)
            assert isinstance(results["2"], Receipt)

    asyncio.run(main())


def test_a_close_that_is_given_up_reports_what_was_not_sent_and_sends_it_no_more(
    kit: SimpleNamespace, aws: Any
) -> None:
    async def main() -> None:
        run = Case(aws, requests=1)
        run.client.gate.clear()
        await run.submit(*(Outbound(kit.event(str(n), "k"), "orders") for n in range(15)))
        await run.submit(*(Outbound(kit.event(f"plain {n}"), "plain") for n in range(15)))
        await run.began()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await run.sender.close()
        assert {type(result) for result in run.results.values()} == {Unavailable}
        assert len(run.results) == 20
        run.client.gate.set()
        await run.reported()
        assert [type(run.results[str(n)]) for n in range(10)] == [Receipt] * 10
        assert len(run.entries()) == 1

    asyncio.run(main())


def test_close_waits_for_what_was_handed_over(kit: SimpleNamespace, aws: Any) -> None:
    async def main() -> None:
        run = Case(aws, requests=1)
        run.client.gate.clear()
        await run.submit(*(Outbound(kit.event(str(n), "k"), "orders") for n in range(25)))
        await run.began()
        closing = asyncio.create_task(run.sender.close())
        await asyncio.sleep(0)
        assert not closing.done()
        run.client.gate.set()
        async with asyncio.timeout(10):
            await closing
        assert len(run.results) == 25
        await run.sender.close()
        with pytest.raises(Unavailable, match="closed"):
            await run.submit(Outbound(kit.event("late"), "orders"))

    asyncio.run(main())


def test_each_place_has_its_own_limit(kit: SimpleNamespace, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(f"{__name__}.PLAIN", Destination("arn:plain", True, False, 50_000))
        async with case(limit=None) as run:
            large = "x" * 60_000
            await run.submit(
                Outbound(kit.event("1", data=large), "orders"),
                Outbound(kit.event("2", data=large), "plain"),
                Outbound(kit.event("3", data=large), "plain", "g"),
            )
            results = await run.reported()
            assert [type(results[id]) for id in "123"] == [Receipt, EventTooLarge, Receipt]
            assert results["2"].limit == 50_000 - RESERVED_BYTES

    asyncio.run(main())


def test_events_whose_end_is_not_known_have_an_error_each(kit: SimpleNamespace, case: Any) -> None:
    """The core writes the event into it."""

    async def main() -> None:
        async with case() as run:
            run.client._batch = lambda *_: {"Successful": []}
            await run.submit(*(Outbound(kit.event(id), "orders") for id in "12"))
            results = await run.reported()
            assert {type(result) for result in results.values()} == {PublishOutcomeUnknown}
            assert results["1"] is not results["2"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (("ExpiredToken", 403, "expired"), Unavailable),
        (("RequestTimeTooSkewed", 403, "skew"), Unavailable),
        (("InvalidSignatureException", 403, "Signature expired: 1 is now earlier than 2"), Unavailable),
        (("AccessDenied", 403, "no"), Rejected),
    ],
)
def test_a_place_that_cannot_be_looked_up_now_is_asked_for_again(
    kit: SimpleNamespace, case: Any, monkeypatch: pytest.MonkeyPatch, code: Any, kind: type[BrokerError]
) -> None:
    async def main() -> None:
        async with case() as run:

            async def refuse(*_: Any) -> Any:
                raise ConfigError("keys", "refused") from kit.refusal(code[0], "GetTopicAttributes", code[1], code[2])

            with monkeypatch.context() as patch:
                patch.setattr(run.places, "destination", refuse)
                await run.submit(Outbound(kit.event("1"), "orders"))
            assert [type(result) for result in (await run.reported()).values()] == [kind]
            await run.submit(Outbound(kit.event("2"), "orders"))
            assert isinstance((await run.reported())["2"], Receipt)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        ("Invalid parameter: Message too long. Maximum size is 70000 bytes.", 70_000),
        ("One or more parameters are invalid. Reason: Message must be shorter than 70000 bytes.", 70_000),
        ("Invalid parameter: Message too long", 79_000),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_what_aws_refuses_for_its_size_is_too_large_and_its_limit_is_known_then(
    kit: SimpleNamespace, case: Any, monkeypatch: pytest.MonkeyPatch, said: str, limit: int, whole: bool
) -> None:
    """A dead letter is trimmed then, and sent again; it would be stuck if this were only a refusal."""

    async def main() -> None:
        monkeypatch.setattr("anybroker_sqs.sender.TOPIC_BYTES", 79_000)
        async with case() as run:
            if whole:
                run.client.raises = kit.refusal("InvalidParameter", "PublishBatch", 400, said)
            else:
                run.client.failed = {"0": {"Code": "InvalidParameter", "Message": said, "SenderFault": True}}
            large = kit.event("1", data="x" * 80_000)
            await run.submit(Outbound(large, "plain", hop="dead|1", reserve=0))
            refused = (await run.reported())["1"]
            assert isinstance(refused, EventTooLarge)
            assert refused.limit == limit
            assert refused.size > 80_000
            run.client.raises, run.client.failed = None, {}
            before = len(run.client.requests)
            await run.submit(Outbound(kit.event("2", data="x" * 80_000), "plain", hop="dead|2", reserve=0))
            assert isinstance((await run.reported())["2"], EventTooLarge)
            assert len(run.client.requests) == before, "not asked for again"

    asyncio.run(main())


def test_a_batch_that_is_too_large_together_goes_in_smaller_ones(kit: SimpleNamespace, case: Any) -> None:
    async def main() -> None:
        async with case(limit=None) as run:
            said = "Batch requests cannot be longer than 70000 bytes. You have sent 120000 bytes."
            run.client.raises = kit.refusal("BatchRequestTooLong", "PublishBatch", 400, said)
            events = [kit.event(id, data="x" * 40_000) for id in "12"]
            await run.submit(*(Outbound(event, "plain") for event in events))
            assert {type(result) for result in (await run.reported()).values()} == {Unavailable}
            run.client.raises = None
            again = [kit.event(id, data="x" * 40_000) for id in "34"]
            await run.submit(*(Outbound(event, "plain") for event in again))
            assert [type((await run.reported())[id]) for id in "34"] == [Receipt, Receipt]
            assert [len(each["PublishBatchRequestEntries"]) for each in run.client.of("publish_batch")] == [2, 1, 1]

    asyncio.run(main())

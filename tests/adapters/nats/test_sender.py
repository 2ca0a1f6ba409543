"""The sender on a fake client: order, subjects, and each way in which a publish may end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from anybroker.adapter import Foreign, Outbound, Receipt, slot_of
from anybroker.errors import BrokerError, EventTooLarge, PublishOutcomeUnknown, Rejected, Unavailable
from anybroker_nats import sender as module
from anybroker_nats.failures import FORBIDDEN, ApiError
from anybroker_nats.sender import NatsSender
from anybroker_nats.wire import Wire

Run = Callable[[Any], Any]
NOW = 1_800_000_000.0


class Case:
    """An open sender; the stream ``orders`` exists."""

    def __init__(self, kit: SimpleNamespace, schedules: bool = True, patience: float = 60.0) -> None:
        self.kit = kit
        self.link = kit.FakeLink()
        self.link.answers["STREAM.INFO.orders"] = {"config": {}}
        self.client = self.link.current
        self.results: dict[str, Receipt | BrokerError] = {}
        self.sender = NatsSender(self.link, Wire(), schedules, patience)

    def report(self, outbound: Outbound, result: Receipt | BrokerError) -> None:
        id = outbound.event.id  # type: ignore[union-attr]
        assert id not in self.results, "reported twice"
        self.results[id] = result

    async def submit(self, *ids: str, key: str | None = "k", topic: str = "orders", **options: Any) -> None:
        batch = [Outbound(self.kit.event(id, key), topic, **options) for id in ids]
        await self.sender.submit(batch, self.report)

    def answer(self, command: SimpleNamespace, data: bytes, headers: bytes | None = None) -> None:
        """What the server answers to one publish."""
        self.client.listeners["_INBOX.me.*"](command.reply.encode(), b"", data, headers)


@pytest.fixture
def case(kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Case]:
    monkeypatch.setattr(module, "time", lambda: NOW)
    return lambda **options: Case(kit, **options)


def test_a_batch_is_written_in_order_under_the_slot_of_its_key(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1", "2", key="customer-7")
        await this.submit("3", key=None)
        await this.submit("4", group="billing", key="customer-7")
        written = this.client.written()
        slot = slot_of("customer-7")
        assert [each.verb for each in written] == ["HPUB"] * 4
        assert [each.subject for each in written[:2]] == [f"orders.{slot}"] * 2
        assert written[2].subject in {f"orders.{slot}" for slot in range(64)}
        assert written[3].subject == f"orders.@.billing.{slot}"
        assert [f"ce-id: {n}\r\n".encode() in each.headers for n, each in enumerate(written, 1)] == [True] * 4
        assert len({each.reply for each in written}) == 4

    run(check())


def test_the_copy_id_tells_hops_apart(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        event = this.kit.event()
        batch = [Outbound(event, "orders"), Outbound(event, "orders"), Outbound(event, "orders", hop="replay")]
        await this.sender.submit(batch, lambda *_: None)
        ids = [each.headers.split(b"Nats-Msg-Id: ")[1][:32] for each in this.client.written()]
        assert ids == [outbound.deduplication_id().encode() for outbound in batch]
        assert ids[0] == ids[1] != ids[2]

    run(check())


def test_each_answer_is_one_result(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit(*"12345678")
        written = this.client.written()
        for command, data in zip(
            written,
            (
                b'{"stream":"orders","seq":7}',
                b'{"stream":"orders", "seq":8,"duplicate": true}',
                b'{"stream":"orders","domain":"hub","seq":9}',
                b'{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"seq":0}',
                b'{"error":{"code":400,"err_code":10060,"description":"no"},"stream":"orders","seq":0}',
                b'{"error":{"code":500,"err_code":10000,"description":"no"}}',
                b"what?",
                b'{"seq":4,"stream":"orders","value":"later servers say more"}',
            ),
            strict=True,
        ):
            this.answer(command, data)
        kinds = [type(this.results[id]) for id in "12345678"]
        unknown = PublishOutcomeUnknown
        assert kinds == [Receipt, Receipt, Receipt, Unavailable, Rejected, unknown, unknown, Receipt]
        first, copy, hub = (this.results[id] for id in "123")
        assert isinstance(first, Receipt)
        assert (first.broker_id, first.duplicate) == ("orders/7", False)
        assert isinstance(copy, Receipt)
        assert copy.duplicate
        assert isinstance(hub, Receipt)
        assert hub.broker_id == "orders/9"

    run(check())


def test_without_a_stream_the_event_is_rejected_alone(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        batch = [
            Outbound(this.kit.event(id), topic) for id, topic in (("1", "orders"), ("2", "missing"), ("3", "orders"))
        ]
        await this.sender.submit(batch, this.report)
        assert type(this.results["2"]) is Rejected
        assert "missing" in str(this.results["2"])
        assert len(this.client.written()) == 2

    run(check())


def test_a_stream_that_is_gone_is_looked_for_again(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1")
        (command,) = this.client.written()
        this.answer(command, b"", b"NATS/1.0 503\r\n\r\n")
        assert type(this.results["1"]) is Unavailable
        del this.link.answers["STREAM.INFO.orders"]
        await this.submit("2")
        assert type(this.results["2"]) is Rejected
        assert [operation for operation, _ in this.link.asked] == ["STREAM.INFO.orders"] * 2

    run(check())


def test_a_lost_connection_leaves_the_outcome_unknown(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1", "2")
        first, second = this.client.written()
        this.answer(first, b'{"stream":"orders","seq":1}')
        this.sender.lost()
        this.sender.lost()
        this.answer(second, b'{"stream":"orders","seq":2}')  # late
        assert [type(this.results[id]) for id in "12"] == [Receipt, PublishOutcomeUnknown]
        this.client.is_connected = False
        with pytest.raises(Unavailable):
            await this.submit("3")
        assert "3" not in this.results

    run(check())


def test_what_was_not_written_is_not_stored(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1")
        this.client.write = lambda data: False  # type: ignore[method-assign]
        with pytest.raises(Unavailable):
            await this.submit("2", "3")
        this.sender.lost()
        assert list(this.results) == ["1"]

    run(check())


def test_the_size_limit_counts_headers_and_is_told_before_the_wire(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        this.client.max_payload = 16_384
        await this.submit("1")
        (first,) = this.client.written()
        small = len(first.headers) + len(first.body)
        room = this.client.max_payload - 8192 - small
        for id, more in (("2", room), ("3", room + 1)):
            event = this.kit.event(id, "k", "data" + "x" * more)
            await this.sender.submit([Outbound(event, "orders")], this.report)
        assert len(this.client.written()) == 1
        assert list(this.results) == ["3"]
        refused = this.results["3"]
        assert isinstance(refused, EventTooLarge)
        assert refused.size == refused.limit + 1

    run(check())


def test_a_header_that_cannot_be_written_is_rejected_alone(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1", headers={"x": "a\r\nPUB orders.1 0"})
        await this.submit("2")
        assert list(this.results) == ["1"]
        assert type(this.results["1"]) is Rejected
        assert len(this.client.written()) == 1

    run(check())


def test_a_delay_is_a_schedule_with_the_slot_as_target(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1", not_before=NOW + 90.25, group="billing")
        await this.submit("2", not_before=NOW - 1)
        later, now = this.client.written()
        copy_id = later.headers.split(b"Nats-Msg-Id: ")[1][:32].decode()
        assert later.subject == f"orders.@.~at.{copy_id}"
        assert b"Nats-Schedule: @at 2027-01-15T08:01:30.250000Z\r\n" in later.headers
        assert f"Nats-Schedule-Target: orders.@.billing.{slot_of('k')}\r\n".encode() in later.headers
        assert now.subject == f"orders.{slot_of('k')}"
        assert b"Nats-Schedule" not in now.headers
        old = case(schedules=False)
        await old.submit("1", not_before=NOW + 90, headers={"anybroker-not-before": "x"})
        assert old.client.written()[0].subject == f"orders.{slot_of('k')}"

    run(check())


def test_a_full_window_waits_for_answers(
    run: Run, case: Callable[..., Case], until: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        monkeypatch.setattr(module, "_WINDOW", 2)
        this = case()
        submitting = asyncio.create_task(this.submit(*"1234"))
        for expected in (["1", "2"], ["3"], ["4"]):
            await until(lambda: this.client.data)
            written = this.client.written()
            assert [each.headers.split(b"ce-id: ")[1][:1].decode() for each in written] == expected
            this.answer(written[0], b'{"stream":"orders","seq":1}')
        await submitting
        waiting = asyncio.create_task(this.submit("5", "6"))
        await until(lambda: this.client.data)
        this.client.is_connected = False
        this.sender.lost()
        with pytest.raises(Unavailable):
            await waiting
        assert "6" not in this.results

    run(check())


def test_close_waits_for_the_answers_and_then_gives_up(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1", "2")
        first, second = this.client.written()
        closing = asyncio.create_task(this.sender.close())
        this.answer(first, b'{"stream":"orders","seq":1}')
        await asyncio.sleep(0)
        assert not closing.done()
        this.answer(second, b'{"stream":"orders","seq":2}')
        await closing
        await this.sender.close()
        assert [type(this.results[id]) for id in "12"] == [Receipt, Receipt]
        with pytest.raises(Unavailable):
            await this.submit("3")
        late = case()
        await late.submit("1")
        closing = asyncio.create_task(late.sender.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert type(late.results["1"]) is PublishOutcomeUnknown

    run(check())


def test_a_foreign_message_goes_as_it_came(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        foreign = Foreign(b"\xff", [("x-legacy", b"\xfe"), ("x-null", None)], "k")
        await this.sender.submit([Outbound(foreign, "orders", headers={"anybroker-reason": "a b"})], lambda *_: None)
        (written,) = this.client.written()
        assert written.body == b"\xff"
        assert b"x-legacy: \xfe\r\nx-null: \r\nanybroker-reason: a b\r\n" in written.headers

    run(check())


def test_what_is_never_answered_makes_room(
    run: Run, case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        monkeypatch.setattr(module, "_WINDOW", 2)
        this = case(patience=0.01)
        await this.submit("1", "2")
        await asyncio.wait_for(this.submit("3"), 5)
        assert {id: type(result) for id, result in this.results.items()} == dict.fromkeys("12", PublishOutcomeUnknown)
        this.answer(this.client.written()[-1], b'{"stream":"orders","seq":3}')
        assert isinstance(this.results["3"], Receipt)
        await this.sender.close()

    run(check())


def test_a_delay_outlasts_the_streams_age_and_has_an_end(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1", not_before=1e15)
        assert isinstance(this.results["1"], Rejected)
        await this.submit("2", not_before=NOW + 1e6)
        (command,) = this.client.written()
        assert b"\r\nNats-TTL: never\r\n" in command.headers

    run(check())


def test_headers_leave_room_for_a_dead_letter(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1", headers={"x-big": "x" * 60_000})
        assert isinstance(this.results["1"], EventTooLarge)
        await this.submit("2", headers={"x-big": "x" * 60_000}, reserve=0)
        assert len(this.client.written()) == 1

    run(check())


def test_a_connection_lost_within_a_batch_is_unknown_for_what_was_written(
    run: Run, case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        monkeypatch.setattr(module, "_WRITE", 1)
        this = case()
        write = this.client.write

        def once(data: bytes) -> bool:
            written = write(data)
            this.client.is_connected = False
            return written

        monkeypatch.setattr(this.client, "write", once)
        with pytest.raises(Unavailable):
            await this.submit("1", "2")
        assert {id: type(result) for id, result in this.results.items()} == {"1": PublishOutcomeUnknown}
        this.sender.lost()
        await this.sender.close()

    run(check())


def test_what_the_user_may_not_publish_is_rejected_with_the_servers_word(run: Run, case: Callable[..., Case]) -> None:
    """The server says it once for each event, in order; it gives no other answer."""

    async def check() -> None:
        this = case()
        await this.submit("1")
        await this.submit("2", key="other")
        await this.submit("3")
        await this.submit("4", group="g")
        await this.submit("5", not_before=NOW + 60)
        first, _, _, inlet, delayed = this.client.written()
        this.sender.refused(this.kit.violation(first.subject))
        assert list(this.results) == ["1"]
        assert isinstance(this.results["1"], Rejected)
        assert f'permissions violation for publish to "{first.subject}"' in str(this.results["1"])
        assert "orders.>" in str(this.results["1"])
        this.sender.refused(this.kit.violation(inlet.subject))
        this.sender.refused(this.kit.violation(delayed.subject))
        this.sender.refused(this.kit.violation(first.subject))
        this.sender.refused(this.kit.violation(first.subject))
        this.sender.refused(this.kit.violation("somewhere.else"))
        assert {id: type(result) for id, result in this.results.items()} == dict.fromkeys("1453", Rejected)
        await this.submit("6", key="other")
        this.client.is_connected = False
        this.sender.lost()
        assert [type(this.results[id]) for id in "26"] == [PublishOutcomeUnknown] * 2

    run(check())


def test_a_user_who_may_publish_and_not_ask_for_the_stream_publishes(run: Run, case: Callable[..., Case]) -> None:
    async def check() -> None:
        this = case()
        this.link.answers["STREAM.INFO.orders"] = ApiError({"code": FORBIDDEN, "description": "no permission"})
        await this.submit("1")
        (command,) = this.client.written()
        this.answer(command, b'{"stream":"orders","seq":1}')
        assert isinstance(this.results["1"], Receipt)

    run(check())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ({"code": 503, "err_code": 10077, "description": "maximum messages exceeded"}, "maximum messages exceeded"),
        ({"code": 503, "err_code": 10023, "description": "insufficient resources"}, "insufficient resources"),
    ],
)
def test_a_stream_without_room_says_so(run: Run, case: Callable[..., Case], error: dict[str, Any], reason: str) -> None:
    async def check() -> None:
        this = case()
        await this.submit("1")
        this.answer(this.client.written()[0], json.dumps({"error": error, "stream": "orders"}).encode())
        result = this.results["1"]
        assert isinstance(result, Unavailable)
        assert reason in str(result)
        assert "no more room" in str(result)

    run(check())


def test_a_topic_without_an_answer_does_not_hold_up_the_others(run: Run, case: Callable[..., Case]) -> None:
    """Its stream has no leader: the events of that topic alone are not handed over."""

    async def check() -> None:
        this = case()
        this.link.answers["STREAM.INFO.payments"] = ApiError({"code": 503, "description": "no leader"})
        events = [Outbound(this.kit.event(topic, "k"), topic) for topic in ("payments", "orders")]
        await this.sender.submit(events, this.report)
        (command,) = this.client.written()
        assert command.subject.startswith("orders.")
        assert isinstance(this.results["payments"], Unavailable)
        assert "no leader" in str(this.results["payments"])

    run(check())


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (ApiError({"code": 503, "description": "not available"}), "its stream says: not available"),
        (TimeoutError(), "does it have a leader?"),
        ({"config": {}}, "is its disk full?"),
        ({"cluster": {"leader": "a", "replicas": [{"offline": True}, {"offline": True}]}}, "1 of 3 servers"),
        ({"cluster": {"leader": "a", "replicas": [{"active": 2.1e9}, {"active": 3e9}]}}, "1 of 3 servers"),
        ({"cluster": {"leader": "a", "replicas": [{"active": 9e8}, {"active": 3e9}]}}, "is its disk full?"),
    ],
)
def test_what_is_never_answered_ends_with_what_the_stream_says(
    run: Run,
    case: Callable[..., Case],
    monkeypatch: pytest.MonkeyPatch,
    until: Run,
    caplog: pytest.LogCaptureFixture,
    state: Any,
    reason: str,
) -> None:
    """A server whose disk is full answers nothing to a publish, and everything else."""

    async def check() -> None:
        monkeypatch.setattr(module, "_SLOW", 0.01)
        this = case(patience=60.0)
        await this.submit("1")
        this.link.answers["STREAM.INFO.orders"] = state
        await until(lambda: this.sender._streams.reason("orders"))
        this.sender._patience = 0.0
        await asyncio.wait_for(this.sender.close(), 5)
        assert isinstance(this.results["1"], PublishOutcomeUnknown)
        assert reason in str(this.results["1"])
        assert "may this user" not in str(this.results["1"])

    run(check())
    said = [record.getMessage() for record in caplog.records if "not confirmed" in record.getMessage()]
    assert len(said) == 1
    assert reason in said[0]


def test_what_a_former_leader_never_confirmed_is_unknown_soon(
    run: Run, case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch, until: Run
) -> None:
    """Not only after a third of the deadline: the caller can publish it again. What the new leader has is confirmed."""

    async def check() -> None:
        monkeypatch.setattr(module, "_SLOW", 0.02)
        this = case(patience=60.0)
        this.link.answers["STREAM.INFO.orders"] = {"cluster": {"leader": "n1"}}
        await this.submit("1", "2")
        await until(lambda: sum(operation == "STREAM.INFO.orders" for operation, _ in this.link.asked) > 3)
        assert this.results == {}, "slow, by the same leader"
        this.link.answers["STREAM.INFO.orders"] = {"cluster": {"leader": "n2"}}
        await until(lambda: "1" in this.results)
        assert [type(this.results[id]) for id in "12"] == [PublishOutcomeUnknown] * 2
        assert "another leader now: n2" in str(this.results["1"])
        await this.submit("3")
        asked = len(this.link.asked)
        await until(lambda: len(this.link.asked) > asked + 3)
        assert "3" not in this.results, "handed to the new leader"
        this.answer(this.client.written()[-1], b'{"stream":"orders","seq":3}')
        assert isinstance(this.results["3"], Receipt)
        await this.sender.close()

    run(check())


@pytest.mark.parametrize(
    ("there", "reason"),
    [(1, "1 of 3 servers with it are up, too few to elect one"), (2, "2 of 3 servers with it are up")],
)
def test_a_stream_whose_servers_have_no_leader_is_handed_nothing(
    run: Run, case: Callable[..., Case], there: int, reason: str
) -> None:
    async def check() -> None:
        this = case()
        servers = [{"current": at < there, "active": 0} for at in range(3)]  # the one that answers is among them
        this.link.answers["STREAM.INFO.orders"] = {"cluster": {"replicas": servers}}
        await this.sender.submit([Outbound(this.kit.event("1"), "orders")], this.report)
        assert this.client.written() == []
        assert isinstance(this.results["1"], Unavailable)
        assert str(this.results["1"]).endswith(f"its stream has no leader: {reason}")

    run(check())

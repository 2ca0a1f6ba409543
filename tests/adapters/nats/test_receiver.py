"""The receiver on a fake client: pulls, take-over, settlements, leases, and the ways in which a lane is lost."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from anybroker.adapter import Ack, Inbound, Lane, Release, SubscriptionSpec
from anybroker.errors import LeaseLost, Unavailable
from anybroker_nats.client import RawClient
from anybroker_nats.failures import Refusal, refusal_of
from anybroker_nats.receiver import NatsReceiver, _expires
from anybroker_nats.settings import NatsSettings
from anybroker_nats.topology import ack_wait
from anybroker_nats.wire import Wire

Run = Callable[[Any], Any]
EVENT = (("ce-specversion", "1.0"), ("ce-source", "/s"), ("ce-type", "t"), ("ce-partitionkey", "k"))


class Case:
    """A receiver of one lane, or of an unordered group, and the server's side of it."""

    def __init__(
        self,
        kit: SimpleNamespace,
        *,
        ordered: bool = True,
        confirm: bool = False,
        lease: float = 60.0,
        lanes: int = 1,
    ) -> None:
        self.kit = kit
        self.link = kit.FakeLink()
        self.client = self.link.current
        self.ear = kit.Ear()
        self.name = "g@0" if ordered else "g"
        self.consumer_sequence = 0
        self.stream_sequence = 0
        self.unacknowledged = 0
        self.waiting = 0
        self.pending = 0
        self.members = 1
        self.pinned = ""
        self.ack_wait = lease
        self.notes: dict[str, int] = {}
        self.link.answers[f"CONSUMER.INFO.orders.{self.name}"] = lambda _: self.info()
        self.link.answers["CONSUMER.INFO.orders.g@members"] = lambda _: {"num_waiting": self.members}
        self.link.answers["CONSUMER.CREATE.orders.g@members"] = {}
        self.link.answers[f"CONSUMER.UNPIN.orders.{self.name}"] = {}
        self.link.answers["STREAM.INFO.orders"] = lambda _: {"state": {"subjects": self.notes}, "config": {}}
        spec = SubscriptionSpec("orders", "g", ordered, 4, "new", 10)
        many = lanes if ordered else 0
        self.receiver = NatsReceiver(self.link, Wire(), spec, self.ear, itertools.count(1), many, lease, confirm)
        self.under_way: asyncio.Task[Any] | None = None

    def info(self) -> dict[str, Any]:
        return {
            "config": {"ack_wait": self.ack_wait / 3 * 1e9, "priority_timeout": self.ack_wait * 1e9},
            "num_ack_pending": self.unacknowledged,
            "num_waiting": self.waiting,
            "num_pending": self.pending,
            "delivered": {"consumer_seq": self.consumer_sequence, "stream_seq": self.stream_sequence},
            "priority_groups": [{"group": "lane", "pinned_client_id": self.pinned}],
        }

    def deliver(self, *sequences: int, pin: str = "p1", deliveries: int = 1, pending: bool = True) -> None:
        for sequence in sequences:
            self.consumer_sequence += 1
            self.stream_sequence = max(sequence, self.stream_sequence)
            self.unacknowledged += pending
            reply = f"$JS.ACK.orders.{self.name}.{deliveries}.{sequence}.{self.consumer_sequence}.1.0"
            headers = self.kit.block(("ce-id", str(sequence)), *EVENT, pin=pin if "@" in self.name else "")
            self.client.listeners["_INBOX.me.d.>"](b"orders.1", reply.encode(), b"{}", headers)

    def status(self, line: str, generation: int = 0, suffix: str = "") -> None:
        subject = f"_INBOX.me.d.0.{generation}{suffix}"
        self.client.listeners["_INBOX.me.d.>"](subject.encode(), b"", b"", f"NATS/1.0 {line}\r\n\r\n".encode())

    async def receive(self, limit: int = 100, timeout: float = 0.5) -> list[Inbound]:
        return list(await self.receiver.receive(limit, lanes=None, timeout=timeout))

    def pulls(self) -> list[dict[str, Any]]:
        found = [each for each in self.client.written() if ".MSG.NEXT." in each.subject]
        return [json.loads(each.body) for each in found if not each.subject.endswith("@members")]

    def acks(self) -> list[tuple[int, bytes]]:
        """Stream sequence and word of each acknowledgement since the last look."""
        found = [each for each in self.client.written() if each.subject.startswith("$JS.ACK")]
        return [(int(each.subject.split(".")[5]), each.body) for each in found]


@pytest.fixture
def case(kit: SimpleNamespace) -> Callable[..., Any]:
    async def make(**options: Any) -> Case:
        this = Case(kit, **options)
        await this.receiver.start()
        return this

    return make


def ids(batch: list[Inbound]) -> list[str]:
    return [inbound.event.id for inbound in batch]  # type: ignore[union-attr]


def test_one_pull_at_a_time_and_no_more_than_the_prefetch(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case()
        assert await this.receive(timeout=0.01) == []
        (pull,) = this.pulls()
        assert (pull["batch"], pull["group"], "id" in pull) == (10, "lane", False)
        this.deliver(*range(1, 9))
        assert len(await this.receive()) == 8
        assert this.pulls() == [], "two may still come"
        this.deliver(9, 10)
        assert ids(await this.receive()) == ["9", "10"]
        (pull,) = this.pulls()
        assert (pull["batch"], pull["id"]) == (10, "p1")
        this.status("408 Request Timeout")
        await this.receive(timeout=0.01)
        assert len(this.pulls()) == 1

    run(check())


def test_an_unordered_group_pulls_what_the_core_asks_for(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case(ordered=False)
        assert [lane.name for lane in this.ear.held] == ["orders/0"]
        await this.receive(3, timeout=0.01)
        assert this.pulls()[0] | {"expires": 0, "max_bytes": 0} == {"batch": 3, "expires": 0, "max_bytes": 0}
        this.deliver(1, 2, 3)
        assert ids(await this.receive(2)) == ["1", "2"]
        assert ids(await this.receive(2)) == ["3"]

    run(check())


def test_a_new_member_waits_for_all_that_another_one_has(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case()
        this.unacknowledged = 2  # 3 and 4, with a member that died
        this.waiting = 1
        assert await this.receive(timeout=0.01) == []
        assert [pull["batch"] for pull in this.pulls()] == [10]
        this.deliver(5, 6)
        assert await this.receive(timeout=0.05) == []
        assert this.ear.held == []
        assert [pull["batch"] for pull in this.pulls()] == [], "the first pull has room yet"
        this.deliver(4, 3, deliveries=2, pending=False)
        batch = await this.receive(timeout=2)
        assert ids(batch) == ["3", "4", "5", "6"], "in the stream's order"
        assert [inbound.deliveries for inbound in batch] == [2, 2, 1, 1]
        assert [lane.name for lane in this.ear.held] == ["orders/0"]
        this.deliver(7)
        assert ids(await this.receive()) == ["7"]

    run(check())


def test_while_another_one_finishes_hardly_anything_is_pulled(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case()
        this.waiting = 1
        this.unacknowledged = 50
        await this.receive(timeout=0.01)
        this.deliver(*range(101, 111))
        this.pulls()
        assert await this.receive(timeout=0.5) == []
        assert [pull["batch"] for pull in this.pulls()] == [1]
        this.unacknowledged -= 50  # it has finished
        assert len(await this.receive(timeout=2)) == 10

    run(check())


def test_the_only_member_has_a_lane_without_events_too(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case()
        await this.receive(timeout=0.01)
        assert len(this.ear.held) == 1
        other = await case()
        other.waiting = 1
        await other.receive(timeout=0.01)
        assert other.ear.held == []

    run(check())


def test_each_delivery_is_settled_once(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case()
        this.deliver(1, 2, 3)
        batch = await this.receive()
        assert list(await this.receiver.settle([Ack(batch[1]), Ack(batch[0])])) == [None, None]
        assert this.acks() == [(2, b""), (1, b"")]
        again = await this.receiver.settle([Ack(batch[0]), Release(batch[1], 0)])
        assert [type(result) for result in again] == [LeaseLost, LeaseLost]
        assert this.acks() == []
        extended = await this.receiver.extend(batch)
        assert [type(result) for result in extended] == [LeaseLost, LeaseLost, type(None)]

    run(check())


def test_released_in_order_means_with_the_lane(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case()
        this.deliver(1, 2, 3)
        batch = await this.receive(2)
        results = await this.receiver.settle([Release(batch[1], 3), Release(batch[0], 0)])
        assert list(results) == [None, None]
        assert this.acks() == []
        closing = asyncio.create_task(this.receiver.close())
        noted = ""
        while not noted:
            await asyncio.sleep(0.001)
            for each in this.client.written():
                if each.verb == "HPUB":
                    noted = each.subject
                    assert b"Nats-TTL" in each.headers
                    this.client.listeners["_INBOX.me.a.*"](each.reply.encode(), b"", b'{"seq":9}', None)
        await closing
        assert noted == "orders.@.g.~.2.3"
        assert "CONSUMER.UNPIN.orders.g@0" in [operation for operation, _ in this.link.asked]
        assert this.acks() == [(1, b"-NAK"), (2, b"-NAK"), (3, b"-NAK")]
        assert this.client.listeners == {}
        assert await this.receive() == []

    run(check())


def test_released_without_order_goes_back_at_once(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case(ordered=False)
        this.deliver(1, 2)
        first, _ = await this.receive()
        assert list(await this.receiver.settle([Release(first, 0)])) == [None]
        assert this.acks() == [(1, b"-NAK")]
        this.deliver(3)
        await this.receiver.stop()
        assert this.acks() == [(3, b"-NAK")], "what the core has not got"
        await this.receiver.close()
        assert this.acks() == [(2, b"-NAK")]

    run(check())


def test_starts_are_read_for_what_was_begun_before(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case(ordered=False)
        this.notes = {"orders.@.g.~.1.2": 1, "orders.@.g.~.1.4": 1, "orders.@.g.~.9.1": 1}
        this.deliver(1, deliveries=3)
        this.deliver(2)
        batch = await this.receive()
        assert [(inbound.attempts, inbound.deliveries) for inbound in batch] == [(4, 3), (0, 1)]
        assert [body for _, body in this.link.asked if body] == [{"subjects_filter": "orders.@.g.~.>"}]

    run(check())


def test_confirmed_acknowledgements(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case(confirm=True)
        this.deliver(1, 2)
        batch = await this.receive()
        this.client.written()
        settling = asyncio.create_task(this.receiver.settle([Ack(inbound) for inbound in batch]))
        await asyncio.sleep(0)
        first, second = this.client.written()
        assert (first.subject.startswith("$JS.ACK"), first.body) == (True, b"")
        this.client.listeners["_INBOX.me.a.*"](second.reply.encode(), b"", b"", None)
        results = await settling
        assert [type(result) for result in results] == [Unavailable, type(None)]

    run(check())


def test_leases_of_what_waits_here_are_extended_too(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case(lease=0.15)
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


def test_a_lost_pin_is_tried_for_again_and_nothing_that_is_out_is_forgotten(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case()
        this.deliver(1, 2)
        batch = await this.receive(1)
        this.pulls()
        this.status("423 Nats-Wrong-Pin-Id")
        this.status("423 Nats-Wrong-Pin-Id")  # of a generation that is over
        assert await this.receive(timeout=0.01) == []
        (pull,) = this.pulls()
        assert "id" not in pull
        this.deliver(2, pin="p2", deliveries=2, pending=False)  # it was given back: another could have been pinned
        this.deliver(3, pin="p2")
        assert ids(await this.receive(timeout=2)) == ["2", "3"]
        assert list(await this.receiver.settle([Ack(batch[0])])) == [None]
        assert (len(this.ear.held), this.ear.gone, this.ear.given) == (1, [], [])

    run(check())


def test_a_lane_that_another_member_has_is_let_go(run: Run, case: Callable[..., Any], until: Run) -> None:
    async def check() -> None:
        this = await case()
        this.deliver(1)
        await this.receive()
        this.pinned = "p1"
        assert await this.receiver.members() == 1
        this.members = 2
        assert await this.receiver.members() == 2
        this.status("423 Nats-Wrong-Pin-Id")
        this.pinned = "p9"
        await this.receiver.members()
        assert this.ear.given == [], "it may be ours: its first delivery can be on its way"
        await this.receiver.members()
        await until(lambda: this.ear.given == this.ear.held)
        assert (1, b"-NAK") in this.acks()
        assert "CONSUMER.UNPIN.orders.g@0" not in [operation for operation, _ in this.link.asked]

    run(check())


def test_giving_back_unpins_first_and_queues_up_again(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case()
        this.deliver(1, 2)
        batch = await this.receive(1)
        (lane,) = this.ear.held
        await this.receiver.give_back(Lane("orders/0", 99))
        assert this.link.asked[-1][0] != "CONSUMER.UNPIN.orders.g@0"
        this.client.written()
        await this.receiver.give_back(lane)
        assert this.link.asked[-1] == ("CONSUMER.UNPIN.orders.g@0", {"group": "lane"})
        assert this.acks() == [(1, b"-NAK"), (2, b"-NAK")]
        assert isinstance((await this.receiver.settle([Ack(batch[0])]))[0], LeaseLost)
        this.deliver(3, pin="p1")
        assert this.acks() == [(3, b"-NAK")], "late, under the old pin"
        this.unacknowledged = 0
        await this.receive(timeout=0.01)
        (pull,) = this.pulls()
        assert "id" not in pull
        this.deliver(1, pin="p2", deliveries=2)
        (inbound,) = await this.receive()
        assert inbound.lane is not lane
        assert inbound.lane.epoch > lane.epoch

    run(check())


def test_after_a_lost_connection_acknowledgements_go_again_and_the_order_is_made_sure_of(
    run: Run, case: Callable[..., Any]
) -> None:
    async def check() -> None:
        this = await case()
        this.deliver(1, 2)
        batch = await this.receive()
        await this.receiver.settle([Ack(batch[0])])
        this.client.is_connected = False
        this.receiver.lost()
        results = await this.receiver.settle([Ack(batch[1])])
        assert type(results[0]) is Unavailable
        this.client.is_connected = True
        this.client.written()
        this.receiver.back()
        assert [ack for ack in this.acks() if not ack[1]] == [(1, b""), (2, b"")]
        this.pinned = "p1"
        this.deliver(2, deliveries=2)
        assert this.acks() == [(2, b"")], "done already: not handed out again"
        this.unacknowledged = 1  # 3 was sent into the void
        this.deliver(4)
        assert await this.receive(timeout=0.05) == []
        this.deliver(3, deliveries=2, pending=False)
        assert ids(await this.receive(timeout=2)) == ["3", "4"]
        assert (len(this.ear.held), this.ear.gone) == (1, [])

    run(check())


def test_who_stood_still_for_a_lease_has_lost_everything(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case()
        this.deliver(1, 2)
        batch = await this.receive(1)
        this.receiver._consumers[0].extended -= 61  # as if the process had been stopped
        results = await this.receiver.extend(batch)
        assert isinstance(results[0], LeaseLost)
        assert this.ear.gone == this.ear.held
        assert this.acks() == [], "another member may have them: nothing is given back"
        this.deliver(1, 2, deliveries=2, pending=False)
        assert ids(await this.receive()) == ["1", "2"]
        assert len(this.ear.held) == 2
        await this.receiver.close()

    run(check())


def test_a_consumer_that_was_deleted_ends_the_receiver(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case()
        await this.receive(timeout=0.01)
        this.status("503")
        this.link.answers.clear()
        with pytest.raises(Unavailable, match="g@0"):
            await this.receive(timeout=5)
        assert this.ear.gone == this.ear.held
        await this.receiver.close()
        refused = await case()
        refused.status("400 Bad Request")
        with pytest.raises(Unavailable, match="Bad Request"):
            await refused.receive()

    run(check())


def test_an_end_of_the_client_ends_the_receiver(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case()
        receiving = asyncio.create_task(this.receive(timeout=30))
        await asyncio.sleep(0)
        this.client.is_connected = False
        this.receiver.gone()
        with pytest.raises(Unavailable):
            await receiving
        await this.receiver.close()

    run(check())


def test_stop_ends_a_receive_at_once(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        for ordered in (True, False):
            this = await case(ordered=ordered)
            receiving = asyncio.create_task(this.receive(timeout=30))
            await asyncio.sleep(0)
            await this.receiver.stop()
            assert await asyncio.wait_for(receiving, 5) == []
            await this.receiver.stop()
            await this.receiver.close()
            await this.receiver.close()
            assert this.link.watchers == set()

    run(check())


def test_without_a_connection_nothing_is_begun_any_more_and_a_lease_ends(
    run: Run, case: Callable[..., Any], until: Run
) -> None:
    async def check() -> None:
        this = await case(lease=0.3)
        this.deliver(1, 2)
        batch = await this.receive()
        this.ear.busy = asyncio.Event()  # a handler runs
        this.client.is_connected = False
        this.receiver.lost()
        await until(lambda: this.ear.given == this.ear.held)
        assert this.ear.gone == [], "what runs may end"
        await until(lambda: this.ear.gone == this.ear.held)
        this.ear.busy.set()
        assert [type(each) for each in await this.receiver.extend(batch)] == [LeaseLost, LeaseLost]
        await this.receiver.close()

    run(check())


def test_a_shorter_lease_of_a_later_member_is_kept_to(run: Run, case: Callable[..., Any], until: Run) -> None:
    async def check() -> None:
        this = await case(lease=60.0)
        this.deliver(1)
        await this.receive()
        this.ack_wait = 0.15
        await this.receiver.members()
        this.client.written()
        await until(lambda: (1, b"+WPI") in this.acks())
        await this.receiver.close()

    run(check())


def test_what_others_write_among_the_notes_is_no_note(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case()
        this.notes = {"orders.@.g.~.x.y": 1, "orders.@.g.~.1.2": 1, "orders.@.g.~.1": 1}
        many = "9" * 5_000
        this.notes |= {f"orders.@.g.~.1.{many}": 1, f"orders.@.g.~.{many}.1": 1, "orders.@.g.~.1.\u0663": 1}
        this.deliver(1, deliveries=2)
        (inbound,) = await this.receive()
        assert inbound.attempts == 2

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
    run: Run, case: Callable[..., Any], subject: bytes, reply: bytes
) -> None:
    """Whoever knows the inbox may write there; the client drops what its listener cannot take."""

    async def check() -> None:
        this = await case()
        inbox = this.receiver._prefix.removesuffix(b".")
        client = RawClient(require_tls=False)
        client._listeners[1] = this.receiver._arrived
        await client._process_msg(1, subject.replace(b"%b", inbox), reply, b"", b"NATS/1.0 408 x\r\n\r\n")
        this.deliver(1)
        (inbound,) = await this.receive()
        assert inbound.event.id == "1"

    run(check())


def test_leaving_without_a_connection_takes_the_inboxes_along(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case()
        this.client.is_connected = False
        await this.receiver.close()
        assert this.client.listeners == {}, "the next connection would subscribe them again"

    run(check())


def violation(subject: str) -> Refusal:
    found = refusal_of(Exception(f'nats: permissions violation for publish to "{subject.lower()}"'))
    assert found is not None
    return found


def test_who_may_not_pull_is_told_so(run: Run, case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await case()
        await this.receive(timeout=0.01)
        this.receiver.refused(violation("$JS.API.CONSUMER.MSG.NEXT.orders.other"))
        await this.receive(timeout=0.01)
        this.receiver.refused(violation("$JS.API.CONSUMER.MSG.NEXT.orders.g@0"))
        with pytest.raises(Unavailable, match="does not let this user consume: permissions violation"):
            await this.receive()
        await this.receiver.close()

    run(check())


def test_an_acknowledgement_that_is_not_allowed_is_made_again_until_it_is(
    run: Run, case: Callable[..., Any], until: Run
) -> None:
    """The first one is handed over before the server says no; after that each is waited for, and what was handled stays
    ours and is not handled again."""

    async def check() -> None:
        this = await case(ordered=False)
        this.receiver._answers._timeout = 60.0
        this.deliver(1, 2)
        first, second = await this.receive()
        assert await this.receiver.settle([Ack(first)]) == [None]
        this.receiver.refused(violation("$JS.ACK.orders.g.1.1.1.1.0"))
        settling = asyncio.create_task(this.receiver.settle([Ack(second)]))
        await until(lambda: 2 in [sequence for sequence, _ in this.acks()])
        this.receiver.refused(violation("$JS.ACK.orders.g.1.2.2.1.0"))
        (result,) = await asyncio.wait_for(settling, 5)
        assert isinstance(result, Unavailable)
        assert "does not let this user acknowledge" in str(result)
        this.deliver(2, deliveries=2, pending=False)
        assert await this.receive(timeout=0.01) == []
        settling = asyncio.create_task(this.receiver.settle([Ack(second)]))
        await until(lambda: bool(this.client.data))
        for command in this.client.written():
            if command.reply:
                this.client.listeners["_INBOX.me.a.*"](command.reply.encode(), b"", b"", None)
        assert await asyncio.wait_for(settling, 5) == [None]
        assert isinstance((await this.receiver.settle([Ack(second)]))[0], LeaseLost)
        await this.receiver.close()

    run(check())


def test_a_pin_that_went_to_a_lost_connection_keeps_the_lane_from_nobody(
    run: Run, case: Callable[..., Any], until: Run
) -> None:
    """The only member has a lane from which nothing has come. The first message pins its pull on a connection that is
    dead: nobody knows the pin, and the server would keep the lane for it until it runs out."""

    async def check() -> None:
        this = await case()
        await this.receive(timeout=0.01)
        assert len(this.ear.held) == 1
        this.client.is_connected = False
        this.receiver.lost()
        this.pinned, this.unacknowledged = "nobody", 1

        def unpin(_: Any) -> dict[str, Any]:
            this.pinned = ""
            return {}

        this.link.answers["CONSUMER.UNPIN.orders.g@0"] = unpin
        this.client.is_connected = True
        this.receiver.back()
        await this.receive(timeout=0.01)
        assert this.pinned == ""
        this.pinned = "p2"
        this.deliver(1, pin="p2", deliveries=2, pending=False)
        assert ids(await this.receive(timeout=2)) == ["1"]
        assert len(this.ear.held) == 1
        assert this.ear.given == []
        assert [operation for operation, _ in this.link.asked].count("CONSUMER.UNPIN.orders.g@0") == 1
        await this.receiver.close()

    run(check())


@pytest.mark.parametrize("ordered", [True, False])
def test_what_a_dead_path_swallows_comes_again_within_15_seconds(ordered: bool) -> None:
    """With our defaults: the last pull swallows until it ends, and what it got is delivered again after ``ack_wait``;
    the path is found dead within three pings."""
    ping = NatsSettings().ping_interval
    assert _expires(20.0, ordered) + ack_wait(20.0, ordered) <= 15
    assert 3 * ping <= 15


def test_who_lost_its_pin_gives_back_at_once_what_it_has_not_begun(run: Run, case: Callable[..., Any]) -> None:
    """The member that is pinned next waits for it, perhaps for ever: nothing of it comes to an end here."""

    async def check() -> None:
        this = await case()
        this.deliver(1, 2, 3)
        (first,) = await this.receive(1)
        this.client.written()
        this.status("423 Nats-Wrong-Pin-Id")
        assert this.acks() == [(2, b"-NAK"), (3, b"-NAK")]
        this.deliver(4, pin="p1")  # it was on its way under the pin that is lost
        assert this.acks() == [(4, b"-NAK")]
        assert await this.receive(timeout=0.01) == []
        assert await this.receiver.settle([Ack(first)]) == [None]
        await this.receiver.close()

    run(check())


def test_who_lost_its_pin_extends_nothing_until_the_server_says_whose_the_lane_is(
    run: Run, case: Callable[..., Any]
) -> None:
    async def check() -> None:
        this = await case(lease=60.0)
        (consumer,) = this.receiver._consumers

        def extended() -> list[tuple[int, bytes]]:
            consumer.extended -= 5  # of the 20 s for which the server waits
            this.receiver._extend()
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


def test_acknowledgements_go_again_when_the_server_has_said_whose_the_lane_is(
    run: Run, case: Callable[..., Any]
) -> None:
    """Right after a reconnect there may be no leader to take them, and the lane may go to another member."""

    async def check() -> None:
        this = await case()
        this.deliver(1)
        (inbound,) = await this.receive()
        await this.receiver.settle([Ack(inbound)])
        this.receiver.lost()
        this.receiver.back()
        this.client.written()
        this.pinned = "p9"
        await this.receive(timeout=0.01)
        assert (1, b"") in this.acks()
        await this.receiver.close()

    run(check())


def test_acknowledgements_go_again_to_a_new_leader_of_the_consumer(run: Run, case: Callable[..., Any]) -> None:
    """The one that they were sent to died, or stepped down, before another server had them. Our connection is to a
    third one, and lives on. The next pull of any member brings what is not acknowledged, so nothing is asked before."""

    async def check() -> None:
        this = await case()
        this.deliver(1, 2)
        batch = await this.receive()
        await this.receiver.settle([Ack(batch[0])])
        this.client.written()
        this.link.answers["CONSUMER.INFO.orders.g@0"] = asyncio.Event()  # whatever the receiver waits for now
        this.status("409 Leadership Change")
        assert this.acks() == [(1, b"")]
        await this.receiver.close()

    run(check())


def test_a_lane_without_a_leader_holds_up_no_other(run: Run, case: Callable[..., Any]) -> None:
    """Its server answers nothing, for as long as the servers take to choose another one."""

    async def check() -> None:
        this = await case(lanes=2)
        this.link.timeout = 60.0
        this.link.answers["CONSUMER.INFO.orders.g@1"] = asyncio.Event()
        this.deliver(1)
        async with asyncio.timeout(2.0):
            assert ids(await this.receive()) == ["1"]
        await this.receiver.close()

    run(check())


def test_a_new_leader_is_asked_at_once(run: Run, case: Callable[..., Any], until: Run) -> None:
    """What was asked before it was there is not answered any more."""

    async def check() -> None:
        this = await case()
        this.link.timeout = 60.0
        info, this.link.answers["CONSUMER.INFO.orders.g@0"] = (
            this.link.answers["CONSUMER.INFO.orders.g@0"],
            asyncio.Event(),
        )
        this.deliver(1)
        receiving = asyncio.create_task(this.receive(timeout=30.0))
        await asyncio.sleep(0.02)
        this.link.answers["CONSUMER.INFO.orders.g@0"] = info
        this.status("409 Leadership Change")
        async with asyncio.timeout(0.5):
            assert ids(await receiving) == ["1"]
        await this.receiver.close()

    run(check())


def test_what_is_to_be_confirmed_goes_again_to_a_new_leader_too(run: Run, case: Callable[..., Any]) -> None:
    """Where the lane has gone to another member meanwhile, its settlement is not made again."""

    async def check() -> None:
        this = await case(confirm=True)
        this.deliver(1)
        settling = asyncio.create_task(this.receiver.settle([Ack(inbound) for inbound in await this.receive()]))
        await asyncio.sleep(0)
        assert this.acks() == [(1, b"")]
        this.status("409 Leadership Change")
        assert this.acks() == [(1, b"")]
        assert type((await settling)[0]) is Unavailable
        await this.receiver.close()

    run(check())

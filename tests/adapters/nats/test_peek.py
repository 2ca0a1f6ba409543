"""Looking at a stream by sequence, and what can be told of a group's consumers."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from anybroker.adapter import Foreign, Peek
from anybroker.errors import MissingGroup, Unavailable
from anybroker_nats.failures import ApiError
from anybroker_nats.link import Link
from anybroker_nats.peek import members, peek
from anybroker_nats.wire import Wire

NOT_FOUND = {"code": 404, "err_code": 10037, "description": "no message found"}


@dataclass
class Server:
    """What JetStream answers: one stream ``orders``, with these subjects by sequence and these consumers."""

    subjects: Mapping[int, str]
    consumers: list[dict[str, Any]] = field(default_factory=list)
    page: int = 100
    waiting: int | None = None
    asked: list[str] = field(default_factory=list)

    async def client(self) -> Any:
        return None

    async def api(self, operation: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        body = body or {}
        self.asked.append(operation)
        if operation == "STREAM.INFO.orders":
            return {"state": {"first_seq": min(self.subjects, default=0), "last_seq": max(self.subjects, default=0)}}
        if operation == "STREAM.MSG.GET.orders":
            prefix = body["next_by_subj"].removesuffix("*")
            for seq, subject in sorted(self.subjects.items()):
                if seq >= body["seq"] and subject.startswith(prefix) and "." not in subject.removeprefix(prefix):
                    data = b64encode(b"%d" % seq).decode()
                    return {"message": {"subject": subject, "seq": seq, "data": data, "time": "2026-11-29T10:00:00.5Z"}}
        if operation == "CONSUMER.LIST.orders":
            begin = body["offset"]
            return {"consumers": self.consumers[begin : begin + self.page], "total": len(self.consumers)}
        if operation == "CONSUMER.INFO.orders.g@members" and self.waiting is not None:
            return {"num_waiting": self.waiting}
        raise ApiError(NOT_FOUND)


def consumer(
    name: str = "g@0",
    *filters: str,
    floor: tuple[int, int] = (0, 0),
    delivered: tuple[int, int] = (0, 0),
    pending: int = 0,
) -> dict[str, Any]:
    """A consumer's information; pairs are of the stream's sequence and the consumer's."""
    return {
        "name": name,
        "config": {"filter_subjects": filters or ("orders.0", "orders.@.g.0")},
        "ack_floor": {"stream_seq": floor[0], "consumer_seq": floor[1]},
        "delivered": {"stream_seq": delivered[0], "consumer_seq": delivered[1]},
        "num_ack_pending": pending,
    }


def look(server: Server, group: str | None = "g", **options: Any) -> tuple[list[int], bool]:
    """The sequences that are shown, and whether they are exact."""
    arguments: dict[str, Any] = {"limit": 100, "newest": False, "beyond": {}, **options}
    page: Peek = asyncio.run(peek(cast("Link", server), Wire(), "orders", group, **arguments))
    for event in page.events:
        assert isinstance(event.event, Foreign)
        assert event.event.body == b"%d" % event.position
        assert event.stored == 1795946400.5
    return [event.position for event in page.events], page.exact


def stream(count: int) -> dict[int, str]:
    """One message a sequence."""
    return dict.fromkeys(range(1, count + 1), "orders.0")


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ({}, ([1, 2, 3, 4, 5], True)),
        ({"floor": (2, 2), "delivered": (2, 2)}, ([3, 4, 5], True)),
        ({"floor": (1, 1), "delivered": (4, 4), "pending": 3}, ([2, 3, 4, 5], True)),
        ({"floor": (1, 1), "delivered": (4, 4), "pending": 0}, ([5], True)),
        ({"floor": (1, 1), "delivered": (4, 9), "pending": 3}, ([2, 3, 4, 5], True)),
        ({"floor": (1, 1), "delivered": (4, 4), "pending": 2}, ([2, 3, 4, 5], False)),
    ],
    ids=["untouched", "settled", "in flight", "all settled", "delivered again", "one is settled"],
)
def test_what_a_consumer_has_not_settled(state: dict[str, Any], shown: tuple[list[int], bool]) -> None:
    assert look(Server(stream(5), [consumer(**state)])) == shown


def test_too_many_in_flight_to_count_is_not_exact() -> None:
    server = Server(stream(1_100), [consumer(delivered=(1_100, 1_200), pending=1_100)])
    assert look(server, limit=2) == ([1, 2], False)


def test_lanes_inlets_notes_and_other_groups() -> None:
    subjects = {
        1: "orders.0",
        2: "orders.1",
        3: "orders.@.g.1",
        4: "orders.@.other.0",
        5: "orders.@.g.~.3.1",
        6: "orders.somewhere",
        7: "orders.1",
    }
    lanes = [
        consumer("g@0", "orders.0", "orders.@.g.0", floor=(1, 1), delivered=(1, 1)),
        consumer("g@1", "orders.1", "orders.@.g.1", floor=(2, 1), delivered=(3, 2), pending=1),
        consumer("gg@0"),
        consumer("g@members"),
    ]
    assert look(Server(subjects, lanes)) == ([3, 7], True)
    assert look(Server(subjects, lanes, page=1)) == ([3, 7], True)
    assert look(Server(subjects, lanes), None) == ([1, 2, 6, 7], True)
    unordered = [consumer("g", "orders.*", "orders.@.g.*")]
    assert look(Server(subjects, unordered)) == ([1, 2, 3, 6, 7], True)


def test_pages_over_gaps() -> None:
    subjects = {seq: "orders.0" if seq % 10 == 0 else "orders.@.other.0" for seq in range(5, 205)}
    server = Server(subjects, [consumer()])
    assert look(server, None, limit=3) == ([10, 20, 30], True)
    assert look(server, None, limit=3, newest=True) == ([200, 190, 180], True)
    assert look(server, None, limit=3, newest=True, beyond={"orders": 180}) == ([170, 160, 150], True)
    assert look(server, limit=3, beyond={"orders": 180}) == ([190, 200], True)
    assert look(server, limit=100, newest=True)[0] == list(range(200, 0, -10))


def test_an_empty_stream_is_empty() -> None:
    assert look(Server({}, [consumer()])) == ([], True)
    assert look(Server({}), None, newest=True) == ([], True)


def test_members_are_the_pulls_of_an_ordered_group() -> None:
    def count(server: Server) -> int | None:
        return asyncio.run(members(cast("Link", server), "orders", "g"))

    assert count(Server({}, [consumer()], waiting=2)) == 2
    assert count(Server({}, [consumer()])) == 0
    assert count(Server({}, [consumer("g", "orders.*", "orders.@.g.*")], waiting=2)) is None


def test_what_is_missing_is_named() -> None:
    server = Server({}, [consumer("gg@0")])
    with pytest.raises(MissingGroup, match="'g'"):
        look(server)
    with pytest.raises(MissingGroup, match="'parcels'"):
        asyncio.run(peek(cast("Link", server), Wire(), "parcels", None, 1, False, {}))


def test_a_server_that_fails_is_unavailable() -> None:
    class Failing(Server):
        async def api(self, operation: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
            raise TimeoutError

    with pytest.raises(Unavailable, match="looking at 'orders'"):
        look(Failing({}))

"""How old the oldest message is that a group has not finished, on a fake stream."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from anybroker_nats.age import age_of_oldest
from anybroker_nats.failures import ApiError
from anybroker_nats.link import Link


class Server:
    """One stream with these subjects by sequence, of which the last was stored now, and each other a second before."""

    def __init__(self, subjects: Mapping[int, str]) -> None:
        self.subjects = subjects
        self.asked: list[str] = []
        self.forbidden = False

    async def api(self, _operation: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if self.forbidden:
            raise ApiError({"code": 403})
        self.asked.append(body["next_by_subj"])
        prefix, star, _ = body["next_by_subj"].partition("*")
        for seq, subject in sorted(self.subjects.items()):
            if seq >= body["seq"] and (subject == prefix or (star and subject.rpartition(".")[0] == prefix[:-1])):
                stored = datetime.now(UTC) - timedelta(seconds=max(self.subjects) - seq)
                return {"message": {"subject": subject, "seq": seq, "time": stored.isoformat()}}
        raise ApiError({"code": 404})


def lane(number: int, *, floor: int = 0, delivered: int = 0, waiting: int = 0, in_flight: int = 0) -> dict[str, Any]:
    return {
        "config": {"filter_subjects": [f"orders.{number}", f"orders.@.g.{number}"]},
        "ack_floor": {"stream_seq": floor, "consumer_seq": floor},
        "delivered": {"stream_seq": delivered, "consumer_seq": delivered},
        "num_pending": waiting,
        "num_ack_pending": in_flight,
    }


def age(server: Server, *lanes: dict[str, Any]) -> float | None:
    subjects: Sequence[str] = ("orders.*", "orders.@.g.*")
    return asyncio.run(age_of_oldest(cast("Link", server), "orders", subjects, lanes))


def stored_before(seconds: float) -> Any:
    return pytest.approx(seconds, abs=60) if seconds > 60 else pytest.approx(seconds, abs=30)


def test_nothing_waits_and_nothing_is_asked() -> None:
    server = Server({1: "orders.0"})
    assert age(server, lane(0, floor=1, delivered=1), lane(1)) == 0.0
    assert server.asked == []


def test_it_is_the_first_that_is_not_settled_in_any_lane() -> None:
    server = Server({1: "orders.0", 200: "orders.1", 400: "orders.0", 900: "orders.1"})
    assert age(server, lane(0, waiting=2), lane(1, waiting=2)) == stored_before(899)
    assert age(server, lane(0, floor=1, delivered=400, in_flight=1), lane(1, waiting=2)) == stored_before(700)
    assert age(server, lane(0, floor=1, delivered=400, in_flight=1), lane(1, floor=200, delivered=200, waiting=1)) == (
        stored_before(500)
    )


def test_the_inlet_counts() -> None:
    server = Server({1: "orders.0", 300: "orders.@.g.0", 301: "orders.@.other.0", 900: "orders.0"})
    assert age(server, lane(0, floor=1, delivered=1, waiting=2)) == stored_before(600)


def test_a_lane_that_was_idle_is_not_looked_for_among_all_the_others() -> None:
    server = Server({**dict.fromkeys(range(1, 2_000), "orders.0"), 2_000: "orders.1", 2_500: "orders.0"})
    assert age(server, lane(0, floor=2_500, delivered=2_500), lane(1, waiting=1)) == stored_before(500)
    assert len(server.asked) < 25


def test_a_user_who_may_not_read_the_stream_is_told_no_age() -> None:
    server = Server({1: "orders.0"})
    server.forbidden = True
    assert age(server, lane(0, waiting=1)) is None


def test_what_is_gone_meanwhile_has_no_age() -> None:
    assert age(Server({}), lane(0, waiting=1)) == 0.0

"""How many handlers led to an event, also by what other programs wrote."""

from __future__ import annotations

from typing import Any

import pytest

from anybroker import Delivery, Event
from anybroker.adapter import Inbound, Lane
from anybroker.delivery import LaneState
from anybroker.engine.hops import hops_of, one_hop_more, too_many


def _cause(**extensions: Any) -> Delivery:
    event: Event[Any] = Event.create({}, source="s", type="t", extensions=extensions)
    lane = Lane("a", 0)
    return Delivery(event, "orders", "billing", 1, None, Inbound(event, lane, 0, None, {}, None), LaneState(lane, None))


@pytest.mark.parametrize(
    ("said", "hops"),
    [("1", 1), (1, 1), ("49", 49), ("", 0), ("-1", 0), (-1, 0), (True, 0), ("1_0", 0), ("٣", 0), ("9" * 5_000, 0)],
)
def test_only_a_number_counts(said: object, hops: int) -> None:
    assert hops_of({"causationdepth": said}) == hops


def test_one_more_than_the_cause_and_nothing_else_for_a_short_chain() -> None:
    first: dict[str, Any] = {}
    one_hop_more(_cause(), first)
    assert first == {"causationdepth": "1"}
    ninth: dict[str, Any] = {}
    one_hop_more(_cause(causationdepth="8"), ninth)
    assert ninth == {"causationdepth": "9"}


def test_a_long_chain_says_its_last_ten_places() -> None:
    inherited: dict[str, Any] = {"causationdepth": "9"}
    for _ in range(15):
        extensions: dict[str, Any] = {}
        one_hop_more(_cause(**inherited), extensions)
        inherited = extensions
    assert inherited == {"causationdepth": "24", "causationpath": " > ".join(["orders/billing"] * 10)}


def test_a_way_that_is_too_long_begins_anew() -> None:
    extensions: dict[str, Any] = {}
    one_hop_more(_cause(causationdepth="30", causationpath="x" * 2_000), extensions)
    assert extensions["causationpath"] == "orders/billing"


def test_what_the_handler_says_stays() -> None:
    extensions: dict[str, Any] = {"causationdepth": "0"}
    one_hop_more(_cause(causationdepth="40"), extensions)
    assert extensions["causationdepth"] == "0"


def test_the_error_says_what_led_to_it() -> None:
    allowed: Event[Any] = Event.create({}, source="s", type="t", extensions={"causationdepth": "50"})
    assert too_many(allowed, 50) is None
    event: Event[Any] = Event.create(
        {},
        source="s",
        type="t",
        extensions={
            "causationdepth": "51",
            "correlationid": "c-1",
            "causationid": "e-50",
            "causationpath": "orders/billing > payments/shop",
        },
    )
    assert str(too_many(event, 50)) == (
        "51 handlers in a row led to this event, more than max_hops=50: correlationid 'c-1', causationid 'e-50', by "
        "way of orders/billing > payments/shop"
    )

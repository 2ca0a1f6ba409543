"""The header in which an event says when it may be handled."""

from __future__ import annotations

import time

import pytest

from anybroker.adapter import Outbound
from anybroker.event import Event
from anybroker.kit.not_before import NOT_BEFORE, headers_with_not_before, take_not_before

EVENT = Event({"specversion": "1.0", "id": "1", "source": "/s", "type": "t"})


def test_a_delayed_event_says_until_when() -> None:
    headers = {"traceparent": "00"}
    outbound = Outbound(EVENT, "orders", headers=headers, not_before=1234.5678)
    assert headers_with_not_before(outbound) == {"traceparent": "00", NOT_BEFORE: "1234.568"}
    assert headers == {"traceparent": "00"}
    assert headers_with_not_before(Outbound(EVENT, "orders", not_before=1.0)) == {NOT_BEFORE: "1.000"}


def test_headers_are_not_copied_where_there_is_nothing_to_add() -> None:
    own = {NOT_BEFORE: "1.000"}
    assert headers_with_not_before(Outbound(EVENT, "orders", headers=own, not_before=2.0)) is own
    assert headers_with_not_before(Outbound(EVENT, "orders", headers=own)) is own
    assert headers_with_not_before(Outbound(EVENT, "orders")) is None


@pytest.mark.parametrize("ahead", [-1e9, -1.0, 0.0, 50.0])
def test_a_moment_is_believed_up_to_what_is_possible(ahead: float) -> None:
    moment = round(time.time() + ahead, 3)
    headers = {NOT_BEFORE: f"{moment:.3f}"}
    assert take_not_before(headers, 60.0) == moment
    assert headers == {NOT_BEFORE: f"{moment:.3f}"}


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "-inf", "9e18", "1e400", "in 1,000 seconds"])
def test_another_moment_is_marked_as_not_believed(text: str) -> None:
    if text.startswith("in "):
        text = f"{time.time() + 1_000:.3f}"
    headers = {NOT_BEFORE: text, "other": "x"}
    assert take_not_before(headers, 60.0) is None
    assert headers == {NOT_BEFORE: "", "other": "x"}

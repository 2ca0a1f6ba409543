"""Which letters a filter means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.deadletters.conftest import letter_of

from anybroker import ConfigError, DeadLetter
from anybroker.deadletters import LetterFilter

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
LETTER = letter_of({"cents": 5}, reason="Card of c4 declined", error="shop.Declined: card of c4 declined")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"reason": LETTER.reason_fingerprint},
        {"reason": "card OF"},
        {"type": "order.v1"},
        {"key": "k-1"},
        {"handler": "charge"},
        {"since": NOON},
        {"since": "2026-11-30T12:00:00"},
        {"since": "2026-11-30", "until": "2026-12-01"},
        {"until": "2026-11-30T13:00:01+01:00"},
        {"where": "data.cents=5"},
        {"where": ("data.cents=5", "type=order.v1"), "key": "k-1", "reason": "declined"},
    ],
)
def test_what_fits(given: dict[str, Any]) -> None:
    assert LetterFilter(**given).matches(LETTER)


@pytest.mark.parametrize(
    "given",
    [
        {"reason": "r-0000000000"},
        {"reason": "expired"},
        {"type": "order.v2"},
        {"key": "k"},
        {"handler": "refund"},
        {"since": NOON + timedelta(milliseconds=1)},
        {"until": NOON},
        {"since": "1s"},
        {"where": ("data.cents=5", "type=order.v2")},
        {"type": "order.v1", "key": "k-2"},
    ],
)
def test_what_does_not_fit(given: dict[str, Any]) -> None:
    assert not LetterFilter(**given).matches(LETTER)


def test_how_long_ago() -> None:
    died = (datetime.now(UTC) - timedelta(minutes=90)).isoformat()
    letter = letter_of(at=died)
    assert LetterFilter(since="2h", until="1.5 h").matches(letter)
    assert not LetterFilter(since="80m").matches(letter)
    assert LetterFilter(since="1w").matches(letter)


def test_a_letter_without_a_time_is_in_no_interval() -> None:
    for died in ("", "yesterday"):
        assert not LetterFilter(since="2000-01-01").matches(letter_of(at=died))
        assert not LetterFilter(until="2h").matches(letter_of(at=died))


def test_what_is_not_an_event_has_an_empty_type(foreign: DeadLetter) -> None:
    assert LetterFilter(type="", key="k").matches(foreign)


@pytest.mark.parametrize(
    ("given", "setting"),
    [
        ({"since": "soon"}, "since"),
        ({"until": "2y"}, "until"),
        ({"since": datetime(2026, 1, 1)}, "since"),
        ({"since": 5}, "since"),
        ({"since": "999999999w"}, "since"),
        ({"where": "nothing here"}, "where"),
    ],
)
def test_what_cannot_be_understood_is_refused(given: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LetterFilter(**given)
    assert caught.value.setting == setting


def test_what_was_asked_for_can_be_told() -> None:
    assert LetterFilter().given == {}
    told = LetterFilter(reason="no", since=NOON, where="data.a=1").given
    assert told == {"reason": "no", "since": "2026-11-30T12:00:00.000Z", "where": ["data.a=1"]}
    assert LetterFilter(reason="no", where="data.a=1") == LetterFilter(reason="no", where=("data.a=1",))

"""Changing an event's data, and nothing else of it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.deadletters.conftest import letter_of

from anybroker import ConfigError, DeadLetter, Event
from anybroker.deadletters.edit import event_of, with_body, with_fields
from anybroker.deadletters.letter import digest_of

EVENT: Event[Any] = Event.create(
    {"cents": -5, "who": {"id": "c-7"}, "items": [{"sku": "A"}]},
    source="shop",
    type="order.v1",
    id="o-1",
    key="k",
    extensions={"blob": b"\x00", "n": 7},
)


def test_fields_are_changed_and_nothing_else() -> None:
    edited = with_fields(
        EVENT, ["data.cents=250", ".data.who.id = c-8", "data.items[0].sku=B 1", "data.who.new=[1, null]", 'data.q="5"']
    )
    assert edited.data == {
        "cents": 250,
        "who": {"id": "c-8", "new": [1, None]},
        "items": [{"sku": "B 1"}],
        "q": "5",
    }
    assert edited.attributes == EVENT.attributes
    assert EVENT.data["cents"] == -5
    assert digest_of(edited) != digest_of(EVENT) == digest_of(with_body(EVENT, EVENT.body or b""))


@pytest.mark.parametrize(
    "text",
    ["cents=5", "data=5", "data.cents", "data.no.such=5", "data.items[1]=5", "data.items.x=5", "data.cents.x=1", ""],
)
def test_what_cannot_be_set_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_fields(EVENT, [text])
    assert caught.value.setting == "--set"


def test_a_body_must_be_what_the_event_says() -> None:
    assert with_body(EVENT, b'{"a": 1}').data == {"a": 1}
    with pytest.raises(ConfigError, match="is not JSON"):
        with_body(EVENT, b"{oops")
    text = Event.create("plain", source="s", type="t", datacontenttype="text/plain")
    assert with_body(text, b"{oops").data == "{oops"
    with pytest.raises(ConfigError, match="neither a JSON object nor an array"):
        with_fields(text, ["data.a=1"])


def test_what_is_not_an_event_cannot_be_edited(foreign: DeadLetter) -> None:
    with pytest.raises(ConfigError, match="is not a CloudEvent"):
        event_of(foreign)


def test_only_what_the_library_writes_says_that_it_was_edited() -> None:
    assert letter_of().edited == ""
    assert letter_of(edited="yesterday").edited == ""
    said = "2026-11-30T12:00:00.000Z from 0123456789abcdef"
    letter = letter_of(edited=said)
    assert letter.edited == said
    assert letter.replay_headers()["anybroker-edited"] == said

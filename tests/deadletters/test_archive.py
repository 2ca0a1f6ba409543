"""Lines that dead letters can be made of again."""

from __future__ import annotations

import json

import pytest
from tests.deadletters.conftest import letter_of

from anybroker import ConfigError, DeadLetter, Event
from anybroker.adapter import Foreign
from anybroker.deadletters import read_line
from anybroker.deadletters.archive import line_of

LINE = line_of(letter_of({"a": 1}))


@pytest.mark.parametrize("body", [None, b"", b'{"a": "\xc3\xa4"}', b"\xff\x00"])
def test_an_event_is_read_as_it_was(body: bytes | None) -> None:
    event = Event.create(
        source="/x%C3%A4?y", type="t", id="ä\u202e", time="2024-02-29T23:59:59.123456789Z", key="k",
        extensions={"blob": b"\x00", "n": 7, "yes": True, "text": "7"},
    )  # fmt: skip
    if body is not None:
        event = event.replace(data=body, datacontenttype="application/octet-stream")
    letter = letter_of(event, headers={"x-origin": "web"}, traceback=r"one\ntwo")
    line = line_of(letter)
    assert line.isascii()
    assert "\n" not in line
    again = read_line(line, 1)
    assert isinstance(again.event, Event)
    assert (again.event, again.event.body, again.headers) == (event, body, letter.headers)
    assert {name: type(value) for name, value in again.event.attributes.items()} == {
        name: type(value) for name, value in event.attributes.items()
    }


@pytest.mark.parametrize("key", [None, "k"])
def test_a_message_that_is_not_an_event_is_read_as_it_was(key: str | None) -> None:
    letter = letter_of(
        Foreign(b"\xffraw", [("x", b"\xfe"), ("x", None), ("Y", b"")], key), position="7", lane="orders/1"
    )
    again = read_line(line_of(letter), 1)
    assert isinstance(again.event, Foreign)
    assert (again.event.body, list(again.event.headers), again.event.key) == (
        letter.event.body,
        [("x", b"\xfe"), ("x", None), ("Y", b"")],
        key,
    )
    assert again.id == letter.id == "orders/1@7"


def changed(**parts: object) -> str:
    return json.dumps({**json.loads(LINE), **parts})


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "{oops",
        "[" * 100_000,
        changed(format="anybroker dead letter 2"),
        changed(attributes={"id": "x"}),
        changed(attributes={"id": 7, "source": "s", "type": "t", "specversion": "1.0"}),
        changed(attributes={"id": "x", "source": "s", "type": "t", "specversion": "1.0", "b": {"base64": "%"}}),
        changed(body=7),
        changed(headers={"anybroker-replays": "9"}),
        changed(headers={"nats-msg-id": "9"}),
        changed(headers={"anybroker-dead-reason": "two\nlines"}),
        changed(headers={"anybroker-dead-reason": 7}),
        changed(headers=[]),
        changed(foreign=[["x", 7]], key=None),
        changed(foreign=[], key=7),
    ],
)
def test_what_was_not_exported_is_refused(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_line(line, 12)
    assert caught.value.setting == "line 12"
    assert len(str(caught.value)) < 500


def test_letters_are_told_apart(foreign: DeadLetter) -> None:
    assert read_line(line_of(foreign), 1).event.body == b"\xff"
    assert read_line(LINE, 1).id == "o-1"

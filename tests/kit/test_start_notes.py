"""Notes of handler starts, and what other programs may put beside them."""

from __future__ import annotations

import pytest

from anybroker.kit.start_notes import format_starts, parse_starts


def test_a_note_says_what_was_noted() -> None:
    starts = {"a": 1, "é": 1_000_000}
    assert parse_starts(format_starts(starts)) == starts
    assert parse_starts(format_starts(starts).encode()) == starts
    assert parse_starts(format_starts({})) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "1",
        "null",
        "\ud800",
        '{"a": "1"}',
        '{"a": true}',
        '{"a": 1.0}',
        '{"a": 1e400}',
        '{"a": null}',
        '{"a": 0}',
        '{"a": -1, "b": 1}',
        '{"a": 1000001}',
        '{"a": ' + "9" * 4_000 + "}",
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
)
def test_what_is_never_written_is_not_a_note(text: str) -> None:
    assert parse_starts(text) is None


def test_bytes_that_are_not_text_are_not_a_note() -> None:
    assert parse_starts(b"\xff") is None

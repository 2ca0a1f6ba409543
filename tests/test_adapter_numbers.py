"""Numbers that others may have written: counts of starts, positions, versions."""

from __future__ import annotations

import pytest

from anybroker.adapter import count_of, number_of

NOT_NUMBERS = ["", " 1", "1 ", "+1", "-1", "1_0", "1.0", "²", "١", "0x1", "one"]


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("7", 7), ("007", 7), ("999", 999)])
def test_a_number_is_ascii_digits(text: str, number: int) -> None:
    assert number_of(text, 3) == number


@pytest.mark.parametrize("text", [*NOT_NUMBERS, "1000", "0000"])
def test_other_text_is_not_a_number(text: str) -> None:
    assert number_of(text, 3) is None


@pytest.mark.parametrize(("value", "count"), [(1, 1), ("1", 1), (1_000_000, 1_000_000), ("1000000", 1_000_000)])
def test_a_count_is_a_number_or_its_text(value: object, count: int) -> None:
    assert count_of(value) == count


@pytest.mark.parametrize("value", [*NOT_NUMBERS, "0", "1000001", 0, -1, 1_000_001, True, 1.0, None, b"1", [1]])
def test_a_count_that_is_never_written_counts_as_0(value: object) -> None:
    assert count_of(value) == 0

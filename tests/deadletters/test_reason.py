"""Reasons without what differs from one event to the next."""

from __future__ import annotations

import time

import pytest

from anybroker.deadletters.reason import fingerprint_of, pattern_of


@pytest.mark.parametrize(
    ("reason", "pattern"),
    [
        ("card of c4 declined", "card of * declined"),
        ("ValueError: 12 of 500 EUR", "ValueError: * of * EUR"),
        ("no order 6f1c9a77-d0e2-4c5b-9f0a-1b2c3d4e5f60 at 2026-11-30T15:44:44.123Z", "no order * at *"),
        ("user anna.k@example.com is locked", "user * is locked"),
        ("KeyError: 'customer'", "KeyError: *"),
        ('no "big red" shoes, only `small` ones', "no * shoes, only * ones"),
        ("it can't be, it's closed", "it can't be, it's closed"),
        ("got 1, 2, 3 and 4", "got * and *"),
        ("got 1 and 4", "got * and *"),
        ("timeout=30s host=db1.internal:5432", "timeout=* host=*"),
        ("https://api.example.com/orders/77 is gone", "* is gone"),
        ("a\n  b\tc", "a b c"),
        ("", ""),
        ("Kunde Müller fehlt", "Kunde Müller fehlt"),
    ],
)
def test_values_are_left_out(reason: str, pattern: str) -> None:
    assert pattern_of(reason) == pattern


def test_the_fingerprint_tells_class_handler_and_words_apart() -> None:
    one = fingerprint_of("shop.Declined", "charge", "card of c4 declined")
    assert one == "r-d3700bec3a"  # as in every version: people write it down
    assert one == fingerprint_of("shop.Declined", "charge", "card of c5 declined")
    others = {
        fingerprint_of("shop.Stolen", "charge", "card of c4 declined"),
        fingerprint_of("shop.Declined", "refund", "card of c4 declined"),
        fingerprint_of("shop.Declined", "charge", "card of c4 expired"),
    }
    assert len(others | {one}) == 4


def test_a_reason_that_was_cut_elsewhere_is_the_same() -> None:
    words = "the bank says no " * 60
    assert fingerprint_of("E", "h", words) == fingerprint_of("E", "h", words[:500] + "…")


@pytest.mark.parametrize("text", ["'" * 200_000, "a." * 100_000, "'a" * 100_000, "1 " * 100_000, "\ud800" * 1000])
def test_no_text_of_another_program_takes_long(text: str) -> None:
    began = time.perf_counter()
    fingerprint_of("E", "h", text)
    assert time.perf_counter() - began < 0.2

"""Each checker of the suite finds its own seeded bug, and finds nothing in a history that is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anybroker_contract._checkers import (
    Handling,
    at_once,
    duplicates,
    inversions,
    lost,
    overlaps,
    repeats,
    unexpected,
)

PUBLISHED: list[tuple[str | None, str]] = [(f"k{number % 3}", f"w-{number}") for number in range(12)]
IDS = [id_ for _, id_ in PUBLISHED]


def history() -> list[Handling]:
    """Every event once, in order, one after the other in each key, three keys side by side."""
    handled = []
    for number, (key, id_) in enumerate(PUBLISHED):
        started = 1.0 + number // 3
        handled.append(Handling(id_, key, 1, "m", started, started + 0.9))
    return handled


def test_a_history_that_is_right() -> None:
    handled = history()
    assert lost(IDS, handled) == []
    assert unexpected(IDS, handled) == []
    assert duplicates(handled) == {}
    assert repeats(handled) == {}
    assert inversions(PUBLISHED, handled) == []
    assert overlaps(handled) == []
    assert at_once(handled) == 3


def test_one_dropped_is_lost() -> None:
    handled = history()
    del handled[4]
    assert lost(IDS, handled) == ["w-4"]


@pytest.mark.parametrize("spoil", [{"failed": "ValueError"}, {"ended": None}])
def test_one_that_was_started_and_not_finished_is_lost(spoil: dict[str, object]) -> None:
    handled = history()
    for name, value in spoil.items():
        setattr(handled[4], name, value)
    assert lost(IDS, handled) == ["w-4"]


def test_one_invented_is_unexpected() -> None:
    assert unexpected(IDS, [*history(), Handling("ghost-1", None, 1)]) == ["ghost-1"]


def test_one_handled_twice_is_a_duplicate() -> None:
    handled = [*history(), Handling("w-3", "k0", 1, "m", 9.0, 9.5)]
    assert duplicates(handled) == {"w-3": 2}
    assert repeats(handled) == {"w-3": 2}


def test_a_failed_start_is_a_repeat_and_no_duplicate() -> None:
    handled = [*history(), Handling("w-3", "k0", 1, "m", 0.5, 0.6, failed="ValueError")]
    assert duplicates(handled) == {}
    assert repeats(handled) == {"w-3": 2}


def test_two_swapped_are_an_inversion() -> None:
    handled = history()
    first, second = handled[3], handled[6]
    first.started, second.started = second.started, first.started
    assert inversions(PUBLISHED, handled) == [("w-6", "w-3")]


def test_swapped_events_of_two_keys_are_none() -> None:
    handled = history()
    handled[3].started, handled[4].started = handled[4].started, handled[3].started
    assert inversions(PUBLISHED, handled) == []


def test_a_repeated_suffix_is_no_inversion() -> None:
    again = [Handling(item.id, item.key, 2, "n", item.started + 10, item.started + 11) for item in history()[6:]]
    assert inversions(PUBLISHED, history() + again) == []


def test_one_late_event_is_one_inversion_and_not_one_for_each_before_it() -> None:
    handled = history()
    handled[0].started = 99.0
    assert inversions(PUBLISHED, handled) == [("w-9", "w-0")]


def test_without_a_key_there_is_no_order() -> None:
    published: list[tuple[str | None, str]] = [(None, "a"), (None, "b")]
    assert inversions(published, [Handling("b", None, 1, started=1.0), Handling("a", None, 1, started=2.0)]) == []


@pytest.mark.parametrize("end", [lambda item: item.started + 1.5, lambda _: None], ids=["late", "never"])
def test_two_of_a_key_at_once_overlap(end: Callable[[Handling], float | None]) -> None:
    handled = history()
    handled[3].ended = end(handled[3])
    assert ("w-3", "w-6") in overlaps(handled)
    assert at_once(handled) == 4

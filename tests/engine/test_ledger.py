"""The ledger of a cumulative lane: the committed position never passes an open event, and the note tells the rest."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybroker.engine.ledger import NOTE_LIMIT, LaneLedger, Note, parse_note, write_note


def positions(draw: st.DrawFn) -> list[int]:
    """Growing positions with gaps."""
    steps = draw(st.lists(st.integers(1, 4), min_size=1, max_size=60))
    start = draw(st.integers(0, 10**12))
    found, at = [], start
    for step in steps:
        found.append(at)
        at += step
    return found


received = st.composite(positions)()


def finished_of(note: Note) -> set[int]:
    return {position for first, last in note.ranges for position in range(first, last + 1)}


@given(received, st.data())
def test_position_never_passes_an_open_event_and_reaches_the_end(places: list[int], data: st.DataObject) -> None:
    ledger = LaneLedger()
    for place in places:
        assert ledger.receive(place) == 0
    order = data.draw(st.permutations(places))
    still_open = set(places)
    for place in order:
        ledger.finish(place)
        still_open.discard(place)
        expected = min(still_open) if still_open else places[-1] + 1
        assert ledger.position == expected
    assert len(ledger) == 0
    assert ledger.note() == ""


@given(received, st.data())
def test_a_new_member_handles_exactly_what_was_open(places: list[int], data: st.DataObject) -> None:
    first = LaneLedger()
    for place in places:
        first.receive(place)
    done = data.draw(st.sets(st.sampled_from(places)))
    for place in done:
        first.finish(place)
    position = first.position
    assert position is not None
    second = LaneLedger(first.note())
    again = [place for place in places if place >= position and second.receive(place) >= 0]
    assert again == [place for place in places if place not in done]


@given(received, st.dictionaries(st.integers(0, 59), st.integers(1, 99), max_size=5))
def test_attempts_of_held_events_travel_in_the_note(places: list[int], held: dict[int, int]) -> None:
    ledger = LaneLedger()
    for place in places:
        ledger.receive(place)
    expected = {places[at]: starts for at, starts in held.items() if at < len(places)}
    ledger.attempts.update(expected)
    assert parse_note(ledger.note()).attempts == expected


def test_a_note_that_does_not_fit_stops_the_lane_until_it_does() -> None:
    ledger = LaneLedger()
    for place in range(20_000):
        ledger.receive(place)
    for place in range(1, 20_000, 2):
        ledger.finish(place)
    note = ledger.note()
    assert len(note) <= NOTE_LIMIT
    assert ledger.full
    assert finished_of(parse_note(note)) < set(range(1, 20_000, 2))
    for place in range(0, 20_000, 2):
        ledger.finish(place)
    ledger.note()
    assert not ledger.full


@pytest.mark.parametrize(
    "note",
    [
        *("", "somebody else's", "2|5|1|", "1|x|1|", "1|5|3-1|", "1|5|0-|0:", "1|5|1|0:x", "1|5", "1|5|1|1|1"),
        *("1|-5|1|", "1|5_0|1|", "1|5|-1|", "1|5|1|0:-2", "1|5|1|0:0", "1|5||0:1000001", "1|5||\u0663:1"),
        f"1|{'9' * 3_000}|1|",
        f"1|5|1|0:{'9' * 3_000}",
    ],
    ids=range(18),
)
def test_a_note_that_is_not_ours_counts_as_empty(note: str) -> None:
    read = parse_note(note)
    assert (read.ranges, read.attempts) == ([], {})


@pytest.mark.parametrize(
    "note",
    [
        "1|-5|1|",
        "1|5|3,3|",
        "1|5|3-9,4-5|",
        "1|5||0:-1",
        "1|5||0:" + "9" * 300,
        "1|5||-1:2",
        "1|" + "9" * 3000 + "|0-9|",
        "1|1_0|1|",
        "1|٣|1|",
        "1|5|1" + " " * NOTE_LIMIT + "|",
    ],
)
def test_a_number_that_we_do_not_write_makes_it_somebody_elses(note: str) -> None:
    read = parse_note(note)
    assert (read.ranges, read.attempts) == ([], {})


def test_a_note_takes_no_more_memory_than_it_has_characters() -> None:
    """Any client that may commit for the group can write a billion finished positions into a few hundred bytes."""
    note = "1|0|" + ",".join(f"{2 * at}000000-{2 * at}999999" for at in range(1, 200)) + "|"
    tracemalloc.start()
    try:
        ledger = LaneLedger(note)
        assert ledger.receive(2_000_000) == -1
        assert ledger.receive(3_000_000) == 0
        assert len(ledger.note()) <= NOTE_LIMIT
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000


def test_what_is_noted_and_does_not_come_again_is_carried_on() -> None:
    ledger = LaneLedger("1|100|1-3,7,9-12|0:2,8:1")
    assert [ledger.receive(position) for position in (100, 102, 104)] == [2, -1, 0]
    ledger.finish(104)
    assert ledger.note() == "1|100|2,4,7,9-12|0:2,8:1"
    assert [ledger.receive(position) for position in (107, 108, 110, 113)] == [-1, 1, -1, 0]
    ledger.finish(100)
    assert (ledger.position, ledger.note()) == (108, "1|108|2|0:1")


@given(
    st.integers(0, 10**9), st.sets(st.integers(0, 10**4)), st.dictionaries(st.integers(0, 10**4), st.integers(1, 99))
)
def test_what_fits_reads_back(position: int, finished: set[int], attempts: dict[int, int]) -> None:
    absolute = {position + at for at in finished}
    starts = {position + at: count for at, count in attempts.items()}
    text, fitted = write_note(position, absolute, starts)
    assert len(text) <= NOTE_LIMIT
    assert text.isascii()
    read = parse_note(text)
    assert finished_of(read) <= absolute
    assert read.attempts.items() <= starts.items()
    if fitted:
        assert (finished_of(read), read.attempts) == (absolute, starts)

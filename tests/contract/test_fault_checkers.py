"""Each checker of the faults harness finds its own seeded bug, and finds nothing in a history that is right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anybroker_contract.faults.checkers import (
    buried,
    duplicates,
    invented,
    inversions,
    lost,
    recoveries,
    take_overs,
    unresolved,
)
from anybroker_contract.faults.history import Follower, History, Record, Writer, read
from anybroker_contract.faults.verdict import judge

COUNT, KEYS = 24, 4
PUBLISHER, MEMBER, OTHER = 10, 11, 12
Story = list[dict[str, Any]]


def at(what: str, t: float, pid: int, **facts: Any) -> dict[str, Any]:
    return {"what": what, "t": t, "pid": pid, **facts}


def story() -> Story:
    """One event each second, published and handled in order; the broker is killed at 10.5 and up again at 10.7."""
    lines = [at("run", 0.0, 1, members=2, in_flight=1, lease=5.0, deadline=30.0, settle=0.1)]
    for number in range(COUNT):
        event = {"id": f"w-{number}", "key": f"k{number % KEYS}"}
        lines += [
            at("invoke", number, PUBLISHER, **event),
            at("ok", number + 0.1, PUBLISHER, id=event["id"]),
            at("start", number + 0.2, MEMBER, **event, attempt=1),
            at("effect", number + 0.3, MEMBER, id=event["id"]),
        ]
    lines += [at("fault", 10.5, 1, name="broker killed", number=1), at("over", 10.7, 1, name="broker killed", number=1)]
    return lines


def history(lines: Story) -> History:
    return History.of(
        Record(
            line["what"],
            line["t"],
            line["pid"],
            {name: line[name] for name in line if name not in ("what", "t", "pid")},
        )
        for line in lines
    )


def line_of(lines: Story, what: str, number: int) -> dict[str, Any]:
    return next(line for line in lines if line["what"] == what and line.get("id") == f"w-{number}")


def quick(lines: Story) -> Story:
    """Each publish is confirmed after 0.01 s."""
    for number in range(COUNT):
        line_of(lines, "ok", number)["t"] = number + 0.01
    return lines


def without(lines: Story, number: int) -> Story:
    """Nothing handled of that event."""
    return [line for line in lines if line["what"] not in ("start", "effect") or line["id"] != f"w-{number}"]


def handled(number: int, t: float, pid: int = OTHER) -> Story:
    """It again."""
    return [
        at("start", t, pid, id=f"w-{number}", key=f"k{number % KEYS}", attempt=2),
        at("effect", t + 0.1, pid, id=f"w-{number}"),
    ]


def found(lines: Story) -> list[str]:
    return judge(history(lines), attempts=2).problems


def count_duplicates(lines: Story) -> tuple[int, list[str], int]:
    twice = duplicates(history(lines), lease=5.0, settle=0.1, in_flight=1)
    return len(twice.counts), twice.unexplained, twice.bound


def test_a_history_that_is_right() -> None:
    verdict = judge(history(story()), attempts=2)
    assert verdict.problems == []
    assert (verdict.word, verdict.published, verdict.accepted) == ("held", COUNT, COUNT)
    assert (verdict.publishing, verdict.consuming) == (pytest.approx(0.4), pytest.approx(0.5))


# ------------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize(("number", "part"), [(1, "prefix"), (9, "middle"), (21, "postfix")])
def test_one_dropped_is_lost(number: int, part: str) -> None:
    """Keys go round: 1, 9 and 21 are the first, a middle and the last one of k1."""
    lines = without(story(), number)
    missing = lost(history(lines))
    assert getattr(missing, part) == missing.ids == [f"w-{number}"]
    assert found(lines) == [f"1 lost ({part}): w-{number}"]


def test_a_key_that_is_not_handled_at_all_is_lost_at_its_end() -> None:
    lines = story()
    for number in range(1, COUNT, KEYS):
        lines = without(lines, number)
    assert len(lost(history(lines)).postfix) == COUNT // KEYS


def test_one_that_was_started_and_not_finished_is_lost() -> None:
    lines = story()
    lines.remove(line_of(lines, "effect", 9))
    assert lost(history(lines)).ids == ["w-9"]


def test_one_that_failed_is_lost_unless_it_is_a_dead_letter() -> None:
    lines = story()
    line_of(lines, "effect", 9).update(what="error", error="ValueError")
    assert lost(history(lines)).ids == ["w-9"]
    assert lost(history([*lines, at("dead", 30.0, 1, id="w-9")])).ids == []


def test_one_without_a_receipt_is_not_lost() -> None:
    lines = without(story(), 9)
    line_of(lines, "ok", 9).update(what="unknown", error="PublishOutcomeUnknown: …")
    assert lost(history(lines)).ids == []


def test_dead_letters_from_before_their_topic_was_deleted_are_excused_and_later_ones_are_not() -> None:
    lines = story()
    for number in (9, 13):
        line_of(lines, "effect", number).update(what="error", error="ValueError")
        line_of(lines, "start", number).update(attempt=2)
    lines.append(at("fault", 11.0, 1, name="topic deleted", number=2))
    lines.append(at("over", 11.1, 1, name="topic deleted", number=2))
    made = history(lines)
    assert buried(made, "topic deleted", 2) == {"w-9"}
    assert lost(made, buried(made, "topic deleted", 2)).ids == ["w-13"]


@pytest.mark.parametrize("what", ["start", "dead"])
def test_one_invented(what: str) -> None:
    lines = [*story(), at(what, 9.0, MEMBER, id="ghost-1", key="k1", attempt=1)]
    assert invented(history(lines)) == ["ghost-1"]
    assert "1 invented: ghost-1" in found(lines)


# ------------------------------------------------------------------------------------------------------------ order


def test_two_swapped_of_one_key() -> None:
    lines = story()
    for what in ("start", "effect"):
        first, second = line_of(lines, what, 5), line_of(lines, what, 9)
        first["t"], second["t"] = second["t"], first["t"]
    assert inversions(history(lines)) == [("w-9", "w-5")]


def test_two_swapped_of_two_keys_are_none() -> None:
    lines = story()
    first, second = line_of(lines, "start", 5), line_of(lines, "start", 6)
    first["t"], second["t"] = second["t"], first["t"]
    assert inversions(history(lines)) == []


def test_a_repeated_suffix_is_no_inversion() -> None:
    lines = [*story(), *handled(5, 12.0), *handled(9, 12.5)]
    assert inversions(history(lines)) == []


# ------------------------------------------------------------------------------------------------------- duplicates


def test_one_handled_twice_far_from_a_fault_is_unexplained() -> None:
    assert count_duplicates([*story(), *handled(3, 11.0)])[:2] == (1, ["w-3"])
    assert "1 duplicates that no fault explains: w-3" in found([*story(), *handled(3, 11.0)])


def test_one_that_was_settled_before_the_fault_is_unexplained_although_it_comes_again_after_it() -> None:
    lines = quick([*story(), *handled(10, 11.0)])
    # It had ended 0.2 s before the fault, and 0.1 s is what a settlement takes, with 0.02 s for this broker.
    assert count_duplicates(lines)[1] == ["w-10"]


def test_a_broker_that_took_long_to_confirm_publishes_before_the_fault_takes_as_long_to_settle() -> None:
    lines = quick([*story(), *handled(10, 11.0)])
    line_of(lines, "ok", 9)["t"] = 9.04
    assert count_duplicates(lines)[1] == ["w-10"]
    line_of(lines, "ok", 9)["t"] = 9.06
    assert count_duplicates(lines)[1] == []


@pytest.mark.parametrize("ended", [10.45, 10.6, 10.75])
def test_one_in_flight_at_the_fault_is_explained(ended: float) -> None:
    lines = [*story(), *handled(10, 12.0)]
    line_of(lines, "effect", 10)["t"] = ended
    assert count_duplicates(lines)[:2] == (1, [])


def test_one_that_was_being_published_at_the_fault_is_explained() -> None:
    lines = [*story(), *handled(10, 20.0)]
    line_of(lines, "ok", 10)["t"] = 10.6
    assert count_duplicates(lines) == (1, [], 1)


def test_a_process_that_was_asked_to_end_explains_nothing() -> None:
    lines = [*story(), *handled(10, 12.0)]
    line_of(lines, "effect", 10)["t"] = 10.6
    next(line for line in lines if line["what"] == "fault")["graceful"] = True
    assert count_duplicates(lines) == (1, ["w-10"], 0)


def test_more_duplicates_than_were_in_flight() -> None:
    """Soon after the fault, while lanes move, and yet none of them was in flight at it."""
    lines = quick(story())
    for number in range(11, 15):
        lines += handled(number, 16.0 + number)
    assert count_duplicates(lines) == (4, [], 0)
    assert found(lines) == ["4 duplicates, and at most 0 were in flight at the faults"]


def test_what_one_member_had_and_what_the_others_may_have_is_the_bound_of_its_end() -> None:
    lines = quick([*story(), *handled(15, 18.0)])
    line_of(lines, "effect", 15)["t"] = 15.5
    lines.append(at("fault", 15.25, 1, name="member stopped", number=2, target=MEMBER))
    lines.append(at("over", 15.25, 1, name="member stopped", number=2))
    assert count_duplicates(lines) == (1, [], 2)


def test_a_handler_longer_than_the_lease_explains_its_copy() -> None:
    lines = [*story(), *handled(2, 8.0)]
    line_of(lines, "effect", 2)["t"] = 9.0
    assert count_duplicates(lines)[:2] == (1, [])


# -------------------------------------------------------------------------------------------------------- publishes


def _drop(lines: Story) -> None:
    lines.remove(line_of(lines, "ok", 7))


def _delay(lines: Story) -> None:
    line_of(lines, "ok", 7)["t"] = 7 + 31.5


def _untype(lines: Story) -> None:
    line_of(lines, "ok", 7).update(what="fail", error="RuntimeError: …", typed=False)


def _forget(lines: Story) -> None:
    line_of(lines, "ok", 20).update(what="unknown", t=22.0, error="PublishOutcomeUnknown: …", typed=True)


@pytest.mark.parametrize(("spoil", "kind"), [(_drop, "open"), (_delay, "late"), (_untype, "untyped")])
def test_a_publish_that_does_not_end_as_it_must(spoil: Callable[[Story], None], kind: str) -> None:
    lines = story()
    spoil(lines)
    ended = unresolved(history(lines), 30.0)
    assert getattr(ended, kind) == ended.ids == ["w-7"]
    assert len(found(lines)) == 1


def test_a_failure_that_no_fault_explains() -> None:
    lines = story()
    _forget(lines)
    ended = unresolved(history(lines), 30.0)
    assert ended.unexplained == ended.ids == ["w-20"]
    assert found(lines) == ["1 failed publishes that no fault explains: w-20"]


def test_what_was_done_to_a_member_explains_no_failure_of_a_publish() -> None:
    lines = story()
    _forget(lines)
    for what, t in (("fault", 20.5), ("over", 20.7)):
        lines.append(at(what, t, 1, name="member killed", number=2, target=MEMBER))
    assert unresolved(history(lines), 30.0).unexplained == ["w-20"]


def test_a_failure_soon_after_a_fault_of_the_broker_is_explained() -> None:
    for number, explained in ((11, True), (15, True), (16, False)):  # the broker is up again at 10.7
        lines = story()
        line_of(lines, "ok", number).update(what="fail", error="Unavailable: …", typed=True)
        assert (unresolved(history(lines), 30.0).unexplained == []) is explained


def test_a_typed_failure_by_the_deadline_is_an_outcome() -> None:
    lines = without(story(), 7)
    line_of(lines, "ok", 7).update(what="fail", t=37.5, error="Unavailable: …", typed=True)
    assert unresolved(history(lines), 30.0).ids == []


# --------------------------------------------------------------------------------------------------------- recovery


def shifted(lines: Story, seconds: float, *what: str, since: float = 10.6) -> Story:
    """These lines later, from the fault on."""
    return [{**line, "t": line["t"] + seconds * (line["what"] in what and line["t"] >= since)} for line in lines]


def test_publishing_that_goes_on_late() -> None:
    lines = shifted(story(), 4.0, "invoke", "ok", "start", "effect")
    (recovery,) = recoveries(history(lines))
    assert recovery.publishing == pytest.approx(4.4)
    assert found(lines) == ["broker killed: publishing worked again after 4.4 s, not 3"]


def test_publishing_that_never_goes_on() -> None:
    lines = [line for line in story() if line["t"] < 10.7]
    lines += [at("over", 10.7, 1, name="broker killed", number=1), at("invoke", 12.0, PUBLISHER, id="w-99", key="k0")]
    (recovery,) = recoveries(history(lines))
    assert recovery.publishing == float("inf")


def test_a_key_that_stands_still_after_a_fault() -> None:
    """Accepted before the broker died, handled 12 s after it was back, with its whole key; the other keys went on."""
    lines = story()
    for number in range(10, COUNT, KEYS):
        for what in ("start", "effect"):
            line_of(lines, what, number)["t"] += 13.0
    (recovery,) = recoveries(history(lines))
    assert recovery.consuming == pytest.approx(12.5)
    assert found(lines) == ["broker killed: every key was handled again after 12.5 s, not 10"]


def test_what_is_cut_short_by_the_next_fault_is_not_measured() -> None:
    lines = shifted(story(), 4.0, "invoke", "ok", "start", "effect")
    lines += [at("fault", 12.0, 1, name="broker killed", number=2), at("over", 15.0, 1, name="x", number=2)]
    first, second = recoveries(history(lines))
    assert (first.publishing, second.publishing) == (None, pytest.approx(0.1))


def server_killed(late: float) -> Story:
    """One of three servers dies at 10.05 for 10 s; one key, with a publish in progress, works again this late."""
    lines = [line for line in story() if line["what"] not in ("fault", "over")]
    for number in range(10, COUNT, KEYS):
        for what in ("ok", "start", "effect"):
            line_of(lines, what, number)["t"] += late
    facts = {"name": "server 3 killed", "number": 1}
    lines += [at("fault", 10.05, 1, **facts), at("majority", 10.05, 1, **facts), at("over", 20.05, 1, **facts)]
    return lines


def test_every_key_goes_on_while_a_majority_of_the_servers_is_there() -> None:
    (recovery,) = recoveries(history(server_killed(4.0)))
    assert (recovery.publishing, recovery.consuming) == (pytest.approx(4.05), pytest.approx(4.15))
    assert found(server_killed(4.0)) == []


def test_what_is_handled_while_a_server_is_away_is_not_in_flight_for_all_that_time() -> None:
    """Its kill is what costs copies: of what was in flight then, and of what its clients had received."""
    lines = server_killed(4.0)
    for number in range(15, 19):
        lines += handled(number, 20.0 + number)
    assert count_duplicates(lines) == (4, [], 11), "the old rule, of a history without hits"
    lines.append(at("hit", 10.06, 1, name="killed: 3", since=10.05))
    count, unexplained, bound = count_duplicates(lines)
    assert (count, unexplained, bound) == (4, [], 2), "w-10, which was being published, and one that a member had"
    assert found(lines) == ["4 duplicates, and at most 3 were in flight at the faults"], "of two members"


def test_one_key_that_waits_for_the_server_that_is_away() -> None:
    """Others are published and handled all the time; it works again before the fault is over, but too late."""
    assert found(server_killed(6.0)) == [
        "server 3 killed: publishing worked again after 6.1 s, not 5",
        "server 3 killed: every key was handled again after 6.1 s, not 5",
    ]


def test_members_whose_leases_ran_out_meanwhile_have_as_long_again() -> None:
    lines = server_killed(6.0)
    next(line for line in lines if line["what"] == "fault")["t"] = 4.0
    assert found(lines) == ["server 3 killed: publishing worked again after 6.1 s, not 5"]


def killed_member(again: float | None) -> Story:
    """A member dies at 15.25 with w-15 in its handler; another one starts it at that time."""
    lines = story()
    lines.remove(line_of(lines, "effect", 15))
    lines.append(at("fault", 15.25, 1, name="member killed", number=2, target=MEMBER))
    lines.append(at("over", 15.25, 1, name="member killed", number=2))
    return lines if again is None else [*lines, *handled(15, again)]


def test_taking_over_is_measured() -> None:
    assert take_overs(history(killed_member(18.25))) == {MEMBER: pytest.approx(3.0)}
    assert found(killed_member(18.25)) == []


@pytest.mark.parametrize("again", [26.0, None], ids=["late", "never"])
def test_taking_over_late(again: float | None) -> None:
    took = take_overs(history(killed_member(again)))[MEMBER]
    assert took > 10.0
    assert any(f"started again after {took:.1f} s" in problem for problem in found(killed_member(again)))


@pytest.mark.parametrize(("again", "took"), [(25.0, 8.0), (28.0, 11.0), (None, float("inf"))])
def test_taking_over_after_a_second_kill_counts_from_that_one(again: float | None, took: float) -> None:
    """The one that was to take over died too, at 17: the limit is not waived, and holds from there."""
    lines = killed_member(again)
    lines.append(at("fault", 17.0, 1, name="member killed", number=3, target=OTHER))
    lines.append(at("over", 17.0, 1, name="member killed", number=3))
    assert take_overs(history(lines)) == {MEMBER: pytest.approx(took)}
    assert any("was killed was started again after" in problem for problem in found(lines)) is (took > 10.0)


def test_taking_over_is_not_measured_across_a_fault_of_the_broker() -> None:
    lines = killed_member(30.0)
    lines += [at("fault", 17.0, 1, name="broker killed", number=3), at("over", 17.5, 1, name="broker killed", number=3)]
    assert take_overs(history(lines)) == {}


# ------------------------------------------------------------------------------------------------------ the file


@pytest.fixture
def written(tmp_path: Path) -> Iterator[tuple[Path, Writer]]:
    path = tmp_path / "history.jsonl"
    writer = Writer(path)
    yield path, writer
    writer.close()


def test_what_is_written_is_read(written: tuple[Path, Writer]) -> None:
    path, writer = written
    other = Writer(path)
    writer.write("run", lease=5.0)
    for number in range(3):
        other.write("invoke", id=f"w-{number}", key="k0")
    other.close()
    made = read(path)
    assert made.settings == {"lease": 5.0}
    assert list(made.publishes) == ["w-0", "w-1", "w-2"]
    assert {"what", "t", "wall", "pid", "id", "key"} == json.loads(path.read_bytes().splitlines()[1]).keys()


def test_a_torn_last_line_is_left_out_and_counted(written: tuple[Path, Writer]) -> None:
    path, writer = written
    writer.write("invoke", id="w-0", key="k0")
    with path.open("ab") as file:
        file.write(b'{"what":"ok","t":1.0,"pid":1,"i')
    made = read(path)
    assert (list(made.publishes), made.torn) == (["w-0"], 1)


def test_what_another_process_writes_behind_a_torn_line_is_read(written: tuple[Path, Writer]) -> None:
    path, writer = written
    with path.open("ab") as file:
        file.write(b'{"what":"start","t":1.0,"pid":1,"i')
    writer.write("invoke", id="w-0", key="k0")
    writer.write("ok", id="w-0")
    made = read(path)
    assert (list(made.acknowledged), made.torn) == (["w-0"], 1)


def test_a_follower_leaves_what_is_not_whole_for_later(written: tuple[Path, Writer]) -> None:
    path, writer = written
    follower = Follower(path)
    writer.write("ready")
    with path.open("ab") as file:
        file.write(b'{"what":"ok","t":1.0,"pid":1,"id":"w')
        file.flush()
        assert [record.what for record in follower.new()] == ["ready"]
        file.write(b'-0"}\n')
        file.flush()
        assert [record.facts for record in follower.new()] == [{"id": "w-0"}]
    assert follower.new() == []

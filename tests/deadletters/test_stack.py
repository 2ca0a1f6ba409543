"""The traceback of a dead letter: whose frames it has, and what is cut where there is no room."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybroker import Event, Reject
from anybroker.cloudevents.json_format import parse_json
from anybroker.deadletters.letter import send_fitting
from anybroker.deadletters.stack import Stack, stack_of
from anybroker.errors import AttemptsExhausted, EventTooLarge, InvalidEvent, UnhandledError
from anybroker.names import one_or_several
from anybroker.printable import in_one_line, lines_again

TEXT = st.one_of(
    st.text(alphabet=st.characters(codec=None)),
    st.text(alphabet="\\n\n\r\x85ж🎉\x1b\u202e\ud800a ", max_size=3_000),
    st.lists(st.text(alphabet="ab\\é", max_size=700), max_size=60).map("\n".join),
)
LEFT_OUT = re.compile(r"… ([0-9]+) bytes are left out here …")


def shown(error: BaseException) -> list[str]:
    stack = stack_of(error)
    return [] if stack is None else lines_again(stack.within(100_000)).split("\n")


def caught(call: Callable[..., Any], *arguments: Any) -> BaseException:
    try:
        call(*arguments)
    except BaseException as exc:  # noqa: BLE001 - that is what it is for
        return exc
    raise AssertionError("nothing was raised")


# ---------------------------------------------------------------------------------------------------- lines in a header


@given(TEXT)
def test_lines_come_back_as_they_were(text: str) -> None:
    line = in_one_line(text)
    assert "\n" not in line
    assert lines_again(line) == text
    assert lines_again(in_one_line(line)) == line


def test_escapes_of_others_stay() -> None:
    assert lines_again(r"a\tb\x1b \\n \n \ end" + "\\") == "a\\tb\\x1b \\n \n \\ end\\"


# ----------------------------------------------------------------------------------------------------------- the middle


@given(TEXT, st.integers(-10, 3_000))
def test_it_never_takes_more_than_there_is_room_for(text: str, limit: int) -> None:
    line = Stack(text).within(limit)
    assert len(line.encode()) <= max(limit, 0)
    assert line.isprintable()
    lines = lines_again(line).split("\n")
    assert sum(LEFT_OUT.fullmatch(each) is not None for each in lines) <= 1


@given(st.lists(st.text(alphabet="aé", min_size=1, max_size=250), min_size=1, max_size=80), st.integers(100, 4_000))
def test_the_first_and_the_last_lines_stay_and_the_count_is_exact(given_lines: list[str], limit: int) -> None:
    text = "\n".join(given_lines) + "\n"
    line = Stack(text).within(limit)
    if not line:
        assert len(given_lines[-1].encode()) + 60 > limit
        return
    kept = lines_again(line).split("\n")
    at = [number for number, each in enumerate(kept) if LEFT_OUT.fullmatch(each)]
    if not at:
        assert kept == given_lines
        return
    head, tail = kept[: at[0]], kept[at[0] + 1 :]
    assert tail
    assert head + tail == given_lines[: len(head)] + given_lines[-len(tail) :]
    found = LEFT_OUT.fullmatch(kept[at[0]])
    assert found is not None
    assert int(found[1]) == len(text.encode()) - sum(len(each.encode()) + 1 for each in head + tail)


def test_a_long_line_leaves_room_for_the_others() -> None:
    lines = lines_again(Stack("first\n" + "a" * 50_000 + "z" * 50_000 + "\nlast").within(2_000)).split("\n")
    assert lines[0] == "first"
    assert re.fullmatch("a{250,} … z{250,}", lines[1])
    assert len(lines[1].encode()) <= 512
    assert lines[2] == "last"


# --------------------------------------------------------------------------------------------------------- whose frames


def test_frames_of_the_library_that_it_begins_with_are_left_out() -> None:
    class Odd:
        def __iter__(self) -> Any:
            raise ZeroDivisionError("from inside")

    def outer() -> None:
        one_or_several("here", Odd())  # the library calls back

    error = caught(one_or_several, "here", Odd())
    outside = error.__traceback__
    assert outside is not None
    error.__traceback__ = outside.tb_next  # as it is where the library itself has called
    lines = shown(error)
    assert not [line for line in lines if "names.py" in line]
    assert lines[-1] == "ZeroDivisionError: from inside"
    within = shown(caught(outer))
    assert [line for line in within if "names.py" in line]  # between others it stays


def test_an_error_of_the_library_that_it_raised_itself_has_none() -> None:
    error = caught(parse_json, b"{")
    assert isinstance(error, InvalidEvent)
    trace: TracebackType | None = error.__traceback__
    assert trace is not None
    assert shown(error)  # of this test
    error.__traceback__ = trace.tb_next
    assert stack_of(error) is None
    assert stack_of(UnhandledError("t")) is None
    assert stack_of(ValueError("never raised")) is None


def test_a_fault_of_the_library_has_all_frames() -> None:
    error = caught(one_or_several, "here", object())
    assert error.__traceback__ is not None
    fault = ZeroDivisionError("a fault").with_traceback(error.__traceback__.tb_next)
    assert [line for line in shown(fault) if "names.py" in line]


def test_causes_and_members_of_groups_are_in_it() -> None:
    def fail(name: str) -> None:
        raise KeyError(name)

    def chain() -> None:
        group = BaseExceptionGroup("several", [caught(fail, "one"), Reject("two")])
        raise AttemptsExhausted(3, "no") from group

    lines = shown(caught(chain))
    text = "\n".join(lines)
    for each in ("KeyError: 'one'", "Reject: two", "direct cause", "AttemptsExhausted: no attempt left of 3: no"):
        assert each in text


def test_a_group_of_thousands_takes_a_moment() -> None:
    def fail(*failures: Exception) -> None:
        raise ExceptionGroup("several", failures)

    lines = shown(caught(fail, *(KeyError(number) for number in range(5_000))))
    assert lines[0] == "Traceback (most recent call last):"
    assert [line for line in lines if line.endswith(", in fail")]
    assert lines[-2] == "builtins.ExceptionGroup: several (5000 sub-exceptions)"
    assert "more than 100" in lines[-1]


def test_a_recursion_of_any_depth_takes_a_moment() -> None:
    def deeper(left: int) -> None:
        if left:
            deeper(left - 1)
        raise ValueError("the bottom")

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        error = caught(deeper, 15_000)
    finally:
        sys.setrecursionlimit(limit)
    stack = stack_of(error)
    assert stack is not None
    lines = lines_again(stack.within(8_192)).split("\n")
    assert lines[-1] == "ValueError: the bottom"
    assert len(lines) < 100


class Wordless(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Noted(Exception):
    def __getattribute__(self, name: str) -> Any:
        if name in ("__notes__", "__cause__"):
            raise ZeroDivisionError
        return super().__getattribute__(name)


@pytest.mark.parametrize("kind", [Wordless, Noted])
def test_an_exception_whose_text_cannot_be_made(kind: type[Exception]) -> None:
    def fail() -> None:
        raise kind

    (*_, last) = shown(caught(fail))
    assert last


# ------------------------------------------------------------------------------------------------- the order of cutting


def test_what_is_cut_first() -> None:
    """The less room there is, the more is gone: the middle of the stack, the stack, the attempts, then as before."""
    stack = Stack("Traceback\n" + "".join(f"  frame {number}\n" for number in range(2_000)) + "ValueError: last\n")
    names = ("traceback", "history", "error", "handler", "topic", "reason")
    facts = {f"anybroker-dead-{name}": name * 40 for name in names} | {"x-own": "1"}
    facts["anybroker-dead-traceback"] = stack.within(8_192)
    facts["anybroker-dead-error"] = "e" * 4_000

    def sent(room: int) -> dict[str, str]:
        last: dict[str, str] = {}

        async def send(_: object, headers: dict[str, str]) -> None:
            size = len(json.dumps(headers))
            if size > room:
                raise EventTooLarge("too large", size=size, limit=room)
            last.update(headers)

        event = Event.create(1, source="s", type="t")
        cut = asyncio.run(send_fitting(send, event, facts, stack))
        assert set(cut) == {name for name, value in facts.items() if last.get(name) != value}
        return last

    before = sent(100_000)
    assert before == facts
    for room in range(15_000, 100, -100):
        now = sent(room)
        trace = now.get("anybroker-dead-traceback")
        if trace is not None:
            assert {**now, "anybroker-dead-traceback": ""} == {**facts, "anybroker-dead-traceback": ""}
            lines = lines_again(trace).split("\n")
            assert lines[-1] == "ValueError: last"
            assert room > 5_000
        elif "anybroker-dead-history" in now:
            assert now.keys() == facts.keys() - {"anybroker-dead-traceback"}
            assert now["anybroker-dead-error"] == facts["anybroker-dead-error"]
        elif "anybroker-dead-error" in now:
            assert {"anybroker-dead-handler", "anybroker-dead-topic", "anybroker-dead-reason", "x-own"} <= now.keys()
        assert now.keys() <= before.keys()
        before = now

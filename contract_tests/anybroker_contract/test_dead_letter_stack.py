"""dead letter stack: a dead letter says where it failed and how its last attempts did, whatever the error holds."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib.metadata import version
from socket import gethostname

import pytest

from anybroker import DeadLetter, Delivery, Event, Reject
from anybroker.errors import EventTooLarge
from anybroker.middleware import retry

from ._kit import TYPE, FailsUntilFixed, Kit, counted
from .marks import requires
from .test_dead_letter import letters

LIMIT = 8 * 1024
LARGE = 100_000
_HEADER = "anybroker-dead-traceback"
_TOO_DEEP = "RecursionError: maximum recursion depth exceeded"
_LEFT_OUT = re.compile(r"… ([0-9]+) bytes are left out here …")


def charge(cents: int) -> None:
    """Fails, from a cause."""
    try:
        look_up(cents)
    except KeyError as exc:
        raise ValueError(f"cannot charge {cents}") from exc


def look_up(cents: int) -> None:
    """The cause."""
    raise KeyError(cents)


def deeper(depth: int) -> None:
    """As many frames as Python allows, which do not look alike."""
    if depth % 2:
        _turn(depth + 1)
    else:
        deeper(depth + 1)


def _turn(depth: int) -> None:
    deeper(depth)


def _raises(text: str) -> Callable[[], None]:
    def fail() -> None:
        raise ValueError(text)

    return fail


FAILURES: dict[str, Callable[[], None]] = {
    "a long text": _raises("x" * LARGE),
    "a long text of a wide script": _raises("ж🎉" * (LARGE // 2)),
    "many lines": _raises("\n".join(f"line {number}" for number in range(LARGE // 8))),
    "a deep recursion": lambda: deeper(0),
    "controls": _raises("\x1b[2J\x00\x07\x9b\r\nnext\x0b\x85" * 1_000),
    "surrogates": _raises("\ud800\udfff" * 5_000),
    "bidirectional": _raises("\u202e\u2066\u200f" * 5_000),
    "backslashes": _raises("\\n\\\\" * 5_000),
    "quotes and percent": _raises("%0A\"'<&>" * 5_000),
}


def numbers(letter: DeadLetter) -> list[int]:
    """Those of its known attempts."""
    return [attempt.number for attempt in letter.history]


def check_shown(letter: DeadLetter) -> None:
    """Whatever the error holds, what is written is fit for a header and for a terminal."""
    header = letter.headers.get(_HEADER, "")
    assert header.isprintable()
    assert len(header.encode()) <= LIMIT
    assert all(line.isprintable() for line in letter.traceback.split("\n"))
    for attempt in letter.history:
        assert attempt.error.isprintable()
        assert len(attempt.error.encode()) <= 200


async def test_a_dead_letter_has_the_stack_and_the_last_attempts(kit: Kit) -> None:
    """The traceback of the failure and of its cause, from the handler inwards; the last five attempts with their times
    and errors; host, version and process. A replay starts without them."""
    topic = kit.topic()
    bus = kit.bus()
    number = 0

    async def behave(_: Delivery) -> None:
        nonlocal number
        number += 1
        charge(number)

    kit.subscribe(bus, topic, behave=behave, middleware=[retry(attempts=7, first=0.01, mode="hold")])
    async with bus:
        await bus.publish(topic, counted(1, key="k"))
        (letter,) = await letters(kit, bus, topic, 1)
        await kit.drained(bus, topic)
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        assert [each.id for each in await queue.replay()] == ["w-1"]
        (again,) = await letters(kit, bus, topic, 1)
        assert bus.problems == {}
    assert (letter.attempts, number) == (7, 14)
    lines = letter.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: cannot charge 7"
    assert "KeyError: 7" in lines
    assert "    look_up(cents)" in lines
    assert [line for line in lines if "in behave" in line]
    assert not [line for line in lines if "anybroker/middleware" in line or "anybroker/engine" in line]
    assert letter.headers[_HEADER].isprintable()
    assert numbers(letter) == [3, 4, 5, 6, 7]
    assert [each.error for each in letter.history] == [f"builtins.ValueError: cannot charge {n}" for n in range(3, 8)]
    times = [each.at for each in letter.history]
    assert times == sorted(times)
    assert times[-1] <= letter.died
    assert (letter.host, letter.pid) == (gethostname(), os.getpid())
    assert letter.version == version("anybroker")
    assert numbers(again) == [3, 4, 5, 6, 7]
    assert again.history[-1].error == "builtins.ValueError: cannot charge 14"
    assert again.replays == 1


@requires("release")
async def test_attempts_between_releases_are_told_where_they_are_known(kit: Kit) -> None:
    """An event that goes back to the broker between its attempts says of those that it knows: the last one in any
    case, and never of another number or another event."""
    topic = kit.topic()
    bus = kit.bus()

    async def behave(delivery: Delivery) -> None:
        charge(100 * delivery.event.data["n"] + delivery.attempt)

    again = retry(attempts=3, first=0.01, mode="release", gives_up_order=True)
    kit.subscribe(bus, topic, behave=behave, middleware=[again])
    async with bus:
        for number in range(5):
            await bus.publish(topic, counted(number))
        found = await letters(kit, bus, topic, 5)
        assert bus.problems == {}
    for letter in found:
        assert isinstance(letter.event, Event)
        assert letter.attempts == 3
        assert numbers(letter) == list(range(1, 4))[-len(letter.history) :]
        wanted = 100 * letter.event.data["n"]
        for each in letter.history:
            assert each.error == f"builtins.ValueError: cannot charge {wanted + each.number}"
        assert letter.traceback.endswith(f"ValueError: cannot charge {wanted + 3}")
        assert _released_headers(letter) == []
    if kit.capabilities.release.value == "emulated":
        assert [numbers(letter) for letter in found] == [[1, 2, 3]] * 5


def _released_headers(letter: DeadLetter) -> list[str]:
    return [name for name in letter.headers if name in ("anybroker-failures", "anybroker-attempts")]


async def test_a_huge_traceback_loses_its_middle(kit: Kit) -> None:
    """Errors of 100 KB, of hundreds of frames, and of characters that no header can carry: each dead letter has the
    first and the last lines in 8 KiB, and says how many bytes are left out between them."""
    topic = kit.topic()
    bus = kit.bus()
    names = list(FAILURES)

    async def behave(delivery: Delivery) -> None:
        FAILURES[names[delivery.event.data["n"]]]()

    kit.subscribe(bus, topic, behave=behave, middleware=[retry(attempts=1)])
    async with bus:
        for number in range(len(names)):
            await bus.publish(topic, counted(number))
        found = {letter.id: letter for letter in await letters(kit, bus, topic, len(names))}
        assert bus.problems == {}
        await kit.drained(bus, topic)
    assert bus.subscriptions[0].stats.dead_letters_cut == 0
    by_name = {name: found[f"w-{number}"] for number, name in enumerate(names)}
    for letter in by_name.values():
        check_shown(letter)
        assert letter.traceback.startswith("Traceback (most recent call last):\n")
        assert " in behave\n" in letter.traceback
        assert numbers(letter) == [1]
    for name in ("many lines", "a deep recursion"):
        lines = by_name[name].traceback.split("\n")
        (count,) = [int(match[1]) for line in lines if (match := _LEFT_OUT.fullmatch(line))]
        assert count > (50_000 if name == "many lines" else 20_000), name
        assert len(by_name[name].headers[_HEADER].encode()) > LIMIT - 1_024, name
    assert by_name["many lines"].traceback.endswith(f"line {LARGE // 8 - 1}")
    assert by_name["a deep recursion"].traceback.splitlines()[-1].startswith(_TOO_DEEP)
    assert by_name["a long text"].traceback.endswith("x" * 200)
    assert "\\x1b[2J" in by_name["controls"].traceback
    assert "\\ud800" in by_name["surrogates"].traceback
    assert "\\u202e" in by_name["bidirectional"].traceback
    assert "\\n\\\\\\n\\\\" in by_name["backslashes"].traceback


@pytest.mark.timeout(120)
async def test_the_stack_goes_first_where_there_is_no_room(kit: Kit) -> None:
    """Events at the limit of publish, whose dead letters have 8 KiB for all that is beside them: reason and error are
    whole, and the traceback has what is left, or is cut before anything else."""
    limit = kit.capabilities.max_event_bytes or 1_048_576
    topic = kit.topic()
    bus = kit.bus()
    names = ["a deep recursion", "a long text of a wide script", "a short one"]

    async def behave(delivery: Delivery) -> None:
        FAILURES.get(names[int(delivery.event.id)], lambda: charge(7))()

    kit.subscribe(bus, topic, behave=behave, middleware=[retry(attempts=3, first=0.01, mode="hold")])
    bodies: list[bytes] = []
    async with bus:
        for number in range(len(names)):
            size = limit
            while True:
                body = os.urandom(size // 2).hex().encode()  # what can be compressed may fit all the same
                event = Event.create(body, source="contract", type=TYPE, id=str(number), datacontenttype="text/plain")
                try:
                    await bus.publish(topic, event)
                except EventTooLarge as exc:
                    size -= max(2, exc.size - exc.limit)
                else:
                    break
            bodies.append(body)
        found = {letter.id: letter for letter in await letters(kit, bus, topic, len(names))}
        assert bus.problems == {}
        await kit.drained(bus, topic)
    for number, body in enumerate(bodies):
        letter = found[str(number)]
        assert letter.event.body == body
        check_shown(letter)
        assert (letter.topic, letter.group, letter.handler, letter.attempts) == (topic, "g", "contract", 3)
    deep, wide, short = (found[str(number)] for number in range(3))
    assert short.traceback.startswith("Traceback (most recent call last):\n")
    assert short.traceback.endswith("ValueError: cannot charge 7")
    assert numbers(short) == [1, 2, 3]
    assert short.error == "builtins.ValueError: cannot charge 7 <- builtins.KeyError: 7"
    assert deep.reason.startswith(_TOO_DEEP)
    assert deep.error.startswith(f"builtins.{_TOO_DEEP}")
    assert numbers(deep) == [1, 2, 3]
    assert deep.traceback.startswith("Traceback (most recent call last):\n")
    assert deep.traceback.splitlines()[-1].startswith(_TOO_DEEP)
    assert len(wide.reason.encode()) > 1_000
    if wide.traceback:
        assert wide.history
    if wide.history:
        assert len(wide.error.encode()) > 4_000


async def test_a_batch_and_a_refusal_have_their_stacks(kit: Kit) -> None:
    """What a batch handler raises, and a Reject, say where they were raised."""
    topic = kit.topic()
    bus = kit.bus()

    async def several(events: list[Event]) -> None:
        charge(8)

    again = retry(attempts=2, first=0.01, mode="hold")
    bus.subscribe(topic, group="g", batch=2, within=0.1, middleware=[again])(several)
    refusing = kit.subscribe(bus, topic, "refusing", behave=_refuse, middleware=[retry(attempts=2)])
    async with bus:
        for number in range(2):
            await bus.publish(topic, counted(number))
        found = await letters(kit, bus, topic, 2)
        refused = await letters(kit, bus, topic, 2, "refusing")
        assert bus.problems == {}
    assert len(refusing.handlings) == 2
    for letter in found:
        assert " in several\n" in letter.traceback
        assert letter.traceback.endswith("ValueError: cannot charge 8")
        assert numbers(letter) == [1, 2]
    for letter in refused:
        assert " in _refuse\n" in letter.traceback
        assert letter.traceback.endswith("anybroker.errors.Reject: not ours")
        assert [(each.number, each.error) for each in letter.history] == [(1, "anybroker.errors.Reject: not ours")]


async def _refuse(_: Delivery) -> None:
    raise Reject("not ours")


async def test_what_no_handler_took_has_no_stack(kit: Kit) -> None:
    """An event of an unknown type has no attempt and no traceback."""
    topic = kit.topic()
    bus = kit.bus()
    handler = FailsUntilFixed()
    subscription = bus.subscription(topic, group="g", unhandled="dead_letter")
    subscription.on(handler, name="other", type="com.example.other.v1")
    async with bus:
        await bus.publish(topic, counted(1))
        (letter,) = await letters(kit, bus, topic, 1)
    assert (letter.attempts, letter.traceback, letter.history) == (0, "", ())
    assert letter.pid == os.getpid()

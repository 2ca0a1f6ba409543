"""dead letter limits: whatever publish accepts can be dead-lettered, at every limit that a broker has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from random import Random
from typing import Any

import pytest
from hypothesis import strategies as st

from anybroker import Bus, DeadLetter, Delivery, Event, Receipt, Reject
from anybroker.adapter import Foreign, Outbound
from anybroker.deadletters import dead_letter_topic, reason_of
from anybroker.errors import ConfigError, EventTooLarge, InvalidEvent, Rejected
from anybroker.middleware import retry
from anybroker.testing import fail

from ._generated import generated
from ._kit import TYPE, Kit, counted
from ._log import Log
from .marks import requires
from .test_dead_letter import letters

LARGE = 200_000
"""Bytes of what fills an event where the broker has no limit, or a part of it that has its own limit."""
CHUNK = 20
"""Cases that are published, and whose dead letters are read, at once."""


@dataclass(frozen=True)
class Case:
    """One event, and how its handler fails."""

    number: int
    fill: str
    """What is made so large that publish just accepts it: ``body``, ``header``, ``extension``, or nothing."""
    free: int
    """Bytes that it stays below the limit."""
    filler: str
    body: str
    extensions: Mapping[str, str]
    """Of the event, beside its key."""
    attributes: Mapping[str, str]
    headers: Mapping[str, str]
    key: str | None
    error: str
    kind: str
    """How the handler fails: by an exception, one with a cause, or a Reject."""

    @property
    def id(self) -> str:
        """The event's id."""
        return f"c-{self.number}"

    def event(self, size: int) -> Event[Any]:
        """The event, with this many characters in the filled part."""
        body: bytes | None = _BODIES[self.body]
        extensions = dict(self.extensions)
        if self.fill == "body":
            body = _noise(size) if self.body == "noise" else (self.filler * size).encode()
        elif self.fill == "extension":
            extensions["filled"] = self.filler * size
        if body is None:
            given: dict[str, Any] = {}
        elif self.body == "json" and self.fill == "body":
            given = {"data": b'"%b"' % body, "datacontenttype": "application/json"}
        else:
            binary = self.body == "noise"
            given = {"data": body, "datacontenttype": "application/octet-stream" if binary else "text/plain"}
        given |= self.attributes
        return Event.create(source="contract", type=TYPE, id=self.id, key=self.key, extensions=extensions, **given)

    def beside(self, size: int) -> dict[str, str]:
        """Its transport headers."""
        return {**self.headers, "x-filled": self.filler * size} if self.fill == "header" else dict(self.headers)

    def failure(self) -> Exception:
        """What the handler raises."""
        return Reject(self.error) if self.kind == "reject" else ValueError(self.error)


@requires("seek")
async def test_what_no_dead_letter_has_room_for_stays_in_its_topic(kit: Kit) -> None:
    """If the topic keeps consumed events, a dead letter whose body does not fit in any form (it was compressed, or the
    dead-letter topic has a lower limit) goes without it and says where the event is, so that nothing waits for it
    forever."""
    topic = kit.topic()

    def has_a_body(outbound: Outbound) -> bool:
        return outbound.topic == dead_letter_topic(topic, "g") and bool(outbound.event.body)

    async def fail_third(delivery: Delivery) -> None:
        if delivery.event.id == "w-3":
            raise ValueError("not today")

    too_large = EventTooLarge("no room", size=2_000_000, limit=1_000_000)
    bus = kit.bus(target=kit.faulty(fail("publish", too_large, when=has_a_body)))
    log = kit.subscribe(bus, topic, behave=fail_third, middleware=[retry(attempts=1)])
    async with bus:
        for number in range(10):
            await bus.publish(topic, counted(number, key="k"))
        await log.wait_done(f"w-{number}" for number in range(10) if number != 3)
        await kit.drained(bus, topic)
        assert bus.problems == {}
        stats = bus.subscriptions[0].stats
        assert (stats.dead_lettered, stats.dead_letters_cut, stats.stuck) == (1, 1, 0)
        (letter,) = await letters(kit, bus, topic, 1)
    assert isinstance(letter.event, Foreign)
    assert letter.event.body in (None, b"")
    lane, position = letter.headers["anybroker-dead-lane"], letter.headers["anybroker-dead-position"]
    assert f"stay in {lane} at {position}" in letter.reason
    assert letter.reason.endswith("ValueError: not today")


def _noise(size: int) -> bytes:
    return Random(size).randbytes(size)


_BODIES = {"none": None, "empty": b"", "text": "жx".encode(), "json": b'{"n": 1}', "noise": b"\x00\xff\xfe"}
_WORD = st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs", "Cn", "Co")), min_size=1, max_size=40)
_NAME = st.text(alphabet="abcdefgh0123456789", min_size=1, max_size=20).map(lambda name: "e" + name)
_HEADER = st.text(alphabet=st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=60)
_ERROR = st.one_of(
    st.text(alphabet=st.characters(codec=None), max_size=60),  # surrogates too
    st.builds(
        lambda text, times: text * times,
        st.sampled_from(["x", "ж", "🎉", "﷽", "%", '"', "\\", "<", "\x00", "\n", "\t", "\ud800", "\u2028", "é%"]),
        st.sampled_from([1, 100, 1_000, 10_000]),
    ),
)
_CASES = st.builds(
    Case,
    number=st.just(0),
    fill=st.sampled_from(["body", "header", "extension", "", "body", "extension"]),
    free=st.sampled_from([0, 0, 0, 1, 2, 3, 50, 1_000, 9_000]),
    filler=st.sampled_from(["x", "x", "ж", "%", '"']),
    body=st.sampled_from(list(_BODIES)),
    extensions=st.dictionaries(_NAME, _WORD, max_size=12),
    attributes=st.fixed_dictionaries({}, optional={"subject": _WORD, "dataschema": st.just("https://example.com/s#1")}),
    headers=st.dictionaries(st.text(alphabet="abcxyz019-_", min_size=1, max_size=30), _HEADER, max_size=8),
    key=st.one_of(st.none(), st.sampled_from(["k", "k1", "Kunde 7 ж", "k" * 300])),
    error=_ERROR,
    kind=st.sampled_from(["error", "chain", "reject"]),
)


async def _publish(kit: Kit, bus: Bus, topic: str, case: Case) -> tuple[Event[Any], dict[str, str]] | None:
    """Publish what just fits, and then another event of its key; what it was, or None where it is refused."""
    limit = kit.capabilities.max_event_bytes
    size = 0
    if case.fill:
        size = ceil((LARGE if case.fill == "header" or limit is None else limit) / len(case.filler.encode()))
    free = case.free
    while True:
        event, headers = case.event(size), case.beside(size)
        try:
            receipt = await bus.publish(topic, event, headers=headers)
        except EventTooLarge as exc:
            assert size > 0, "an event of a few hundred bytes is too large"
            width = max(1.0, exc.size / max(size, 1))  # what a character of it takes on the wire, or more
            size = max(0, size - max(1, int((exc.size - exc.limit + free) / width)))
            free = 0
        except (Rejected, ConfigError, InvalidEvent):
            return None
        else:
            assert isinstance(receipt, Receipt)
            assert not receipt.duplicate
            await bus.publish(topic, _next(case))
            return event, headers


def _next(case: Case) -> Event[Any]:
    return Event.create({"n": 1}, source="contract", type=TYPE, id=f"next-{case.number}", key=case.key)


def _numbered(count: int, most: int | None, budget: int) -> list[Case]:
    """Generated cases; those that are filled to a limit stay within this many bytes together."""
    cases: list[Case] = []
    for number, case in enumerate(generated(_CASES, count)):
        cost = (most or LARGE) if case.fill in ("body", "extension") else 0
        fill = case.fill if cost <= budget else ""
        budget -= cost if fill else 0
        cases.append(Case(**{**vars(case), "number": number, "fill": fill}))
    return cases


def _check(letter: DeadLetter, case: Case, event: Event[Any], headers: Mapping[str, str], topic: str) -> None:
    """It is what was published, and says why it is there."""
    assert letter.event == event, case
    assert letter.event.body == event.body, case
    own = {name: value for name, value in letter.headers.items() if not name.startswith("anybroker-")}
    assert own == headers, case
    assert letter.reason == (reason_of(case.failure()) or "unknown"), case
    for text, most in ((letter.reason, 1024), (letter.error, 4096)):
        assert text.isprintable(), case
        assert len(text.encode()) <= most, case
    assert (letter.topic, letter.handler) == (topic, "contract"), case


async def _all_die(kit: Kit, mode: str) -> None:
    """Publish cases by a Bus of each content mode; both have a group, in which each case fails and then dies."""
    topic = kit.topic()
    modes: dict[str, Any] = {"default": None}
    if "in_mode" in kit.harness.can():
        modes = {"binary": kit.in_mode("binary"), "structured": kit.in_mode("structured")}
    cases = _numbered(kit.pick(40, 400), kit.capabilities.max_event_bytes, kit.pick(64, 512) * 1_048_576)
    by_id = {case.id: case for case in cases}

    async def fail(delivery: Delivery) -> None:
        case = by_id.get(delivery.event.id)
        if case is None:
            return
        try:
            raise case.failure()
        except ValueError as exc:
            if case.kind == "chain":
                raise ValueError(case.error) from exc
            raise

    if mode == "release":
        again = retry(attempts=2, first=0.001, mode="release", gives_up_order=True)
    else:
        again = retry(attempts=1)
    buses: dict[str, Bus] = {}
    logs: dict[str, Log] = {}
    for group, target in modes.items():
        buses[group] = kit.bus(target=target)
        logs[group] = kit.subscribe(buses[group], topic, group, behave=fail, middleware=[again])
    accepted: list[Case] = []
    try:
        for bus in buses.values():
            await bus.start()
        for at in range(0, len(cases), CHUNK):
            published: dict[str, tuple[Event[Any], dict[str, str]]] = {}
            for case in cases[at : at + CHUNK]:
                given = await _publish(kit, list(buses.values())[case.number % len(buses)], topic, case)
                if given is not None:
                    published[case.id] = given
            accepted += [by_id[id_] for id_ in published]
            for group, bus in buses.items():
                await logs[group].wait_done([_next(by_id[id_]).id for id_ in published])
                found = {letter.id: letter for letter in await letters(kit, bus, topic, len(published), group)}
                assert found.keys() == published.keys(), group
                for id_, (event, headers) in published.items():
                    _check(found[id_], by_id[id_], event, headers, topic)
                await bus.dead_letters(topic, group).discard(published)
                assert bus.problems == {}
    finally:
        for bus in buses.values():
            await bus.close()
    assert len(accepted) > len(cases) / 2
    starts = sum(1 + (2 if mode == "release" and case.kind != "reject" else 1) for case in accepted)
    assert [len(log.handlings) for log in logs.values()] == [starts] * len(logs)


@pytest.mark.timeout(320)  # of the full tier, where a request takes a while
async def test_whatever_publish_accepts_can_be_dead_lettered(kit: Kit) -> None:
    """Generated events at and below every limit (of the body, of the headers, of an attribute; with up to fifteen
    attributes; in either content mode) whose handler fails with a generated text are dead-lettered as they were
    published, with their headers and the whole reason, and their keys continue."""
    await _all_die(kit, "hold")


@pytest.mark.timeout(320)
@requires("release")
async def test_whatever_publish_accepts_can_be_released_and_dead_lettered(kit: Kit) -> None:
    """The same if each event is given back to the broker before its second start."""
    await _all_die(kit, "release")

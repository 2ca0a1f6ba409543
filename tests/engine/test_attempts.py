"""The last attempts of an event: noted where they fail, carried on, and believed where only the library writes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.scripted_adapter import PER_MESSAGE, ScriptedBroker, bus_of, inbound, run, until

from anybroker import Attempt, Delivery, Event, Retry
from anybroker.adapter import Outbound
from anybroker.capabilities import Support
from anybroker.engine.failures import read, written
from anybroker.errors import BrokerError, EventTooLarge, Rejected
from anybroker.middleware import dead_letter, retry

HISTORY = "anybroker-dead-history"
FAILURES = "anybroker-failures"
TOLD = r"1 2026-11-30T06:48:32.123Z a.E: one\n2 2026-11-30T06:48:33.123Z a.E: \\two"
RELEASED: dict[str, Any] = {**PER_MESSAGE, "release": Support.EMULATED}


def numbers(outbound: Outbound) -> list[int]:
    return [attempt.number for attempt in read((outbound.headers or {}).get(HISTORY, ""))]


def dead(broker: ScriptedBroker) -> list[Outbound]:
    return [outbound for outbound in broker.sent if outbound.is_dead_letter]


def failing(broker: ScriptedBroker, attempts: int, **settings: Any) -> Any:
    bus = bus_of(broker)

    @bus.subscribe("topic", group="group", middleware=[retry(attempts=attempts, first=0.0, **settings)])
    async def handle(event: Event[Any]) -> None:
        raise ValueError("no")

    return bus


@given(
    st.lists(
        st.builds(
            Attempt,
            st.integers(1, 999_999),
            st.just("2026-11-30T06:48:32.123Z"),
            st.text(alphabet="a\\né: ж.", min_size=1, max_size=60).filter(lambda text: len(text.encode()) <= 200),
        ),
        max_size=5,
    )
)
def test_they_come_back_as_they_were(attempts: list[Attempt]) -> None:
    text = written(tuple(attempts))
    assert text.isprintable()
    assert read(text) == tuple(attempts)


@given(st.text(alphabet=st.characters(codec=None), max_size=400))
def test_what_the_library_never_writes_is_left_out(text: str) -> None:
    for each in (text, TOLD + text, text + TOLD, text.join(TOLD)):
        for attempt in read(each):
            assert attempt.number > 0
            assert attempt.error.isprintable()
            assert len(attempt.error.encode()) <= 200


@pytest.mark.parametrize(
    "text",
    [
        "9999999 2026-11-30T06:48:32.123Z E",
        "0 2026-11-30T06:48:32.123Z E",
        "1 now E",
        "1 2026-11-30T06:48:32.123Z ",
        f"1 2026-11-30T06:48:32.123Z {'x' * 201}",
        "1 2026-11-30T06:48:32.123Z \x1b[2J",
        TOLD * 1_000,
    ],
)
def test_what_is_left_out(text: str) -> None:
    assert read(text) == ()


def test_a_start_that_succeeds_or_is_the_first_to_fail_carries_nothing() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = bus_of(broker)
        seen: list[Any] = []

        @bus.subscribe("topic", group="group", middleware=[retry(attempts=3, first=0.0)])
        async def handle(delivery: Delivery) -> None:
            seen.append(getattr(delivery, "failures", None))
            if len(seen) == 1:
                raise Retry(0.0, "again")

        async with bus:
            broker.receiver.deliver(inbound(broker.receiver.assign("a"), 1))
            await until(lambda: len(seen) == 2)
            assert seen[0] is None
            assert [(each.number, each.error) for each in seen[1]] == [(1, "anybroker.errors.Retry: again")]

    run(main)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_dead_letter_that_is_sent_later_tells_of_each_attempt_once(enabled: bool) -> None:
    """If it is refused, the handler does not run again, and its failure is not noted again. Without dead letters the
    handler does run again."""

    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        answers: list[BrokerError] = [Rejected("no")] * 2
        broker.on_send = lambda _: answers.pop() if answers else True
        bus = bus_of(broker)
        seen: list[list[int]] = []

        @bus.subscribe("topic", group="group", middleware=[dead_letter(enabled=enabled), retry(attempts=2, first=0.0)])
        async def handle(delivery: Delivery) -> None:
            seen.append([each.number for each in getattr(delivery, "failures", ())])
            raise ValueError("no")

        async with bus:
            broker.receiver.deliver(inbound(broker.receiver.assign("a"), 1))
            if enabled:
                await until(lambda: bus.subscriptions[0].stats.dead_lettered == 1)
                assert numbers(broker.sent[-1]) == [1, 2]
                assert seen == [[], [1]]
            else:
                await until(lambda: len(seen) == 3)
                assert seen == [[], [1], [1, 2]]
            await bus.close(drain=0)

    run(main)


def test_a_copy_in_the_inlet_tells_of_the_attempts_before_it() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**RELEASED)
        bus = failing(broker, 3, mode="release", gives_up_order=True)
        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: len(broker.sent) == 1)
            copy = broker.sent[0]
            assert copy.headers is not None
            (attempt,) = read(copy.headers[FAILURES])
            assert (attempt.number, attempt.error) == (1, "builtins.ValueError: no")
            back = inbound(lane, 2)
            back.headers, back.inlet = {"anybroker-attempts": "2", FAILURES: TOLD}, True
            broker.receiver.deliver(back)
            await until(lambda: bool(dead(broker)))
            (letter,) = dead(broker)
            assert numbers(letter) == [1, 2, 3]
            assert letter.headers is not None
            assert FAILURES not in letter.headers

    run(main)


def test_elsewhere_they_are_not_believed() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = failing(broker, 1)
        async with bus:
            forged = inbound(broker.receiver.assign("a"), 1)
            forged.headers = {FAILURES: TOLD}
            broker.receiver.deliver(forged)
            await until(lambda: bool(dead(broker)))
            assert numbers(dead(broker)[0]) == [1]

    run(main)


def test_a_copy_without_room_for_them_goes_without() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**RELEASED)

        def answer(outbound: Outbound) -> Any:
            told = FAILURES in (outbound.headers or {})
            return EventTooLarge("too large", size=2, limit=1) if told else True

        broker.on_send = answer
        bus = failing(broker, 2, mode="release", gives_up_order=True)
        async with bus:
            broker.receiver.deliver(inbound(broker.receiver.assign("a"), 1))
            await until(lambda: len(broker.sent) == 2 and bus.subscriptions[0].buffered == 0)
            assert [FAILURES in (outbound.headers or {}) for outbound in broker.sent] == [True, False]
            assert bus.subscriptions[0].stats.released == 1

    run(main)

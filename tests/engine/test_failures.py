"""Failures that are odd themselves: what they say must be kept, and nothing may stop for them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from tests.engine.scripted_adapter import ScriptedBroker, inbound, until

from anybroker import Bus, Event, Reject
from anybroker.capabilities import Acknowledgement
from anybroker.engine.failures import first_failure, note_failure
from anybroker.middleware import dead_letter, retry

PER_MESSAGE: dict[str, Any] = {"acknowledgement": Acknowledgement.PER_MESSAGE}


def test_a_failure_in_a_thread_keeps_its_cause() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = Bus(broker, source="test", idempotency="memory://")

        @bus.subscribe("topic", group="group", middleware=[retry(attempts=1)])
        def handle(event: Event[Any]) -> None:
            try:
                raise KeyError("the cause")
            except KeyError as exc:
                raise ValueError("no") from exc

        async with asyncio.timeout(20), bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: len(broker.sent) == 1, "the dead letter")
            headers = broker.sent[0].headers
            assert headers is not None
            assert headers["anybroker-dead-error"] == "builtins.ValueError: no <- builtins.KeyError: 'the cause'"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "inlet", "first"),
    [
        ("999.500", True, 999.5),
        ("1059.999", True, 1059.999),  # the clock of another member may be ahead
        ("1060.001", True, None),
        ("999.500", False, None),  # anybody may have written it
        ("", True, None),
        ("999", True, None),
        ("-999.500", True, None),
        ("nan", True, None),
        ("1e3", True, None),
        ("9999999999999.000", True, None),
    ],
)
def test_when_it_failed_first_is_believed_from_an_inlet_if_the_library_may_have_written_it(
    text: str, inlet: bool, first: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anybroker.kit.not_before.time.time", lambda: 1000.0)
    delivery: Any = SimpleNamespace(
        inbound=SimpleNamespace(inlet=inlet, headers={"anybroker-first-failure": text}), attempt=3
    )
    assert first_failure(delivery) == first
    note_failure(delivery, OSError("no"))
    assert first_failure(delivery) == delivery.first_failed == (1000.0 if first is None else first)


class Wordless(Exception):
    """Its text cannot be made."""

    def __str__(self) -> str:
        return self.args[0]  # type: ignore[no-any-return] # a number


@pytest.mark.parametrize("dead_letters", [True, False])
def test_a_failure_whose_text_cannot_be_made_stops_nothing(dead_letters: bool) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = Bus(broker, source="test", idempotency="memory://")
        seen: list[str] = []

        @bus.subscribe(
            "topic", group="group", max_in_flight=1, middleware=[dead_letter(enabled=dead_letters), retry(attempts=1)]
        )
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)
            if seen == ["1"]:
                raise Wordless(7)

        async with asyncio.timeout(20), bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1), inbound(lane, 2))
            await until(lambda: len(broker.receiver.settled) == 2, "both settled")
            assert seen == (["1", "2"] if dead_letters else ["1", "1", "2"])
            assert len(broker.sent) == dead_letters

    asyncio.run(main())


def test_an_exit_whose_text_cannot_be_made_is_a_failed_start() -> None:
    class Exit(BaseException):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = Bus(broker, source="test", idempotency="memory://")

        @bus.subscribe("topic", group="group", middleware=[retry(attempts=1)])
        async def handle(event: Event[Any]) -> None:
            raise Exit

        async with asyncio.timeout(20), bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: len(broker.receiver.settled) == 1, "settled")
            assert len(broker.sent) == 1

    asyncio.run(main())


class _Bare(Reject):
    def __init__(self) -> None:  # does not call ours
        Exception.__init__(self, "bare")


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Reject(ValueError("seven")), "seven"), (Reject(None), "None"), (_Bare(), "bare")],  # type: ignore[arg-type]
)
def test_a_rejection_whose_reason_is_not_text_is_dead_lettered(error: Reject, reason: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = Bus(broker, source="test", idempotency="memory://")

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            raise error

        async with asyncio.timeout(20), bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: len(broker.receiver.settled) == 1, "settled")
            assert broker.sent[0].headers is not None
            assert broker.sent[0].headers["anybroker-dead-reason"] == reason

    asyncio.run(main())

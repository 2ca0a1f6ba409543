"""Exceptions whose classes do odd things end in a dead letter like any other, and the next event of the key starts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from anybroker import Bus, Event, MemoryBroker
from anybroker.engine import pump as module
from anybroker.middleware import retry
from anybroker.testing import settled

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]


class TextExits(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class TextCancels(Exception):
    def __str__(self) -> str:
        raise asyncio.CancelledError


class CauseRaises(Exception):
    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise ValueError("no cause")


class TruthRaises(Exception):
    def __bool__(self) -> bool:
        raise ValueError("neither")


class NothingCanBeRead(Exception):
    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return object.__getattribute__(self, name)
        raise ValueError(name)


class NotesRaise(Exception):
    @property
    def __notes__(self) -> Any:
        raise ValueError("no notes")


async def _dies(bus: Bus, make: type[Exception]) -> None:
    subscription = bus.subscription("orders", group="g", middleware=[retry(attempts=2, first=0.0)])
    handled: list[str] = []

    async def broken(_: Event[Any]) -> None:
        raise make

    async def well(event: Event[Any]) -> None:
        handled.append(event.id)

    subscription.on(broken, type="t")
    subscription.on(well, type="other")
    async with bus:
        await bus.publish("orders", 1, type="t", key="k")
        await bus.publish("orders", 2, type="other", key="k", id="e-2")
        await asyncio.wait_for(settled(bus), 10.0)
        (letter,) = await bus.dead_letters("orders", "g").list(1)
        assert make.__name__ in letter.reason
    stats = subscription.stats
    assert (stats.started, stats.retried, stats.dead_lettered, stats.stuck) == (3, 1, 1, 0)
    assert handled == ["e-2"]


@pytest.mark.parametrize(
    "make",
    [TextExits, TextCancels, CauseRaises, TruthRaises, NothingCanBeRead, NotesRaise],
    ids=lambda each: each.__name__,
)
def test_it_is_dead_lettered_and_logged(bus: Bus, run: Run, caplog: pytest.LogCaptureFixture, make: Any) -> None:
    run(_dies(bus, make))
    levels = [each.levelname for each in caplog.records if each.name == "anybroker.handler"]
    assert levels == ["WARNING", "ERROR"]
    assert not [each for each in caplog.records if each.name == "anybroker.observe"]


def test_a_cause_that_counts_as_false_is_told_all_the_same(
    bus: Bus, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    class Many(Exception):
        def __len__(self) -> int:
            return 0

    run(_dies(bus, Many))
    again, _ = [each for each in caplog.records if each.name == "anybroker.handler"]
    assert again.getMessage().endswith("'t': Many")


def test_a_worker_that_ends_by_a_defect_is_seen(
    run: Run, until: Until, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: Any) -> Any:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(module.Outcome, "failed", defect)
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="g", type="t", middleware=[retry(attempts=2)])
    async def broken(_: Event[Any]) -> None:
        raise ValueError("no")

    async def main() -> None:
        async with bus:
            assert bus.health().live
            await bus.publish("orders", 1, type="t")
            await until(lambda: not bus.health().live)
            assert "a defect" in bus.problems["orders/g"]
            await bus.close(drain=0.1)

    with caplog.at_level(logging.ERROR, "anybroker"):
        run(main())
    assert "a worker ended" in caplog.text
    assert "a defect" in caplog.text

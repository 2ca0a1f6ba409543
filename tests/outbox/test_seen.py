"""What observers are told of an outbox, and the metrics of it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from anybroker import Bus, MemoryBroker
from anybroker.engine import pending as module
from anybroker.errors import Rejected, Unavailable
from anybroker.observe import PrometheusMetrics
from anybroker.outbox import SqliteOutbox
from anybroker.testing import FaultyBroker, fail

Run = Callable[..., Any]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]


def test_what_waits_was_set_aside_and_was_sent(
    own_folder: Path, run: Run, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.05)
    metrics = PrometheusMetrics()

    def shown(name: str) -> float | None:
        text = metrics.exposition()[0].decode()
        labels = '{anybroker_name="outbox",messaging_system="memory"}'
        found = re.search(rf"^anybroker_outbox_{name}{labels} (\S+)$", text, re.MULTILINE)
        return None if found is None else float(found[1])

    async def main() -> None:
        faulty = FaultyBroker(MemoryBroker(), fail("publish", Rejected("too large"), nth=1))
        bus = Bus(faulty, source="shop", outbox=SqliteOutbox(own_folder / "shop.db"))
        bus.observe(metrics)
        async with bus:
            await until(lambda: shown("waiting") == 0)
            assert shown("age_seconds") == 0
            with closing(sqlite3.connect(own_folder / "shop.db")) as shop:
                with shop:
                    for number in range(3):
                        await bus.publish("orders", {}, type="t", key=f"k{number}", within=shop)
                await until(lambda: shown("sent_total") == 2)
                await until(lambda: shown("set_aside") == 1)
                with shop:
                    await bus.publish("orders", {}, type="t", delay=60, within=shop)
                await until(lambda: shown("waiting") == 1)
                assert shown("age_seconds") == 0, "it is not due"
                faulty.faults.append(fail("publish", Unavailable("away")))
                with shop:
                    await bus.publish("orders", {}, type="t", within=shop)
                await until(lambda: (shown("age_seconds") or 0) > 0)
                faulty.faults.clear()
                await until(lambda: shown("age_seconds") == 0)

    run(main())


def test_a_table_that_cannot_be_asked_is_logged_and_asked_again(
    own_folder: Path, run: Run, until: Until, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.02)
    asked = 0

    class Failing(SqliteOutbox):
        async def waiting(self) -> Any:
            nonlocal asked
            asked += 1
            raise OSError("gone")

    async def main() -> None:
        bus = Bus(MemoryBroker(), source="shop", outbox=Failing(own_folder / "shop.db"))
        bus.observe(PrometheusMetrics())
        async with bus:
            await until(lambda: asked >= 3)

    run(main())
    said = [record.getMessage() for record in caplog.records if record.name == "anybroker.bus"]
    assert said == ["what waits in outbox is not known: gone"]

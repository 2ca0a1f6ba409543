"""Who changed what."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path
from typing import Any

import pytest

from anybroker import Bus, ConfigError, MemoryBroker, Reject
from anybroker.deadletters import LetterFilter
from anybroker.testing import settled


async def dead(bus: Bus, count: int) -> None:
    """That many events of "orders" are dead-lettered for "billing"; ids o-0, o-1, …"""

    @bus.subscribe("orders", group="billing")
    async def charge(order: dict[str, Any]) -> None:
        raise Reject("no")

    await bus.start()
    for number in range(count):
        await bus.publish("orders", {"n": number}, type="order.v1", id=f"o-{number}")
    await settled(bus)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_change_is_written_before_and_after(tmp_path: Path, caplog: pytest.LogCaptureFixture, run: Any) -> None:
    run(each_change_is_written_before_and_after(tmp_path, caplog))


async def each_change_is_written_before_and_after(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anybroker.audit")
    path = tmp_path / "audit.jsonl"
    bus = Bus(MemoryBroker(), source="shop", audit=str(path))
    try:
        await dead(bus, 4)
        queue = bus.dead_letters("orders", "billing")
        queue.patience = 0.1
        await queue.list()
        await queue.discard("o-9")
        assert not path.exists()  # nothing was changed
        queue.who = "anna@laptop"
        await queue.discard(only=LetterFilter(where="data.n>=2"))
        letter, _ = await queue.list()
        assert await queue.edit(letter, letter.event.replace(data={"n": 7})) is not None  # type: ignore[union-attr]
    finally:
        await bus.close()
    begins, ended, edit, edited = lines(path)
    common = {
        "who": "anna@laptop",
        "topic": "orders",
        "group": "billing",
    }
    assert begins.pop("at") <= ended.pop("at")
    discard = {**common, "action": "discard", "selected": 2, "named": False, "filter": {"where": ["data.n>=2"]}}
    assert begins == {**discard, "phase": "begins"}
    assert ended == {**discard, "phase": "ended", "count": 2, "ids": ["o-2", "o-3"]}
    assert edit["before"] != edit["after"]
    assert (edited["action"], edited["count"], edited["ids"]) == ("edit", 1, ["o-0"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [record.getMessage() for record in caplog.records if record.name == "anybroker.audit"] == [
        "anna@laptop: discard of 2 dead letters of orders/billing",
        "anna@laptop: edit of 1 dead letters of orders/billing",
    ]


def test_nothing_is_changed_where_it_cannot_be_written(tmp_path: Path, run: Any) -> None:
    run(nothing_is_changed_where_it_cannot_be_written(tmp_path))


async def nothing_is_changed_where_it_cannot_be_written(tmp_path: Path) -> None:
    bus = Bus(MemoryBroker(), source="shop", audit=str(tmp_path))
    try:
        await dead(bus, 2)
        queue = bus.dead_letters("orders", "billing")
        queue.patience = 0.1
        with pytest.raises(ConfigError, match="cannot be written") as caught:
            await queue.discard("o-0")
        assert caught.value.setting == "audit"
        assert len(await queue.list()) == 2
    finally:
        await bus.close()


def test_what_ended_a_change_is_written(tmp_path: Path, run: Any) -> None:
    run(what_ended_a_change_is_written(tmp_path))


async def what_ended_a_change_is_written(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    bus = Bus(MemoryBroker(), source="shop", audit=str(path))

    def fail(_: int) -> None:
        raise ZeroDivisionError("a bug")

    try:
        await dead(bus, 2)
        queue = bus.dead_letters("orders", "billing")
        queue.patience = 0.1
        with pytest.raises(ZeroDivisionError):
            await queue.discard(["o-0", "o-1"], progress=fail)
    finally:
        await bus.close()
    ended = lines(path)[-1]
    assert (ended["phase"], ended["count"], ended["error"]) == ("ended", 2, "ZeroDivisionError: a bug")

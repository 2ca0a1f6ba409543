"""Asking for the lag of each group: one that is never answered keeps nobody else waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from anybroker.adapter import Backlog
from anybroker.engine import lag as module
from anybroker.engine.lag import LagWatch
from anybroker.errors import MissingGroup

Run = Callable[[Coroutine[Any, Any, None]], None]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]


def test_a_question_without_an_answer(run: Run, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.05)
    hangs = False
    told: list[str] = []

    async def backlog(topic: str, group: str) -> Backlog:
        if hangs and topic == "a":
            await asyncio.Event().wait()
        return Backlog(waiting=1, in_flight=0, age=None)

    async def main() -> None:
        nonlocal hangs
        watch = LagWatch(lambda: [("a", "g"), ("b", "g")], backlog, lambda topic, _group, _backlog: told.append(topic))
        await watch.start()
        await until(lambda: set(told) == {"a", "b"})
        hangs = True
        await until(lambda: watch.problem)
        assert "a/g" in str(watch.problem)
        assert "did not answer within" in str(watch.problem)
        assert list(watch.last) == [("b", "g")], "what is shown is not older than the last question"
        told.clear()
        await until(lambda: len(told) > 1)
        assert set(told) == {"b"}
        hangs = False
        await until(lambda: watch.problem is None)
        await watch.stop(0)

    run(main())


def test_a_group_that_is_never_there_does_not_hide_another(
    run: Run, until: Until, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.02)
    missing = {"z"}

    async def backlog(topic: str, group: str) -> Backlog:
        if topic in missing:
            raise MissingGroup(f"{topic}/{group}", "is not there")
        return Backlog(waiting=1, in_flight=0, age=None)

    async def main() -> None:
        watch = LagWatch(lambda: [(topic, "g") for topic in "abcdefz"], backlog, None)
        await watch.start()
        await until(lambda: watch.problem)
        missing.add("a")
        await until(lambda: "a/g" in str(watch.problem))
        assert "z/g" in str(watch.problem)
        missing.update("bcdef")
        await until(lambda: str(watch.problem).endswith("; and 2 more groups"))
        missing.clear()
        await until(lambda: watch.problem is None)
        await watch.stop(0)

    run(main())
    assert [each.levelname for each in caplog.records if "z/g" in each.getMessage()] == ["WARNING"]
    assert [each.levelname for each in caplog.records if "a/g" in each.getMessage()] == ["WARNING"]

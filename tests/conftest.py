"""Fixtures that tests of several folders share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from anybroker import Bus, MemoryBroker


class _EagerLoops(asyncio.DefaultEventLoopPolicy):
    """Event loops whose tasks begin to run when they are made."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        loop = super().new_event_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore] # Python 3.12
        return loop


def pytest_configure() -> None:
    """``ANYBROKER_TEST_LOOP``: run on other event loops, ``eager`` or ``uvloop``."""
    match os.environ.get("ANYBROKER_TEST_LOOP"):
        case None:
            pass
        case "eager":
            asyncio.set_event_loop_policy(_EagerLoops())
        case "uvloop":
            asyncio.set_event_loop_policy(import_module("uvloop").EventLoopPolicy())
        case other:
            raise pytest.UsageError(f"ANYBROKER_TEST_LOOP: {other!r} is neither eager nor uvloop")


@pytest.fixture
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Runs a coroutine to its end."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def bus() -> Bus:
    """A Bus on a broker of its own, in memory."""
    return Bus(MemoryBroker(), source="shop")


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Coroutine[Any, Any, None]]:
    """Waits until a condition holds, 10 seconds at most."""

    async def wait(condition: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + 10.0
        while True:
            if condition():
                return
            assert loop.time() < end, "it did not happen"
            await asyncio.sleep(0.001)

    return wait


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no settings of the machine's."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("ANYBROKER_"):
            monkeypatch.delenv(name)
    return tmp_path

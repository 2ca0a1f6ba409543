"""Fixtures that tests of several folders share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from anybroker import Bus, MemoryBroker


def _eager_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose tasks begin to run when they are made."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore] # Python 3.12
    return loop


def _run_on(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Make it asyncio's default ``loop_factory``: event loop policies warn since Python 3.14, and end with 3.16."""
    for function in (asyncio.Runner.__init__, asyncio.run):
        defaults: dict[str, object] = function.__kwdefaults__  # type: ignore[attr-defined]
        if "loop_factory" in defaults:  # asyncio.run has it since 3.12
            defaults["loop_factory"] = factory


def pytest_configure() -> None:
    """``ANYBROKER_TEST_LOOP``: run on other event loops, ``eager`` or ``uvloop``. Hypothesis measures no times, which
    say how busy the machine is."""
    hypothesis.settings.register_profile("anybroker", deadline=None)
    hypothesis.settings.load_profile("anybroker")
    match os.environ.get("ANYBROKER_TEST_LOOP"):
        case None:
            pass
        case "eager":
            _run_on(_eager_loop)
        case "uvloop":
            _run_on(import_module("uvloop").new_event_loop)
        case other:
            raise pytest.UsageError(f"ANYBROKER_TEST_LOOP: {other!r} is neither eager nor uvloop")


@pytest.fixture
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Runs a coroutine to its end."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def bus() -> Bus:
    """A Bus on its own broker in memory."""
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

"""Running a program until a signal ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

from ..printable import logger

__all__ = ["Main", "run_until_signal"]

_log = logger("anybroker.bus")

Main: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
"""A program's own async function."""


async def run_until_signal(
    running: AbstractAsyncContextManager[Any],
    give_up: Callable[[], None],
    main: Main | None,
    where: Callable[[], str],
    drain: float,
) -> None:
    """Enter ``running``, and leave it at SIGTERM or SIGINT, or when ``main`` fails or exits. For the log: ``where`` is
    asked which broker it is, once it is entered; ``drain`` is how many seconds handlers have when it is left.

    A second signal calls ``give_up``; a third one ends the process at once, with the exit code 128 + its number.
    Installs its signal handlers while it lasts.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = 0

    def on_first(name: str) -> None:
        _log.info("%s: draining for at most %g s; a second signal ends that at once", name, drain)
        stop.set()

    def on_second(name: str) -> None:
        _log.warning("%s, for the second time: what still runs is cancelled", name)
        give_up()

    def on_signal(number: int, _frame: object) -> None:  # not by the loop, which a handler may block
        nonlocal signals
        signals += 1
        name = signal.Signals(number).name
        if signals > 2:
            _log.critical("%s, for the third time: the program ends immediately", name)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(128 + number)
        loop.call_soon_threadsafe(on_first if signals == 1 else on_second, name)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        async with running:
            _log.info("started on %s", where())
            stopped = asyncio.create_task(stop.wait())
            try:
                if main is not None:
                    await _run_main(main, stopped)
                await stopped
            finally:
                stopped.cancel()
        _log.info("closed")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _run_main(main: Main, stopped: asyncio.Task[Any]) -> None:
    """Run it until it ends, raising what it raised, or until the signal arrives. Cancelling this cancels it."""

    async def contained() -> BaseException | None:
        try:
            await main()
        except (SystemExit, KeyboardInterrupt) as exc:  # from a task, it would end the loop before the Bus closes
            return exc
        return None

    own = asyncio.create_task(contained(), name="anybroker main")
    try:
        await asyncio.wait((own, stopped), return_when=asyncio.FIRST_COMPLETED)
        if own.done():
            if (leaving := own.result()) is not None:
                raise leaving
        else:
            own.cancel()
            await asyncio.wait((own,))
    finally:
        own.cancel()

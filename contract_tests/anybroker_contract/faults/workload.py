"""The programs of a run, on the public API only: ``python -m anybroker_contract.faults.workload '{"role": …}'``.

A ``publisher`` publishes ``writer-0`` and so on, under ``k0`` … in turn, until all are published or SIGTERM.
A ``member`` consumes until SIGTERM; SIGUSR1 lets it leave its group and join again. Both write to the history, and end
at once when the process that started them is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anybroker import Bus, Delivery, Event
from anybroker.errors import BrokerError, PublishOutcomeUnknown, Rejected, Unavailable
from anybroker.middleware import retry

from .history import Writer

__all__ = ["GROUP", "main", "number_of"]

GROUP = "g"
"""The one group of a run."""
TYPE = "com.example.faults.counted.v1"
LOOK = 0.5
"""Seconds between two looks at what a Bus reports."""
PAUSE = 0.2
"""Seconds without a publish after a failure, as a program would wait."""


def number_of(id_: str) -> int:
    """The counter in ``writer-counter``."""
    return int(id_.rpartition("-")[2])


def target(options: dict[str, Any]) -> Any:
    """What the Bus is made with: the URL, or a factory of a deliberately broken adapter."""
    if options["mutant"] is None:
        return options["url"]
    from ..mutants import break_broker

    return break_broker(options["url"], options["mutant"])


# ------------------------------------------------------------------------------------------------------- publishing


class Publisher:
    """Publishes, and records the outcome of each."""

    def __init__(self, options: dict[str, Any], history: Writer) -> None:
        self._options = options
        self._history = history
        self._window = asyncio.Semaphore(options["window"])
        self._resume = 0.0
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Until all are published and have an outcome."""
        options = self._options
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopped.set)
        bus = Bus(
            target(options),
            source="faults",
            consume=False,
            publish_deadline=options["deadline"],
            topics={options["topic"]: {"groups": [GROUP]}},
        )
        async with bus:
            self._history.write("ready")
            async with asyncio.TaskGroup() as group:
                for number in self._numbers():
                    if number % options["burst"] == 0:
                        await self._pace(loop)
                    await self._window.acquire()
                    if self._stopped.is_set():
                        break
                    group.create_task(self._publish(bus, number))
        self._history.write("closed", stats=bus.stats.as_dict())

    def _numbers(self) -> Iterator[int]:
        number = 0
        while not self._stopped.is_set() and (self._options["events"] is None or number < self._options["events"]):
            yield number
            number += 1

    async def _pace(self, loop: asyncio.AbstractEventLoop) -> None:
        """At the requested rate, without catching up after an outage."""
        now = loop.time()
        if self._resume > now:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._resume - now):
                    await self._stopped.wait()
        if self._options["rate"]:
            self._resume = max(self._resume, now) + self._options["burst"] / self._options["rate"]

    async def _publish(self, bus: Bus, number: int) -> None:
        id_, key = f"{self._options['writer']}-{number}", f"k{number % self._options['keys']}"
        event = Event.create({"n": number}, source="faults", type=TYPE, id=id_, key=key)
        self._history.write("invoke", id=id_, key=key)
        try:
            await bus.publish(self._options["topic"], event)
        except Exception as exc:  # noqa: BLE001 - any exception is recorded as the outcome
            what = "unknown" if isinstance(exc, PublishOutcomeUnknown) else "fail"
            typed = isinstance(exc, Rejected | Unavailable | PublishOutcomeUnknown)
            self._history.write(what, id=id_, error=f"{type(exc).__name__}: {exc}"[:200], typed=typed)
            self._resume = asyncio.get_running_loop().time() + PAUSE
        else:
            self._history.write("ok", id=id_)
        finally:
            self._window.release()


# -------------------------------------------------------------------------------------------------------- consuming


class Member:
    """Consumes, and records the starts and effects of its handler."""

    def __init__(self, options: dict[str, Any], history: Writer) -> None:
        self._options = options
        self._history = history
        self._bus = Bus(
            target(options),
            source="faults",
            lease=options["lease"],
            drain=options["drain"],
            connect_timeout=options["connect"],
        )
        self._subscription = self._bus.subscription(
            options["topic"],
            group=GROUP,
            max_in_flight=options["in_flight"],
            middleware=[retry(attempts=options["attempts"], first=0.05)],
        )
        self._subscription.on(self._handle, name="faults")
        self._turn = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM."""
        await self._bus.run_async(self._watch)
        self._history.write("closed", stats=self._subscription.stats.as_dict())

    async def _handle(self, delivery: Delivery) -> None:
        id_ = delivery.event.id
        self._history.write("start", id=id_, key=delivery.event.key, attempt=delivery.attempt)
        try:
            if self._options["seconds"]:
                await asyncio.sleep(self._options["seconds"])
            every = self._options["fail_every"]
            if every and number_of(id_) % every == every - 1:
                raise ValueError("asked to fail")
        except BaseException as exc:
            self._history.write("error", id=id_, error=type(exc).__name__)
            raise
        self._history.write("effect", id=id_)

    async def _watch(self) -> None:
        """Say that the Bus has started and what it reports, and leave and join on request."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._turn.set)
        self._history.write("ready")
        reported: dict[str, str] = {}
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._turn.wait()
            if self._turn.is_set():
                self._turn.clear()
                await self._again()
            found = {str(name): str(problem) for name, problem in self._bus.problems.items()}
            if found != reported:
                reported = found
                self._history.write("problems", problems=found)

    async def _again(self) -> None:
        self._history.write("leave")
        try:
            await self._subscription.stop()
            await self._subscription.start()
        except BrokerError as exc:  # the broker was killed meanwhile: a program tries again, and so does this one
            self._history.write("problems", problems={"leaving": f"{type(exc).__name__}: {exc}"[:200]})
            self._turn.set()
            await asyncio.sleep(PAUSE)
        else:
            self._history.write("join")


# ---------------------------------------------------------------------------------------------------------- program


def end_with_parent() -> None:
    """End this process when its standard input does: the one that started it is gone."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(4)

    threading.Thread(target=watch, daemon=True, name="faults: end with the parent").start()


def main() -> None:
    """Entry point."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    end_with_parent()
    history = Writer(Path(options["history"]))
    role = Publisher if options["role"] == "publisher" else Member

    async def run() -> None:
        await role(options, history).run()

    asyncio.run(run())


if __name__ == "__main__":
    main()

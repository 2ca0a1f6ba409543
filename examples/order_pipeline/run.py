"""One run, from the first process to the evidence."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any

from anybroker import Bus, DeadLetter
from anybroker.deadletters import DEAD_LETTER_GROUP
from anybroker.deadletters.queue import DeadLetterQueue

from . import shop
from .checks import Evidence, Letter
from .history import Entry, Reader
from .plan import Plan, plan
from .report import Live
from .seen import Seen
from .settings import demo
from .supervisor import SERVICES, InProcess, Processes, ServiceFailed, Services

__all__ = ["run"]

_LOOK_EVERY = 0.05
"""Seconds between two looks at the history."""
_OBSERVE_EVERY = 1.0
"""Seconds between two questions to each service."""


async def run(url: str, live: Live, seconds: float) -> tuple[Evidence, str, str]:
    """Run the shop until each order has its outcome. Returns the evidence, the broker's name, and how the crash was
    made.

    Ends after ``seconds`` at the latest, with the evidence at that time. Leaves no process behind.
    """
    settings, reader = demo(), Reader(demo().folder)
    history: list[Entry] = []
    complaints: list[str] = []
    bus = Bus(url, source="supervisor", consume=False, topics=shop.TOPICS)
    async with bus:
        services: Services
        if bus.adapter.capabilities.processes:
            services = Processes(settings.folder, {"ANYBROKER_URL": url, **settings.environment()})
        else:
            services = InProcess()
            shop.shared = bus.adapter.native
        restarts = 0
        try:
            live.say(f"{bus.adapter.capabilities.adapter}: starting the services")
            await services.start()
            observing = asyncio.create_task(_observe(bus, Seen(settings.folder, SERVICES), live))
            try:
                restarts = await _watch(services, reader, history, live, monotonic() + seconds)
                await _settled(bus, monotonic() + 10.0)
            finally:
                observing.cancel()
                await asyncio.wait([observing])
        except ServiceFailed as exc:
            complaints.append(str(exc))
        finally:
            complaints += await services.stop()
        history += reader.new()
        letters = await _dead_letters(bus)
    return (
        _evidence(settings.folder, plan(), history, letters, restarts, complaints),
        bus.adapter.capabilities.adapter,
        services.how,
    )


async def _watch(services: Services, reader: Reader, history: list[Entry], live: Live, deadline: float) -> int:
    """Follow the run to its end, and crash the service where the plan says. Returns how often that was."""
    strikes = 0
    claimed: set[str] = set()
    waiting = {order.order_id for order in plan().orders} - {plan().poison}
    while waiting and monotonic() < deadline:
        services.check()
        new = list(reader.new())
        history += new
        live.show(new)
        if waits := {entry.order for entry in new if entry.what == "waits"} - claimed:
            claimed |= waits
            live.say(f"payment: {len(waits)} orders wait for the claims of the killed process to end")
        for entry in new:
            if entry.what == "done" and entry.service == "storefront":
                waiting.discard(entry.order)
            elif entry.what == "copy":
                live.say(f"storefront: order {entry.order} published twice{entry.note and ', ' + entry.note}")
            elif entry.what == "click":
                live.say(f"storefront: order {entry.order} clicked twice")
            elif entry.what == "failed":
                live.say(f"{entry.service}: order {entry.order}, attempt {entry.attempt}: {entry.note}")
            elif entry.what == "crash":
                live.say(f"payment: the bank has charged order {entry.order}, the handler waits … {services.how}")
                await services.crash("payment")
                live.say("payment: started again")
                strikes += 1
        await asyncio.sleep(_LOOK_EVERY)
    if waiting:
        live.say(f"time is up: {len(waiting)} orders have no outcome")
    return strikes


async def _observe(bus: Bus, seen: Seen, live: Live) -> None:
    """Ask each service each second what it says of itself, and the broker what waits for it."""
    groups = [(topic, group) for topic, settings in shop.TOPICS.items() for group in settings.groups]
    while True:
        looked = await seen.look()
        lags: Counter[str] = Counter()
        if bus.adapter.capabilities.backlog and live.observes:
            for topic, group in groups:
                lags[group] += (await bus.backlog(topic, group)).lag
        live.show_services(seen.places, looked, lags if bus.adapter.capabilities.backlog else None)
        await asyncio.sleep(_OBSERVE_EVERY)


async def _settled(bus: Bus, deadline: float) -> None:
    """Wait until nothing is left to deliver, so that late copies arrive too."""
    if not bus.adapter.capabilities.backlog:
        return
    for topic, settings in shop.TOPICS.items():
        for group in settings.groups:
            while monotonic() < deadline:
                backlog = await bus.backlog(topic, group)
                if not backlog.lag:
                    break
                await asyncio.sleep(_LOOK_EVERY)


async def _dead_letters(bus: Bus) -> list[Letter]:
    """The dead letters of every group, read as an operator would."""
    queues = [bus.dead_letters(topic, group) for topic, settings in shop.TOPICS.items() for group in settings.groups]
    found = await asyncio.gather(*(_read(bus, queue) for queue in queues))
    return [
        Letter(letter.topic, letter.group, letter.id, letter.reason, letter.attempts)
        for letters in found
        for letter in letters
    ]


async def _read(bus: Bus, queue: DeadLetterQueue) -> Sequence[DeadLetter]:
    """Reading an empty queue takes as long as its patience, so check first whether it is empty, if the broker can
    tell."""
    if bus.adapter.capabilities.backlog:
        backlog = await bus.backlog(queue.dead_letter_topic, DEAD_LETTER_GROUP)
        if not backlog.lag:
            return []
    return await queue.list()


def _evidence(
    folder: Path,
    what_was_planned: Plan,
    history: list[Entry],
    letters: list[Letter],
    restarts: int,
    complaints: list[str],
) -> Evidence:
    def read(name: str, query: str) -> list[Any]:
        path = folder / f"{name}.db"
        if not path.exists():
            return []
        with closing(sqlite3.connect(path)) as db:
            return db.execute(query).fetchall()

    return Evidence(
        plan=what_was_planned,
        history=history,
        outcomes=read("storefront", "SELECT order_id, outcome FROM letter"),
        charges=read("bank", "SELECT key, cents FROM charge"),
        asked=dict(read("bank", "SELECT key, asked FROM request")),
        parcels=read("shipping", "SELECT order_id, cds FROM parcel"),
        cds_gone=-sum(cds for (cds,) in read("inventory", "SELECT cds FROM movement")),
        letters=letters,
        restarts=restarts,
        complaints=complaints,
    )

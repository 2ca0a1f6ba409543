"""exit: a program that ends itself ends with its own exit code, soon, and says nothing that looks like a crash."""

from __future__ import annotations

import asyncio

from ._kit import Kit
from .marks import needs_harness, requires

ALARMS = ("Traceback", "unhandled", "Unhandled", "Task exception", "never retrieved", "was destroyed", "Unclosed")


@needs_harness("url")
@requires("processes", "durable")
async def test_sys_exit_in_main_ends_the_program(kit: Kit) -> None:
    """``sys.exit(3)`` in the main of ``bus.run``, after a publish and with a subscription running: exit code 3 within a
    few seconds, the event is stored, and stderr shows no error."""
    topic = kit.topic()
    log = kit.log()
    await kit.declared(topic, "g", "after")
    worker = await kit.worker(topic, log=log, exit=3)
    began = asyncio.get_running_loop().time()
    status = await worker.gone(kit.patience)
    took = asyncio.get_running_loop().time() - began
    assert (status, [alarm for alarm in ALARMS if alarm in worker.errors]) == (3, []), worker.errors
    assert took <= 5.0 + kit.capabilities.poll
    bus = kit.bus()
    left = kit.subscribe(bus, topic, group="after")
    async with bus:
        await left.wait_done(["left"])

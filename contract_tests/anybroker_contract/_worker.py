"""A consumer in a separate process: ``python -m anybroker_contract._worker '{"url": …}'``.

Prints one JSON object per line: ``ready``, then ``start`` and ``end`` of each handler, then ``closed``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import warnings
from typing import Any

from anybroker import Bus, Delivery
from anybroker.middleware import retry

__all__ = ["main"]


def say(**facts: Any) -> None:
    """One line, flushed at once, in case this process is killed right afterwards."""
    os.write(1, (json.dumps(facts) + "\n").encode())


class AnnouncingBus(Bus):
    """Says when it is ready."""

    async def start(self) -> None:
        """As a Bus."""
        await super().start()
        say(what="ready")


def make_bus(options: dict[str, Any]) -> Bus:
    """The Bus with its one handler."""
    target: Any = options["url"]
    if options.get("mutant"):
        from .mutants import break_broker

        target = break_broker(target, options["mutant"])
    bus = AnnouncingBus(target, source="contract-worker", lease=options["lease"], drain=options["drain"])
    subscription = bus.subscription(
        options["topic"],
        group=options["group"],
        middleware=[retry(attempts=options["attempts"], first=0.01)],
        **options["subscription"],
    )

    async def handle(delivery: Delivery) -> None:
        facts = {"id": delivery.event.id, "key": delivery.key, "attempt": delivery.attempt}
        say(what="start", headers=dict(delivery.headers), **facts)
        if delivery.event.id in options["fail"]:
            raise ValueError("asked to fail")
        if delivery.event.id in options["stick"]:
            await asyncio.Event().wait()
        if options["seconds"]:
            await asyncio.sleep(options["seconds"])
        say(what="end", **facts)

    subscription.on(handle, name="contract")
    return bus


async def run(options: dict[str, Any]) -> None:
    """Until SIGTERM; with ``exit``, until its main has published one event and exits with that code."""
    bus = make_bus(options)

    async def leave() -> None:
        await bus.publish(options["topic"], {"n": 1}, type="contract.left", key="left", id="left")
        sys.exit(options["exit"])

    await bus.run_async(leave if "exit" in options else None)
    say(what="closed", stats=bus.subscriptions[0].stats.as_dict())


def main() -> None:
    """Entry point."""
    warnings.simplefilter("error")
    asyncio.run(run(json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()

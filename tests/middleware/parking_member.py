"""A member that parks keys, in a process of its own, which kills itself at a named point.

``python parking_member.py FOLDER POINT NTH``: ``before-letter`` and ``after-letter`` are around the NTH dead letter,
``finished`` is after the NTH row was finished, and ``never`` is no point at all. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anybroker import Bus, Event, Reject, subscription
from anybroker.idempotency import SqliteStore
from anybroker.middleware import dead_letter, retry


def dies_at(point: str, nth: int) -> Callable[[str], None]:
    """What kills this process the ``nth`` time that it is told of the point."""
    count = 0

    def here(name: str) -> None:
        nonlocal count
        if name == point:
            count += 1
            if count == nth:
                os.kill(os.getpid(), signal.SIGKILL)

    return here


class Store(SqliteStore):
    """Says when a row was finished."""

    said: Callable[[str], None]

    async def unpark(self, place: str, key: str, event: str | None, /) -> int:
        left = await super().unpark(place, key, event)
        self.said("finished")
        return left


async def main(folder: Path, point: str, nth: int) -> None:
    here = dies_at(point, nth)
    right = subscription.send_dead_letter

    async def send(*arguments: Any) -> list[str]:
        here("before-letter")
        cut = await right(*arguments)
        here("after-letter")
        return cut

    subscription.send_dead_letter = send
    store = Store(folder / "parked.db")
    store.said = here
    bus = Bus(f"sqlite:///{folder / 'broker.db'}", source="member", lease=1.0, idempotency=store)

    @bus.subscribe("ledger", group="books", middleware=[dead_letter(then="park"), retry(attempts=1)])
    def book(event: Event) -> None:
        if (folder / f"refuse-{event.id}").exists():
            raise Reject("not booked")
        with open(folder / "booked", "a", encoding="utf-8") as booked:
            booked.write(f"{event.id}\n")

    async with bus:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))

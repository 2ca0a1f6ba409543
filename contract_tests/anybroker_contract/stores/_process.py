"""A store in another process: ``python -m anybroker_contract.stores._process OPTIONS``.

Reads one request a line from its standard input, as JSON, and writes one answer a line; requests run at the same time.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module
from typing import Any

from .clock import set_ahead


class Program:
    """Runs what it is asked on one store."""

    def __init__(self, options: dict[str, Any]) -> None:
        module, _, attribute = options["harness"].partition(":")
        self.harness = getattr(import_module(module), attribute)()
        self.harness.attach(options["started"])
        place, retain = options["place"], options["retain"]
        self.store: Any  # also its transaction is asked for
        if options["mutant"]:
            from .mutants import break_store

            self.store = break_store(options["mutant"])(lambda: self.harness.store(place, retain=retain))
        else:
            self.store = self.harness.store(place, retain=retain)
        self.claims: dict[int, Any] = {}
        self.transactions: dict[int, Any] = {}

    async def claim(self, keys: list[list[str]], owner: str, lease: float, retain: float) -> list[Any]:
        """All at once."""
        from anybroker.idempotency import Busy, Claim

        answers: list[Any] = []
        for got in await asyncio.gather(*(self.store.claim(tuple(key), owner, lease, retain) for key in keys)):
            if isinstance(got, Claim):
                number = len(self.claims)
                self.claims[number] = got
                answers.append(["claim", number, got.fence, got.since])
            else:
                answers.append(["busy", got.age, got.left] if isinstance(got, Busy) else ["done"])
        return answers

    async def done(self, numbers: list[int]) -> list[bool]:
        """All at once."""
        return list(await asyncio.gather(*(self.store.done(self.claims[number]) for number in numbers)))

    async def extend(self, numbers: list[int]) -> list[bool]:
        """In one call."""
        return list(await self.store.extend([self.claims[number] for number in numbers]))

    async def release(self, numbers: list[int]) -> None:
        """All at once."""
        await asyncio.gather(*(self.store.release(self.claims[number]) for number in numbers))

    async def effect(self, number: int, text: str) -> None:
        """Write through the transaction of the claim."""
        if number not in self.transactions:
            self.transactions[number] = self.store.transaction(self.claims[number])
        await self.harness.effect(self.transactions[number], text)

    async def run(self) -> None:
        """Until its input ends."""
        reader = asyncio.StreamReader(limit=1 << 26)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
        )
        await self.store.open()
        say({"number": -1, "value": "ready"})
        tasks: set[asyncio.Task[None]] = set()
        while line := await reader.readline():
            task = asyncio.create_task(self._answer(json.loads(line)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        await self.store.close()

    async def _answer(self, request: dict[str, Any]) -> None:
        try:
            value = await getattr(self, request["do"])(*request["with"])
        except Exception as exc:  # noqa: BLE001 - the test gets it
            say({"number": request["number"], "error": type(exc).__name__, "text": str(exc)})
        else:
            say({"number": request["number"], "value": value})


def say(facts: dict[str, Any]) -> None:
    """One line."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Entry point. The clock is set before anything imports it."""
    options = json.loads(sys.argv[1])
    if options["ahead"]:
        set_ahead(options["ahead"])
    asyncio.run(Program(options).run())


if __name__ == "__main__":
    main()

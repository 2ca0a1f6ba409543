"""A store in another process, as a test sees it: the same calls, and signals."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from typing import Any

from anybroker.idempotency import DONE, Busy, Claim, Done, Key, StoreUnavailable

__all__ = ["ClaimElsewhere", "Elsewhere"]


class ClaimElsewhere(Claim):
    """A claim that the other process holds."""

    __slots__ = ("number",)

    def __init__(self, number: int, key: Key, fence: int, lease: float, retain: float, since: float) -> None:
        super().__init__(key, fence, lease, retain, since)
        self.number = number


class Elsewhere:
    """Runs :mod:`anybroker_contract.stores._process`."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._count = 0

    async def start(self, seconds: float = 30.0) -> None:
        """Start it and wait until its store is open."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "anybroker_contract.stores._process", json.dumps(self._options)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 26,
        )
        ready = self._waiting[-1] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(self._process))
        async with asyncio.timeout(seconds):
            await ready

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        errors = asyncio.create_task(process.stderr.read())
        while line := await process.stdout.readline():
            facts = json.loads(line)
            future = self._waiting.pop(facts["number"], None)
            if future is None or future.done():
                continue
            if "error" in facts:
                kind = StoreUnavailable if facts["error"] == "StoreUnavailable" else AssertionError
                future.set_exception(kind(f"{facts['error']} in the other process: {facts['text']}"))
            else:
                future.set_result(facts["value"])
        said = (await errors).decode(errors="replace")
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionError(f"the other process ended: {said[-2000:]}"))
                future.exception()  # nobody may be waiting for it any more
        self._waiting.clear()

    async def ask(self, do: str, *arguments: Any) -> Any:
        """One request; its answer. ``ConnectionError`` if the process ends before."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        self._count += 1
        future = self._waiting[self._count] = asyncio.get_running_loop().create_future()
        process.stdin.write(json.dumps({"number": self._count, "do": do, "with": arguments}).encode() + b"\n")
        return await future

    # ------------------------------------------------------------------------------------------- the store's calls

    async def claim_all(
        self, keys: Sequence[Key], owner: str, lease: float, retain: float
    ) -> list[Claim | Busy | Done]:
        """Claim all of them at once."""
        answers: list[Claim | Busy | Done] = []
        for key, (what, *rest) in zip(keys, await self.ask("claim", keys, owner, lease, retain), strict=True):
            match what:
                case "claim":
                    number, fence, since = rest
                    answers.append(ClaimElsewhere(number, key, fence, lease, retain, since))
                case "busy":
                    answers.append(Busy(*rest))
                case _:
                    answers.append(DONE)
        return answers

    async def claim(self, key: Key, owner: str, lease: float, retain: float, /) -> Claim | Busy | Done:
        """Store.claim."""
        (answer,) = await self.claim_all([key], owner, lease, retain)
        return answer

    async def extend(self, claims: Sequence[Claim], /) -> Sequence[bool]:
        """Store.extend."""
        answers: list[bool] = await self.ask("extend", [number_of(claim) for claim in claims])
        return answers

    async def done(self, claim: Claim, /) -> bool:
        """Store.done."""
        (answer,) = await self.ask("done", [number_of(claim)])
        return bool(answer)

    async def done_all(self, claims: Sequence[Claim]) -> list[bool]:
        """Mark all of them at once."""
        answers: list[bool] = await self.ask("done", [number_of(claim) for claim in claims])
        return answers

    async def release(self, claim: Claim, /) -> None:
        """Store.release."""
        await self.ask("release", [number_of(claim)])

    async def effect(self, claim: Claim, text: str) -> None:
        """Write through the claim's transaction."""
        await self.ask("effect", number_of(claim), text)

    # ---------------------------------------------------------------------------------------------------- signals

    def stop(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        process, reading = self._process, self._reading
        if process is None or reading is None:
            return
        if process.returncode is None:
            self._signal(signal.SIGKILL)
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(20):
            await process.wait()
            await reading

    async def end(self) -> int:
        """Let it close its store; the exit status."""
        process, reading = self._process, self._reading
        assert process is not None
        assert process.stdin is not None
        assert reading is not None
        process.stdin.close()
        async with asyncio.timeout(20):
            status = await process.wait()
            await reading
        return status

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def number_of(claim: Claim) -> int:
    """What the other process calls this claim."""
    assert isinstance(claim, ClaimElsewhere)
    return claim.number

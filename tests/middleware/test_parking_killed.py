"""A member that parks keys is killed between its steps: nothing is lost, and nothing overtakes what was set aside."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from anybroker import Bus
from anybroker.idempotency import SqliteStore

MEMBER = Path(__file__).with_name("parking_member.py")
IDS = [f"e-{number}" for number in range(5)]
PATIENCE = 30.0


@asynccontextmanager
async def member(folder: Path, point: str = "never", nth: int = 1) -> AsyncIterator[asyncio.subprocess.Process]:
    """One, ready; ended at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(MEMBER), str(folder), point, str(nth)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), PATIENCE) == b"ready\n"
        yield process
        process.stdin.close()
        await asyncio.wait_for(process.wait(), PATIENCE)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def killed(process: asyncio.subprocess.Process) -> None:
    """Return when it has killed itself."""
    assert await asyncio.wait_for(process.wait(), PATIENCE) == -9


async def until(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again: it is another process that does it."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - nothing tells this process of it
            await asyncio.sleep(0.05)


def booked(folder: Path) -> list[str]:
    """What the members have handled, in order."""
    file = folder / "booked"
    return file.read_text(encoding="utf-8").split() if file.exists() else []


@asynccontextmanager
async def publisher(folder: Path) -> AsyncIterator[Bus]:
    """A Bus that publishes and replays; the group is declared."""
    bus = Bus(
        f"sqlite:///{folder / 'broker.db'}",
        source="ledger",
        consume=False,
        idempotency=SqliteStore(folder / "parked.db"),
        topics={"ledger": {"groups": ["books"]}},
    )
    async with bus:
        yield bus


async def all_set_aside(bus: Bus) -> None:
    """Return when each event has a dead letter, and the broker holds nothing else."""

    async def there() -> bool:
        if (await bus.backlog("ledger", "books")).lag:
            return False
        return {letter.id for letter in await bus.dead_letters("ledger", "books").list()} == set(IDS)

    await until("all set aside", there)


@pytest.mark.parametrize("point", ["before-letter", "after-letter"])
@pytest.mark.parametrize("nth", [1, 2, 5], ids=["the-first", "the-second", "the-last"])
def test_killed_around_a_dead_letter(tmp_path: Path, point: str, nth: int) -> None:
    """Between the row and the dead letter, and between the dead letter and the acknowledgement: another member goes on,
    and the replay handles them in order, each once; but the last one, whose dead letter was sent twice, may come twice,
    because nothing of its key is remembered any more when it is free."""
    asyncio.run(_around_a_dead_letter(tmp_path, point, nth))


async def _around_a_dead_letter(tmp_path: Path, point: str, nth: int) -> None:
    (tmp_path / "refuse-e-0").touch()
    async with publisher(tmp_path) as bus:
        for id_ in IDS:
            await bus.publish("ledger", {"id": id_}, type="booking", id=id_, key="account-1")
        async with member(tmp_path, point, nth) as first:
            await killed(first)
        async with member(tmp_path):
            await all_set_aside(bus)
            assert booked(tmp_path) == []
            (tmp_path / "refuse-e-0").unlink()
            await bus.dead_letters("ledger", "books").replay()

            async def free() -> bool:
                return not await bus.dead_letters("ledger", "books").parked()

            await until("the key is free", free)
            await bus.publish("ledger", {}, type="booking", id="later", key="account-1")

            async def later() -> bool:
                return "later" in booked(tmp_path)

            await until("the next one is handled", later)
        twice = IDS[-1:] if (point, nth) == ("after-letter", len(IDS)) else []
        assert booked(tmp_path) == [*IDS, *twice, "later"]


@pytest.mark.parametrize("nth", [1, 3], ids=["the-first", "the-third"])
def test_killed_between_the_row_and_the_acknowledgement(tmp_path: Path, nth: int) -> None:
    """A replayed event was handled, and its member died before it could say so: it is not handled again, and those
    behind it keep their order."""
    asyncio.run(_between_the_row_and_the_acknowledgement(tmp_path, nth))


async def _between_the_row_and_the_acknowledgement(tmp_path: Path, nth: int) -> None:
    (tmp_path / "refuse-e-0").touch()
    async with publisher(tmp_path) as bus:
        for id_ in IDS:
            await bus.publish("ledger", {"id": id_}, type="booking", id=id_, key="account-1")
        async with member(tmp_path):
            await all_set_aside(bus)
        (tmp_path / "refuse-e-0").unlink()
        async with member(tmp_path, "finished", nth) as first:
            await bus.dead_letters("ledger", "books").replay()
            await killed(first)
        assert booked(tmp_path) == IDS[:nth]
        async with member(tmp_path):

            async def all_booked() -> bool:
                return len(booked(tmp_path)) >= len(IDS) and not (await bus.backlog("ledger", "books")).lag

            await until("all handled", all_booked)
        assert booked(tmp_path) == IDS
        assert await bus.dead_letters("ledger", "books").parked() == {}

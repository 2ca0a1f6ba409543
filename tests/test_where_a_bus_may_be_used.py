"""A Bus belongs to one event loop of one process; close, exits and signals end it from there."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from anybroker import Bus, MemoryBroker, StateError


def test_another_event_loop_is_refused_and_nothing_is_sent(run: Any) -> None:
    bus = Bus(MemoryBroker(), source="shop", topics={"orders": {"groups": ["g"]}})
    refused: list[str] = []

    def elsewhere() -> None:
        async def use() -> None:
            for call in (
                bus.publish("orders", 1, type="t"),
                bus.publish_many("orders", []),
                bus.declare("other"),
                bus.backlog("orders", "g"),
                bus.close(),
            ):
                with pytest.raises(StateError, match="another event loop") as caught:
                    await call
                refused.append(str(caught.value).partition(":")[0])

        asyncio.run(use())

    async def main() -> None:
        async with bus:
            thread = threading.Thread(target=elsewhere)
            thread.start()
            await asyncio.to_thread(thread.join)
            assert (await bus.backlog("orders", "g")).lag == 0
            await bus.publish("orders", 1, type="t")

    run(main())
    assert refused == ["publish", "publish_many", "declare", "backlog", "close"]
    assert bus.stats.published == 1


FORKED = """
    import asyncio, os
    from anybroker import Bus, MemoryBroker, StateError

    bus = Bus(MemoryBroker(), source="shop", topics={"orders": {"groups": ["g"]}})

    async def child():
        for call in (bus.publish("orders", 1, type="t"), bus.close()):
            try:
                await call
            except StateError as exc:
                assert "forked" in str(exc), exc
            else:
                raise AssertionError("accepted")

    async def main():
        async with bus:
            pid = os.fork()
            if pid == 0:
                try:
                    asyncio._set_running_loop(None)
                    asyncio.run(child())
                    try:
                        bus.from_thread.publish("orders", 1, type="t")
                    except StateError as exc:
                        assert "forked" in str(exc), exc
                    else:
                        raise AssertionError("accepted")
                except BaseException as exc:
                    print(repr(exc), flush=True)
                    os._exit(1)
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            assert status == 0
            await bus.publish("orders", 1, type="t")
            assert (await bus.backlog("orders", "g")).lag == 1

    asyncio.run(main())
"""


def program(text: str, tmp_path: Path) -> subprocess.Popen[str]:
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(text))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )


def test_a_forked_process_is_refused(tmp_path: Path) -> None:
    with program(FORKED, tmp_path) as process:
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output


EXITS = """
    import sys
    from anybroker import Bus

    bus = Bus("{url}", source="shop")

    @bus.subscribe("orders", group="g")
    async def handle(number: int) -> None: ...

    async def main():
        await bus.publish("orders", 1, type="t")
        sys.exit(7)

    bus.run(main)
"""


@pytest.mark.parametrize("url", ["memory://", "sqlite:///shop.db"])
def test_an_exit_in_main_closes_the_bus_and_is_the_programs(url: str, tmp_path: Path) -> None:
    with program(EXITS.format(url=url), tmp_path) as process:
        output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (7, "")


STUBBORN = """
    import logging, time
    from anybroker import Bus

    logging.basicConfig()
    bus = Bus("memory://", source="shop", drain=60)

    @bus.subscribe("orders", group="g")
    {kind}def handle(number: int) -> None:
        print("begun", flush=True)
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass

    async def main():
        await bus.publish("orders", 1, type="t")

    bus.run(main)
"""


@pytest.mark.parametrize("kind", ["", "async "])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_third_signal_ends_the_program_whatever_a_handler_does(
    kind: str, number: signal.Signals, tmp_path: Path
) -> None:
    with program(STUBBORN.format(kind=kind), tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        for _ in range(3):
            process.send_signal(number)
            try:
                process.wait(0.3)
            except subprocess.TimeoutExpired:
                continue
        output, _ = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert "for the third time" in output


@pytest.mark.parametrize("batch", [None, 2])
def test_close_inside_a_handler_says_that_it_would_wait_for_itself(batch: int | None, run: Any) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    refused: list[str] = []
    closing: list[asyncio.Task[None]] = []
    handled = asyncio.Event()

    async def close() -> None:
        try:
            await bus.close()
        except StateError as exc:
            refused.append(str(exc))
        closing.append(asyncio.create_task(bus.close()))
        handled.set()

    if batch is None:

        @bus.subscribe("orders", group="g")
        async def handle(number: int) -> None:
            await close()
    else:

        @bus.subscribe("orders", group="g", batch=batch)
        async def handle_batch(numbers: list[int]) -> None:
            await close()

    async def main() -> None:
        await bus.start()
        await bus.publish("orders", 1, type="t")
        async with asyncio.timeout(5):
            await handled.wait()
            await asyncio.gather(*closing)

    run(main())
    assert len(refused) == 1
    assert "inside a handler" in refused[0]


def test_the_process_is_the_one_of_the_start(run: Any) -> None:
    bus = Bus(MemoryBroker(), source="shop")

    async def main() -> None:
        async with bus:
            assert bus._core.pid == os.getpid()

    run(main())

"""The session in ``docs/dead-letters.md``: ``python -m tests.docs.dead_letters`` writes it anew.

A service dead-letters 500 events for three reasons, on the embedded broker. Each command of the page is run as it is
written there. Ids are numbers, and times are replaced: what changes with each run would hide what has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anybroker import Bus, Reject
from anybroker.cli import main as anybroker
from anybroker.middleware import retry
from anybroker.testing import settled

PAGE = Path(__file__).parents[2] / "docs" / "dead-letters.md"
BEGIN, END = "<!-- session:begin -->\n", "<!-- session:end -->\n"
STEPS = (
    ("What died, and of what?", "anybroker dlq stats orders billing"),
    (
        "The bank was down, and is up again. Would the right ones go back?",
        "anybroker dlq replay orders billing --reason 'the bank does not answer' --key c-1 --dry-run",
    ),
    (
        "They would. All of that reason go back, not too fast for the bank.",
        "anybroker dlq replay orders billing --reason 'the bank does not answer' --rate 500 --as anna",
    ),
    ("One has wrong data.", "anybroker dlq list orders billing --where 'data.cents<0'"),
    ("It is corrected, and replayed.", "anybroker dlq edit orders billing o-499 --set data.cents=250 --as anna"),
    (
        "The declined cards are kept for the shop, and dropped here.",
        "anybroker dlq export orders billing declined.jsonl",
    ),
    ("", "anybroker dlq discard orders billing --reason declined --as anna"),
    ("Nothing is left.", "anybroker dlq stats orders billing"),
    ("Who did what?", "cat audit.jsonl"),
)


def service(fixed: bool) -> Bus:
    """It refuses declined cards and negative amounts; until it is fixed, the bank is down."""
    bus = Bus(source="shop")

    @bus.subscribe("orders", group="billing", name="charge", max_in_flight=1)
    @retry(attempts=1)
    async def charge(order: dict[str, Any]) -> None:
        number = order["number"]
        if order["cents"] < 0:
            raise ValueError(f"cannot charge {order['cents']} cents")
        if fixed:
            return
        if number % 5 == 0:
            raise Reject(f"card of c-{number} declined")
        raise ConnectionError(f"the bank does not answer, request {number:08x}")

    return bus


async def die() -> None:
    """500 events are dead-lettered."""
    async with service(fixed=False) as bus:
        for number in range(500):
            order = {"number": number, "cents": -250 if number == 499 else 100}
            await bus.publish("orders", order, type="order.placed.v1", id=f"o-{number}", key=f"c-{number % 100}")
        await settled(bus)


async def work() -> int:
    """What came back is handled."""
    async with service(fixed=True) as bus:
        await settled(bus)
        return bus.subscriptions[0].stats.acked


def run(command: str) -> str:
    """What a command writes."""
    if command.startswith("cat "):
        return Path(command[4:]).read_text()
    out = io.StringIO()
    handlers = logging.getLogger().handlers[:]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = anybroker(shlex.split(command)[1:])
    finally:
        logging.getLogger().handlers[:] = handlers
    assert code == 0, out.getvalue()
    return out.getvalue()


def stable(text: str) -> str:
    """Without what differs between two runs."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "2026-11-30T09:30:00.000Z", text)
    text = re.sub('"[0-9a-f]{16}"', '"0123456789abcdef"', text)
    lines = [line for line in text.splitlines() if not re.search(r" in \d+ s", line)]  # progress, on a slow machine
    shown = [line if len(line) <= 230 else f"{line[:229]}…" for line in lines]
    return "\n".join(shown if len(shown) <= 8 else [*shown[:3], "…", *shown[-2:]])


def session() -> Iterator[str]:
    """The commands and what they write."""
    for said, command in STEPS:
        if said:
            yield f"{said}\n\n"
        yield f"```console\n$ {command}\n{stable(run(command))}\n```\n\n"


def written() -> str:
    """The session, in a folder of its own."""
    before = Path.cwd()
    logging.getLogger("anybroker").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        settings = {"ANYBROKER_URL": "sqlite:///shop.db", "ANYBROKER_AUDIT": "audit.jsonl"}
        try:
            os.environ.update(settings)
            asyncio.run(die())
            text = "".join(session())
            assert asyncio.run(work()) == 400
        finally:
            for name in settings:
                del os.environ[name]
            os.chdir(before)
            logging.getLogger("anybroker").setLevel(logging.NOTSET)
    return text


def replaced(page: str, text: str) -> str:
    """The page with this session."""
    head, rest = page.split(BEGIN)
    return head + BEGIN + "\n" + text + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text(), written()))
    sys.exit()

"""printable: what others write, into events and into errors, steers no terminal and passes for no line of a log."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from anybroker import Bus
from anybroker.idempotency import MemoryStore
from anybroker.middleware import idempotent, retry

from ._kit import Kit, counted
from .test_dead_letter import letters

EVIL = "\x1b[2J\x9b31m\u202e\x00\r\nERROR forged"
SHOWN = r"\x1b[2J\x9b31m\u202e\x00  ERROR forged"


class _DownAtFirst(MemoryStore):
    """Says something evil once, and then what the Bus says of that."""

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self._bus = bus
        self.problems: list[str] | None = None

    async def claim(self, *args: Any) -> Any:
        if self.problems is None:
            self.problems = []
            raise OSError(EVIL)
        self.problems += self._bus.problems.values()
        return await super().claim(*args)


async def test_what_others_write_is_shown_and_not_obeyed(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    """Control characters, bidirectional overrides and line breaks in an event and in an error: a dead letter's reason
    has all of them escaped, and so has a problem of the Bus; each log record is one line."""
    caplog.set_level(logging.DEBUG, "anybroker")

    async def fail(delivery: Any) -> None:
        raise ValueError(EVIL)

    topic = kit.topic()
    bus = kit.bus()
    store = _DownAtFirst(bus)
    kit.subscribe(bus, topic, behave=fail, middleware=[retry(attempts=1), idempotent(store)])
    event = counted(1).replace(subject="\u202esubject")
    async with bus:
        await bus.publish(topic, event)
        (letter,) = await letters(kit, bus, topic, 1)
    assert letter.event == event
    assert letter.reason == f"ValueError: {SHOWN}"
    assert letter.error.isprintable()
    assert SHOWN in letter.error
    assert store.problems
    assert all(SHOWN in text and text.isprintable() for text in store.problems)
    said = [logging.Formatter().format(record) for record in caplog.records if record.name.startswith("anybroker")]
    assert any(SHOWN in text for text in said)
    for text in said:
        first, *others = text.split("\n")  # the lines of a traceback
        assert first.isprintable()
        assert all(line.isprintable() for line in others)
        assert "ERROR forged" not in others

"""Commands whose answers are waited for: each call gets its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from anybroker_nats.answers import Answers

Run = Callable[[Any], Any]


def test_calls_at_the_same_time_end_with_their_own_answers(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        client = kit.FakeLink().current
        answers = Answers(client, "_INBOX.me", 5.0)
        await answers.listen()
        answer = client.listeners["_INBOX.me.a.*"]
        calls = [asyncio.create_task(answers.ask([(b"PUB a", b" 0\r\n\r\n")] * count)) for count in (2, 1)]
        await asyncio.sleep(0)
        first, second, third = (each.reply.encode() for each in client.written())
        answer(third, b"", b"", None)
        assert await asyncio.wait_for(calls[1], 1) == []
        answer(first, b"", b"", None)
        answer(first, b"", b"", None)
        await asyncio.sleep(0)
        assert not calls[0].done()
        answer(second, b"", b"", None)
        assert await asyncio.wait_for(calls[0], 1) == []

    run(check())


def test_what_is_not_answered_is_reported(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        client = kit.FakeLink().current
        answers = Answers(client, "_INBOX.me", 0.05)
        await answers.listen()
        assert await answers.ask([(b"PUB a", b" 0\r\n\r\n")] * 3) == [0, 1, 2]
        patient = Answers(client, "_INBOX.you", 60.0)
        await patient.listen()
        asking = asyncio.create_task(patient.ask([(b"PUB a", b" 0\r\n\r\n")]))
        await asyncio.sleep(0)
        patient.give_up()
        assert await asyncio.wait_for(asking, 1) == [0]
        client.is_connected = False
        assert await patient.ask([(b"PUB a", b" 0\r\n\r\n")]) == [0]
        assert await patient.ask([]) == []

    run(check())

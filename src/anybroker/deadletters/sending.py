"""Sending dead letters to their topic, and back to the group that failed."""

from __future__ import annotations

from typing import Any

from ..adapter import Foreign, Inbound
from ..cloudevents.event import Event
from ..delivery import Delivery
from ..engine.copies import Copies
from ..engine.topics import Topics
from ..errors import EventTooLarge, Rejected
from .archive import Archived
from .letter import dead_letter_headers, left_behind, send_fitting

__all__ = ["replay", "restore", "send_dead_letter"]


async def send_dead_letter(
    copies: Copies, topics: Topics, dead_letters: str, delivery: Delivery, error: Exception
) -> list[str]:
    """Publish the dead letter, confirmed; returns the names of what did not fit. That may include the body if the topic
    keeps it: a group must not wait forever for what can never be sent.

    If the dead-letter topic refuses it, and this Bus creates topics, the topic is declared again first: it may have
    been deleted. Raises BrokerError.
    """
    headers, stack = dead_letter_headers(delivery, error)
    copies.go_on(delivery, headers)
    hop = f"dead|{delivery.group}|{headers['anybroker-dead-replays']}|{delivery.attempt}"

    async def send(event: Event[Any] | Foreign, extra: dict[str, str]) -> None:
        await copies.send(event, dead_letters, None, extra, None, hop, delivery.inbound, delivery)

    async def send_something() -> list[str]:
        try:
            return await send_fitting(send, delivery.event, headers, stack)
        except EventTooLarge:
            if not topics.adapter.capabilities.seek:
                raise
            kept, extra = left_behind(delivery, headers)
            return ["the body", *await send_fitting(send, kept, extra, stack)]

    before = topics.declared_again(dead_letters)
    try:
        return await send_something()
    except EventTooLarge:
        raise
    except Rejected as exc:
        await topics.declare_again(delivery.topic, dead_letters, exc, before)
    return await send_something()


async def replay(
    copies: Copies,
    event: Event[Any] | Foreign,
    topic: str,
    group: str,
    headers: dict[str, str],
    letter: Inbound | None = None,
    edit: str = "",
    name: str = "",
) -> list[str]:
    """Send an event to one group only; returns the names of the headers that did not fit. ``letter``: its dead letter;
    without one, each call sends a separate copy. ``edit``: the digest of an event that differs from the one that
    failed, so that it does not count as a copy of that. ``name``: of this letter alone; a replay that another process
    has sent under it is the same one. Raises BrokerError."""
    hop = f"replay|{group}|{headers['anybroker-replays']}" + (f"|{edit}" if edit else "")

    async def send(event: Event[Any] | Foreign, extra: dict[str, str]) -> None:
        await copies.send(event, topic, group, extra, None, hop, letter, None, name)

    return await send_fitting(send, event, headers)


async def restore(copies: Copies, dead_letters: str, topic: str, group: str, letter: Archived) -> list[str]:
    """Put an exported dead letter into this group's topic; returns the names of the headers that did not fit. Each call
    sends a separate copy. Raises BrokerError."""
    headers = {**letter.headers, "anybroker-dead-topic": topic, "anybroker-dead-group": group}

    async def send(event: Event[Any] | Foreign, extra: dict[str, str]) -> None:
        await copies.send(event, dead_letters, None, extra, None, f"dead|{group}|import", None)

    return await send_fitting(send, letter.event, headers)

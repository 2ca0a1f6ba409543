"""missing groups: a mistyped name is an error, and never reads as "nothing waits" or "no dead letters"."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from anybroker import Bus, Reject
from anybroker.adapter import ListsGroups
from anybroker.cli import main
from anybroker.errors import MissingGroup

from ._kit import Kit, counted
from .marks import requires
from .test_dead_letter import letters

LOOKS: dict[str, Callable[[Bus, str, str], Awaitable[Any]]] = {
    "backlog": lambda bus, topic, group: bus.backlog(topic, group),
    "list": lambda bus, topic, group: bus.dead_letters(topic, group).list(),
    "replay": lambda bus, topic, group: bus.dead_letters(topic, group).replay(),
    "discard": lambda bus, topic, group: bus.dead_letters(topic, group).discard("w-1"),
}


def expected(bus: Bus, topic: str, group: str, near: str) -> str:
    """What is said, the same on every broker but for the names where it cannot list any."""
    meant = f"; near names: {near}" if isinstance(bus.adapter, ListsGroups) else ""
    return (
        f"{topic}/{group}: no group {group!r} on topic {topic!r}{meant}. Check both names, or declare the group first "
        '(provision="create").'
    )


@requires("backlog")
@pytest.mark.parametrize("look", LOOKS)
async def test_looking_at_what_is_not_there_is_one_error(kit: Kit, look: str) -> None:
    """The backlog and the dead letters of a topic or group that does not exist: MissingGroup with both names and, if
    the broker can list them, similar names; nothing is created."""
    topic = kit.topic("orders")
    await kit.declared(topic, "billing", "stock")
    mistyped = topic.replace("orders", "ordres")
    async with kit.bus(consume=False) as bus:
        for _ in range(2):
            with pytest.raises(MissingGroup) as wrong_topic:
                await LOOKS[look](bus, mistyped, "billing")
            assert f"{topic}/billing" in str(wrong_topic.value) or not isinstance(bus.adapter, ListsGroups)
            assert str(wrong_topic.value).startswith(f"{mistyped}/billing: no group 'billing' on topic '{mistyped}'")
            with pytest.raises(MissingGroup) as wrong_group:
                await LOOKS[look](bus, topic, "biling")
            assert str(wrong_group.value) == expected(bus, topic, "biling", f"{topic}/billing, {topic}/stock")
        assert (await bus.backlog(topic, "billing")).lag == 0


@requires("backlog")
async def test_a_dead_letter_topic_of_several_groups_hides_no_missing_one(kit: Kit) -> None:
    """If a configured topic has the dead letters of all groups, those of a missing group are an error, and those of an
    existing group are found."""
    topic, dead = kit.topic(), kit.topic("dead")
    bus = kit.bus(topics={topic: {"dead_letter": dead}})

    async def refuse(_: Any) -> None:
        raise Reject("no")

    kit.subscribe(bus, topic, "billing", behave=refuse)
    async with bus:
        await bus.publish(topic, counted(0))
        await letters(kit, bus, topic, 1, "billing")
        for look in ("list", "replay", "discard"):
            with pytest.raises(MissingGroup, match="no group 'biling' on topic"):
                await LOOKS[look](bus, topic, "biling")


@requires("backlog", "processes")
async def test_commands_on_what_is_not_there_end_with_2(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    """``anybroker backlog`` and ``anybroker dlq`` with a mistyped topic or group: exit code 2 and one line, so that a
    monitoring check with a typing error does not pass; with ``--json`` too."""
    topic = kit.topic("orders")
    await kit.declared(topic, "billing")
    mistyped = topic.replace("orders", "ordres")
    commands = [
        ["backlog", mistyped, "billing"],
        ["backlog", topic, "biling", "--json"],
        ["dlq", "list", mistyped, "billing", "--json"],
        ["dlq", "show", mistyped, "billing"],
        ["dlq", "replay", topic, "biling", "--all"],
        ["dlq", "discard", topic, "biling", "w-1"],
    ]
    for command in commands:
        code = await asyncio.to_thread(main, [*command, "--url", kit.url])
        out, err = capsys.readouterr()
        assert (command, code, out) == (command, 2, "")
        *_, last = err.splitlines()
        topic_, group = (word for word in command if word in (topic, mistyped, "billing", "biling"))
        assert last.startswith(f"anybroker: {topic_}/{group}: no group {group!r} on topic {topic_!r}")
    assert await asyncio.to_thread(main, ["backlog", topic, "billing", "--json", "--url", kit.url]) == 0
    assert json.loads(capsys.readouterr().out)["waiting"] == 0

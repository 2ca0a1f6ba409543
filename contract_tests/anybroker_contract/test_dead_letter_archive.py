"""dead-letter export: the same letters can be made again, for the same group or another."""

from __future__ import annotations

import io

from anybroker import Delivery, Event, Reject
from anybroker.adapter import Foreign
from anybroker.deadletters import DeadLetterQueue, read_line

from ._kit import TYPE, Kit, counted
from ._waiting import eventually
from .test_dead_letter import letters


async def refuse(_: Delivery) -> None:
    """Never takes any."""
    raise Reject("never: ä")


async def has(queue: DeadLetterQueue, id_: str) -> bool:
    """Whether there is a letter of this id."""
    return id_ in {letter.id for letter in await queue.list()}


async def test_exported_letters_are_the_same_letters_again(kit: Kit) -> None:
    """Exported, discarded and imported, letters are those that were there: every attribute, header and byte, also of a
    message that is not a CloudEvent. Imported for another group, their replay reaches that group alone."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic, "g", behave=refuse)
    other = kit.subscribe(bus, topic, "other")
    event = Event.create(
        b"\xff\x00",
        source="/contract/%C3%A4",
        type=TYPE,
        id="binary",
        key="Kunde 7",
        datacontenttype="application/octet-stream",
        extensions={"number": 7, "blob": b"\x00"},
    )
    async with bus:
        await bus.publish(topic, event, headers={"x-origin": "contract"})
        await bus.publish(topic, counted(1, key="k"))
        await kit.send_foreign(topic, ["g"], Foreign(b"\x00\xff no event"))
        before = await letters(kit, bus, topic, 3)
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        file = io.StringIO()
        assert await queue.export(file) == 3
        archived = [read_line(line, 1) for line in file.getvalue().splitlines()]
        assert len(await queue.discard(before)) == 3
        assert await queue.restore(archived) == 3
        again = await letters(kit, bus, topic, 3)
        assert {letter.content for letter in again} == {letter.content for letter in before}
        facts = ("reason", "error", "attempts", "handler", "died", "traceback", "history", "id", "event")
        for letter in before:
            if isinstance(letter.event, Foreign):
                continue
            (same,) = (each for each in again if each.id == letter.id)
            assert [getattr(same, name) for name in facts] == [getattr(letter, name) for name in facts]
        await other.wait_done(["binary", "w-1"])
        others = bus.dead_letters(topic, "other")
        others.patience = kit.brief
        assert await others.restore([each for each in archived if each.id == "w-1"]) == 1
        await eventually(lambda: has(others, "w-1"), kit.patience, "the letter of the other group")
        (moved,) = (letter for letter in await others.list() if letter.id == "w-1")  # a broker may have the foreign one
        assert (moved.group, moved.reason) == ("other", "never: ä")
        assert len(await others.replay("w-1")) == 1
        await other.until(lambda: other.done.count("w-1") == 2, "the replay for the other group")
        assert log.started.count("w-1") == 1

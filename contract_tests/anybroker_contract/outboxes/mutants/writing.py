"""Flaws of writing: what of an event is in the row, and whose transaction it is in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from anybroker import Event, Receipt
from anybroker.adapter import Outbound

from ..harness import Outbox
from .breaking import Flaw


def changed(outbound: Outbound, **differences: Any) -> Outbound:
    """The same with differences."""
    facts = {name: getattr(outbound, name) for name in ("event", "topic", "group", "headers", "not_before")}
    return Outbound(**{**facts, **differences})


class DropsHeaders(Flaw):
    """The headers of an event are not written."""

    async def put(self, outbox: Outbox, outbound: Outbound, within: Any) -> Receipt:
        """Sink.put."""
        return await super().put(outbox, changed(outbound, headers=None), within)


class ForgetsTheDelay(Flaw):
    """An event with a delay is relayed at once."""

    async def put(self, outbox: Outbox, outbound: Outbound, within: Any) -> Receipt:
        """Sink.put."""
        return await super().put(outbox, changed(outbound, not_before=None), within)


class GivesANewId(Flaw):
    """The event in the row has another id than the one that was published."""

    async def put(self, outbox: Outbox, outbound: Outbound, within: Any) -> Receipt:
        """Sink.put."""
        attributes = {**outbound.event.attributes, "id": f"{outbound.event.id}-row"}  # type: ignore[union-attr]
        del attributes["specversion"]
        other = copied(outbound.event, attributes)
        return await super().put(outbox, changed(outbound, event=other), within)


class DropsAttributes(Flaw):
    """Of an event's extensions only text is written."""

    async def put(self, outbox: Outbox, outbound: Outbound, within: Any) -> Receipt:
        """Sink.put."""
        attributes = {
            name: value
            for name, value in outbound.event.attributes.items()  # type: ignore[union-attr]
            if name != "specversion" and not isinstance(value, bool | int)
        }
        return await super().put(outbox, changed(outbound, event=copied(outbound.event, attributes)), within)


def copied(event: Any, attributes: dict[str, Any]) -> Event[Any]:
    """An event with the same data and these attributes."""
    known = ("id", "source", "type", "subject", "time", "datacontenttype", "dataschema")
    own = {name: attributes[name] for name in known if name in attributes}
    key = attributes.get("partitionkey")
    extensions = {name: value for name, value in attributes.items() if name not in (*known, "partitionkey")}
    data = [] if event.data is None and "datacontenttype" not in attributes else [event.data]
    return Event.create(*data, key=key, extensions=extensions, **own)


class WritesOutsideOfTheTransaction(Flaw):
    """The row is committed at once, whatever becomes of the caller's transaction."""

    async def put(self, outbox: Outbox, outbound: Outbound, within: Any) -> Receipt:
        """Sink.put."""
        receipt = await super().put(outbox, outbound, within)
        done = within.commit()
        if hasattr(done, "__await__"):
            await done
        return receipt


class WritesLater(Flaw):
    """``publish`` returns before the row is written."""

    def __init__(self) -> None:
        self._writing: set[asyncio.Task[Receipt]] = set()

    def _ended(self, done: asyncio.Future[Receipt]) -> None:
        self._writing.discard(done)
        if not done.cancelled():
            done.exception()

    async def put(self, outbox: Outbox, outbound: Outbound, within: Any) -> Receipt:
        """Sink.put."""

        async def write() -> Receipt:
            await asyncio.sleep(0.3)
            return await outbox.put(outbound, within)

        task = asyncio.create_task(write())
        self._writing.add(task)
        task.add_done_callback(self._ended)
        return Receipt(outbound.topic, "0")


class TakesEverything(Flaw):
    """Every object is taken for a transaction."""

    def takes(self, outbox: Outbox, within: object) -> bool:
        """Sink.takes."""
        return True


class SwallowsErrors(Flaw):
    """A row that cannot be written is dropped without an error."""

    async def put(self, outbox: Outbox, outbound: Outbound, within: Any) -> Receipt:
        """Sink.put."""
        try:
            return await super().put(outbox, outbound, within)
        except Exception:  # noqa: BLE001 - the flaw
            return Receipt(outbound.topic, "0")


class WritesManyBackwards(Flaw):
    """A batch is written from its end, with each receipt beside its event."""

    async def put_many(self, outbox: Outbox, batch: Sequence[Outbound], within: Any) -> Sequence[Receipt]:
        """PutsMany.put_many."""
        return (await super().put_many(outbox, batch[::-1], within))[::-1]


class MixesReceiptsUp(Flaw):
    """The receipts of a batch are those of other events in it."""

    async def put_many(self, outbox: Outbox, batch: Sequence[Outbound], within: Any) -> Sequence[Receipt]:
        """PutsMany.put_many."""
        return (await super().put_many(outbox, batch, within))[::-1]


class WritesSomeOfMany(Flaw):
    """Of a batch at most 500 rows are written."""

    async def put_many(self, outbox: Outbox, batch: Sequence[Outbound], within: Any) -> Sequence[Receipt]:
        """PutsMany.put_many."""
        some = await super().put_many(outbox, batch[:500], within)
        return [*some, *(Receipt(each.topic, f"-{number}") for number, each in enumerate(batch[500:]))]


class CommitsMany(Flaw):
    """A batch is committed at once, whatever becomes of the caller's transaction."""

    async def put_many(self, outbox: Outbox, batch: Sequence[Outbound], within: Any) -> Sequence[Receipt]:
        """PutsMany.put_many."""
        receipts = await super().put_many(outbox, batch, within)
        done = within.commit()
        if hasattr(done, "__await__"):
            await done
        return receipts

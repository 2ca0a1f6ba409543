"""Flaws of the core itself, put in its place while the broken adapter is in use."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, ClassVar, Literal

from anybroker import Delivery, Event, _outgoing
from anybroker.adapter import Adapter, Topology

from .breaking import Flaw


class CoreFlaw(Flaw):
    """Replaces functions of a module of the core from the first declare until its last adapter is closed."""

    module: ClassVar[Any]
    replaced: ClassVar[Mapping[str, str]]
    """By the name in the module: the name of the method here that takes its place."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._right: dict[str, Any] = {}

    async def declare(self, adapter: Adapter, topology: Topology, mode: Literal["create", "verify"]) -> None:
        """Adapter.declare."""
        if not self._open:
            for name, mine in self.replaced.items():
                self._right[name] = getattr(self.module, name)
                setattr(self.module, name, getattr(self, mine))
        self._open.add(id(adapter))
        await adapter.declare(topology, mode)

    async def close_adapter(self, adapter: Adapter) -> None:
        """Adapter.close."""
        self._open.discard(id(adapter))
        if not self._open:
            while self._right:
                name, right = self._right.popitem()
                setattr(self.module, name, right)
        await adapter.close()


class DerivesIdsFromThePosition(CoreFlaw):
    """What a handler publishes gets an id of its position alone."""

    module: ClassVar[Any] = _outgoing
    replaced: ClassVar[Mapping[str, str]] = {"_derived_id": "derive"}

    def derive(self, event: Event[Any], cause: Delivery, topic: str, *_: object) -> str:
        """As it was before the data took part."""
        cause.published = cause.published or {}
        position = cause.published[b""] = cause.published.get(b"", 0) + 1
        text = f"{cause.event.source}\0{cause.event.id}\0{cause.group}\0{topic}\0{event.type}\0{event.key}\0{position}"
        return blake2b(text.encode(), digest_size=16).hexdigest()

"""The adapter of a Bus that only writes into its outbox, and connects to no broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from ..adapter import (
    Adapter,
    AdapterContext,
    AdapterSettings,
    LaneListener,
    Outbound,
    Receiver,
    Report,
    Sender,
    SubscriptionSpec,
    Topology,
)
from ..capabilities import Acknowledgement, Capabilities, Support
from ..errors import CapabilityError, Rejected

__all__ = ["Offline"]

_REMEDY = "Give within=, or let the Bus connect: relay=True or consume=True."


class Offline:
    """Makes it; ``Bus(outbox=…, consume=False, relay=False)``."""

    def make_adapter(self, context: AdapterContext) -> Adapter:
        """What a Bus calls."""
        return _OfflineAdapter()


class _OfflineAdapter:
    capabilities = Capabilities(
        adapter="outbox",
        acknowledgement=Acknowledgement.PER_MESSAGE,
        durable=Support.NATIVE,
        processes=Support.NATIVE,
        delay=Support.EMULATED,
    )

    Settings: ClassVar[type[AdapterSettings]] = AdapterSettings

    @property
    def native(self) -> None:
        """There is none."""

    async def connect(self) -> None:
        """There is nothing to connect to."""

    async def declare(self, topology: Topology, mode: Literal["create", "verify"], /) -> None:
        """The relay's Bus does that."""

    async def open_sender(self) -> Sender:
        """One that refuses."""
        return _Refusing()

    async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> Receiver:
        """CapabilityError: nothing is consumed here."""
        raise CapabilityError("outbox", "processes", f"subscription {subscription.topic}/{subscription.group}", _REMEDY)

    async def close(self) -> None:
        """There is nothing to close."""


class _Refusing:
    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """Refuse."""
        for outbound in batch:
            why = "this Bus has no connection to a broker (consume=False, relay=False)"
            report(outbound, Rejected(f"publish to {outbound.topic!r}: {why}. {_REMEDY}"))

    async def close(self) -> None:
        """Nothing is left."""

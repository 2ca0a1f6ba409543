"""An adapter around a real one that a :class:`Flaw` breaks. All mutants go through it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

from anybroker.adapter import (
    Adapter,
    AdapterContext,
    Inbound,
    Lane,
    LaneListener,
    Outbound,
    Receiver,
    Report,
    Sender,
    Settlement,
    SubscriptionSpec,
    Topology,
)
from anybroker.bus import AdapterFactory
from anybroker.errors import BrokerError
from anybroker.testing import AdapterWrapper, ReceiverWrapper, SenderWrapper, adapter_of

__all__ = ["BrokenBroker", "Flaw", "changed_inbound", "changed_outbound"]


class Flaw:
    """What is wrong with a broken adapter. Every method is correct here; a subclass breaks one or two.

    There is one object for each broker of a test, so that it can count.
    """

    def of_adapter(self, adapter: Adapter) -> Adapter:
        """The adapter itself, before everything else is broken."""
        return adapter

    async def declare(self, adapter: Adapter, topology: Topology, mode: Literal["create", "verify"]) -> None:
        """Adapter.declare."""
        await adapter.declare(topology, mode)

    async def open_receiver(self, adapter: Adapter, subscription: SubscriptionSpec, listener: LaneListener) -> Receiver:
        """Adapter.open_receiver."""
        return await adapter.open_receiver(subscription, listener)

    async def close_adapter(self, adapter: Adapter) -> None:
        """Adapter.close."""
        await adapter.close()

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        await sender.submit(batch, report)

    async def close_sender(self, sender: Sender) -> None:
        """Sender.close."""
        await sender.close()

    async def received(self, receiver: BrokenReceiver, batch: Sequence[Inbound]) -> Sequence[Inbound]:
        """What Receiver.receive hands over of what was received."""
        return batch

    async def settle(self, receiver: BrokenReceiver, batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
        """Receiver.settle."""
        return await receiver.inner.settle(batch)

    async def give_back(self, receiver: BrokenReceiver, lane: Lane) -> None:
        """Receiver.give_back."""
        await receiver.inner.give_back(lane)

    async def stop_receiver(self, receiver: BrokenReceiver) -> None:
        """Receiver.stop."""
        await receiver.inner.stop()

    async def close_receiver(self, receiver: BrokenReceiver) -> None:
        """Receiver.close."""
        await receiver.inner.close()


class BrokenReceiver(ReceiverWrapper):
    """Asks the flaw about everything."""

    def __init__(self, inner: Receiver, flaw: Flaw, adapter: Adapter, subscription: SubscriptionSpec) -> None:
        super().__init__(inner)
        self.flaw = flaw
        self.adapter = adapter
        self.subscription = subscription
        self.memory: dict[Any, Any] = {}
        """The flaw's own, for this receiver."""

    async def receive(self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float) -> Sequence[Inbound]:
        """Receiver.receive."""
        return await self.flaw.received(self, await self.inner.receive(limit, lanes=lanes, timeout=timeout))

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        """Receiver.settle."""
        return await self.flaw.settle(self, batch)

    async def give_back(self, lane: Lane, /) -> None:
        """Receiver.give_back."""
        await self.flaw.give_back(self, lane)

    async def stop(self) -> None:
        """Receiver.stop."""
        await self.flaw.stop_receiver(self)

    async def close(self) -> None:
        """Receiver.close."""
        await self.flaw.close_receiver(self)


class _BrokenSender(SenderWrapper):
    def __init__(self, inner: Sender, flaw: Flaw) -> None:
        super().__init__(inner)
        self._flaw = flaw

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """Sender.submit."""
        await self._flaw.submit(self.inner, batch, report)

    async def close(self) -> None:
        """Sender.close."""
        await self._flaw.close_sender(self.inner)


class _BrokenAdapter(AdapterWrapper):
    def __init__(self, inner: Adapter, flaw: Flaw) -> None:
        super().__init__(inner)
        self._flaw = flaw

    async def declare(self, topology: Topology, mode: Literal["create", "verify"], /) -> None:
        """Adapter.declare."""
        await self._flaw.declare(self.inner, topology, mode)

    def wrap_sender(self, sender: Sender) -> Sender:
        """A broken one."""
        return _BrokenSender(sender, self._flaw)

    async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> Receiver:
        """A broken one."""
        receiver = await self._flaw.open_receiver(self.inner, subscription, listener)
        return BrokenReceiver(receiver, self._flaw, self.inner, subscription)

    async def close(self) -> None:
        """Adapter.close."""
        await self._flaw.close_adapter(self.inner)


class BrokenBroker:
    """What a Bus is made with instead of the URL or the factory under test."""

    def __init__(self, broker: str | AdapterFactory, flaw: Flaw) -> None:
        self._broker = broker
        self._flaw = flaw

    def make_adapter(self, context: AdapterContext) -> Adapter:
        """A broken one."""
        return _BrokenAdapter(self._flaw.of_adapter(adapter_of(self._broker, context)), self._flaw)


def changed_outbound(outbound: Outbound, **changes: Any) -> Outbound:
    """A copy with some fields changed; its report goes to the original's name by :func:`reporting`."""
    names = ("event", "topic", "group", "headers", "not_before", "hop", "reserve")
    return Outbound(**{name: changes.get(name, getattr(outbound, name)) for name in names}, token=outbound)


def changed_inbound(inbound: Inbound, **changes: Any) -> Inbound:
    """The same delivery with some fields changed. In place: the adapter knows it by identity."""
    for name, value in changes.items():
        setattr(inbound, name, value)
    return inbound

"""Flaws in consuming, and in declaring."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, cast

from anybroker.adapter import (
    Ack,
    Adapter,
    Backlog,
    Commit,
    Foreign,
    GroupSpec,
    Inbound,
    Lane,
    LaneListener,
    Outbound,
    Receiver,
    Release,
    Report,
    Sender,
    Settlement,
    SubscriptionSpec,
    TopicSpec,
    Topology,
)
from anybroker.capabilities import Acknowledgement
from anybroker.errors import BrokerError, MissingGroup, Unavailable
from anybroker.event import Event

from .breaking import BrokenReceiver, Flaw, changed_inbound, changed_outbound


def settlements(adapter: Adapter, batch: Sequence[Inbound]) -> list[Settlement]:
    """What settles all of these."""
    if adapter.capabilities.acknowledgement is Acknowledgement.PER_MESSAGE:
        return [Ack(inbound) for inbound in batch]
    last = {inbound.lane: inbound.position for inbound in batch}
    return [Commit(lane, position + 1, "") for lane, position in last.items()]


class AcksBeforeTheHandler(Flaw):
    """Events are settled as they are received."""

    async def received(self, receiver: BrokenReceiver, batch: Sequence[Inbound]) -> Sequence[Inbound]:
        """Receiver.receive."""
        if batch:
            await receiver.inner.settle(settlements(receiver.adapter, batch))
        return batch

    async def settle(self, receiver: BrokenReceiver, batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
        """Receiver.settle."""
        return [None] * len(batch)


class ForgetsAcks(Flaw):
    """Settlements are confirmed but do not reach the broker."""

    async def settle(self, receiver: BrokenReceiver, batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
        """Receiver.settle."""
        return [None] * len(batch)


class TakesAReleaseForAnAck(Flaw):
    """What is given back is settled for good."""

    async def settle(self, receiver: BrokenReceiver, batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
        """Receiver.settle."""
        return await receiver.inner.settle([Ack(item.inbound) if isinstance(item, Release) else item for item in batch])


class TakesANameForATopic(Flaw):
    """What was committed in a lane counts as done in every later lane of that name, also of a topic made again."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}

    async def received(self, receiver: BrokenReceiver, batch: Sequence[Inbound]) -> Sequence[Inbound]:
        """Receiver.receive."""
        return [inbound for inbound in batch if inbound.position >= self.done.get(inbound.lane.name, 0)]

    async def settle(self, receiver: BrokenReceiver, batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
        """Receiver.settle."""
        for item in batch:
            if isinstance(item, Commit):
                self.done[item.lane.name] = max(item.position, self.done.get(item.lane.name, 0))
        return await receiver.inner.settle(batch)


class CommitsPastAnOpenEvent(Flaw):
    """The committed position is that of the last event received, even if earlier ones are open."""

    async def received(self, receiver: BrokenReceiver, batch: Sequence[Inbound]) -> Sequence[Inbound]:
        """Receiver.receive."""
        for inbound in batch:
            receiver.memory[inbound.lane] = inbound.position + 1
        return batch

    async def settle(self, receiver: BrokenReceiver, batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
        """Receiver.settle."""
        last = receiver.memory
        return await receiver.inner.settle(
            [
                Commit(item.lane, last.get(item.lane, item.position), "") if isinstance(item, Commit) else item
                for item in batch
            ]
        )


class ForgetsTheNote(Flaw):
    """The note of the committed position is not stored."""

    async def settle(self, receiver: BrokenReceiver, batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
        """Receiver.settle."""
        return await receiver.inner.settle(
            [Commit(item.lane, item.position, "") if isinstance(item, Commit) else item for item in batch]
        )


class ForgetsAttempts(Flaw):
    """The starts of what is given back are forgotten."""

    async def settle(self, receiver: BrokenReceiver, batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
        """Receiver.settle."""
        changed: list[Settlement] = []
        for item in batch:
            if isinstance(item, Release):
                changed.append(Release(item.inbound, 0, item.delay, item.failed))
            elif isinstance(item, Commit):
                changed.append(
                    Commit(item.lane, item.position, item.note.rpartition("|")[0] + "|" if item.note else "")
                )
            else:
                changed.append(item)
        return await receiver.inner.settle(changed)


class CountsWhatWasNotStarted(Flaw):
    """An event that was given back unstarted has one attempt less."""

    async def settle(self, receiver: BrokenReceiver, batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
        """Receiver.settle."""
        return await receiver.inner.settle(
            [
                Release(item.inbound, item.attempts + 1, item.delay, item.failed)
                if isinstance(item, Release) and not item.failed
                else item
                for item in batch
            ]
        )


class DeadLettersOnShutdown(Flaw):
    """What is given back at shutdown goes to the dead-letter topic."""

    async def settle(self, receiver: BrokenReceiver, batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
        """Receiver.settle."""
        back = [item.inbound for item in batch if isinstance(item, Release) and not item.failed]
        if back:
            name = f"{receiver.subscription.topic}.{receiver.subscription.group}.dlq"
            sender = await receiver.adapter.open_sender()
            await sender.submit(
                [Outbound(inbound.event, name, hop="shutdown") for inbound in back],
                lambda _item, _result: None,
            )
            await sender.close()
        return await receiver.inner.settle([Ack(item.inbound) if isinstance(item, Release) else item for item in batch])


class LeaksOnClose(Flaw):
    """A receiver that closes does not leave its group, and keeps what it holds."""

    async def settle(self, receiver: BrokenReceiver, batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
        """Receiver.settle."""
        kept = [item for item in batch if not isinstance(item, Release)]
        if kept:
            await receiver.inner.settle(kept)
        return [None] * len(batch)

    async def close_receiver(self, receiver: BrokenReceiver) -> None:
        """Receiver.close."""


class HangsOnClose(Flaw):
    """Closing a receiver takes half a minute."""

    async def close_receiver(self, receiver: BrokenReceiver) -> None:
        """Receiver.close."""
        await receiver.inner.close()
        await asyncio.sleep(30)


class LeavesATaskBehind(Flaw):
    """A task of the adapter keeps running after its close."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None

    async def close_adapter(self, adapter: Adapter) -> None:
        """Adapter.close."""
        await adapter.close()
        self.task = asyncio.create_task(asyncio.sleep(30), name="left behind")


class SharesGroups(Flaw):
    """All groups of a topic are one."""

    @staticmethod
    def _one(spec: TopicSpec) -> TopicSpec:
        groups = tuple(replace(group, name="all") for group in spec.groups[:1])
        return replace(spec, groups=groups)

    async def declare(self, adapter: Adapter, topology: Topology, mode: Literal["create", "verify"]) -> None:
        """Adapter.declare."""
        await adapter.declare(Topology(tuple(map(self._one, topology.topics))), mode)

    async def open_receiver(self, adapter: Adapter, subscription: SubscriptionSpec, listener: LaneListener) -> Receiver:
        """Adapter.open_receiver."""
        return await adapter.open_receiver(replace(subscription, group="all"), listener)

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        copies = [
            changed_outbound(outbound, group="all") if outbound.group is not None else changed_outbound(outbound)
            for outbound in batch
        ]
        await sender.submit(copies, lambda copy, result: report(copy.token, result))


class MixesTopics(Flaw):
    """An event of one topic reaches another topic as well."""

    def __init__(self) -> None:
        self.seen: dict[str, None] = {}

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        await sender.submit(batch, report)
        copies = []
        for outbound in batch:
            self.seen[outbound.topic] = None
            others = [topic for topic in self.seen if topic != outbound.topic and not topic.endswith(".dlq")]
            copies += [changed_outbound(outbound, topic=topic, hop="mixed") for topic in others[:1]]
        if copies:
            await sender.submit(copies, lambda _copy, _result: None)


class LosesTheKey(Flaw):
    """Deliveries come without their key, so that events of one key run side by side."""

    async def received(self, receiver: BrokenReceiver, batch: Sequence[Inbound]) -> Sequence[Inbound]:
        """Receiver.receive."""
        return [changed_inbound(inbound, key=None) for inbound in batch]


class OneKeyWithTwoMembers(Flaw):
    """Members of an ordered group take events as those of an unordered one do."""

    async def declare(self, adapter: Adapter, topology: Topology, mode: Literal["create", "verify"]) -> None:
        """Adapter.declare."""
        loose = tuple(
            replace(spec, groups=tuple(GroupSpec(group.name, False, group.start) for group in spec.groups))
            for spec in topology.topics
        )
        await adapter.declare(Topology(loose), mode)


class ForgetsDeclaredGroups(Flaw):
    """A group is made only when its first member comes."""

    def __init__(self) -> None:
        self.specs: dict[str, TopicSpec] = {}

    async def declare(self, adapter: Adapter, topology: Topology, mode: Literal["create", "verify"]) -> None:
        """Adapter.declare."""
        for spec in topology.topics:
            self.specs[spec.name] = spec
        await adapter.declare(Topology(tuple(replace(spec, groups=()) for spec in topology.topics)), mode)

    async def open_receiver(self, adapter: Adapter, subscription: SubscriptionSpec, listener: LaneListener) -> Receiver:
        """Adapter.open_receiver."""
        group = GroupSpec(subscription.group, subscription.ordered, subscription.start)
        await adapter.declare(Topology((replace(self.specs[subscription.topic], groups=(group,)),)), "create")
        return await adapter.open_receiver(subscription, listener)


class VerifyCreates(Flaw):
    """Verifying makes what is missing."""

    async def declare(self, adapter: Adapter, topology: Topology, mode: Literal["create", "verify"]) -> None:
        """Adapter.declare."""
        await adapter.declare(topology, "create")


class DropsForeignMessages(Flaw):
    """A message that is not a CloudEvent is settled and never handed over."""

    async def received(self, receiver: BrokenReceiver, batch: Sequence[Inbound]) -> Sequence[Inbound]:
        """Receiver.receive."""
        return [inbound for inbound in batch if not isinstance(inbound.event, Foreign)]


class DiesOfForeignMessages(Flaw):
    """A message that is not a CloudEvent ends the receiver that gets it."""

    async def received(self, receiver: BrokenReceiver, batch: Sequence[Inbound]) -> Sequence[Inbound]:
        """Receiver.receive."""
        if any(isinstance(inbound.event, Foreign) for inbound in batch):
            raise Unavailable("the client cannot read a message")
        return batch


class IgnoresTheStart(Flaw):
    """Every new group begins with what comes."""

    async def declare(self, adapter: Adapter, topology: Topology, mode: Literal["create", "verify"]) -> None:
        """Adapter.declare."""
        new = tuple(
            replace(spec, groups=tuple(replace(group, start="new") for group in spec.groups))
            for spec in topology.topics
        )
        await adapter.declare(Topology(new), mode)


class DeclaresATopicOnce(Flaw):
    """What was declared once is taken to be there."""

    def __init__(self) -> None:
        self.declared: set[str] = set()

    async def declare(self, adapter: Adapter, topology: Topology, mode: Literal["create", "verify"]) -> None:
        """Adapter.declare."""
        new = tuple(spec for spec in topology.topics if spec.name not in self.declared)
        self.declared |= {spec.name for spec in topology.topics}
        await adapter.declare(Topology(new), mode)


class TakesMoreThanAskedFor(Flaw):
    """A receive brings all that there is, whatever was asked for."""

    async def open_receiver(self, adapter: Adapter, subscription: SubscriptionSpec, listener: LaneListener) -> Receiver:
        """Adapter.open_receiver; a client that the broker pushes to buffers as much as it can."""
        return await adapter.open_receiver(replace(subscription, prefetch=1000), listener)

    async def received(self, receiver: BrokenReceiver, batch: Sequence[Inbound]) -> Sequence[Inbound]:
        """Receiver.receive."""
        more = list(batch)
        while more and (next_ := await receiver.inner.receive(1000, lanes=None, timeout=0.02)):
            more += next_
        return more


class StopsDelivering(Flaw):
    """After some fifty events a receiver brings nothing more."""

    async def received(self, receiver: BrokenReceiver, batch: Sequence[Inbound]) -> Sequence[Inbound]:
        """Receiver.receive."""
        count = receiver.memory.get("count", 0)
        receiver.memory["count"] = count + len(batch)
        return batch[: max(0, 50 - count)]


class InventsTheTime(Flaw):
    """An event without a time gets the moment of its receipt, as in the Python SDK."""

    async def received(self, receiver: BrokenReceiver, batch: Sequence[Inbound]) -> Sequence[Inbound]:
        """Receiver.receive."""
        for inbound in batch:
            event = inbound.event
            if isinstance(event, Event) and event.time_raw is None:
                changed_inbound(inbound, event=event.replace(time=datetime.now(UTC)))
        return batch


class ReadsBodiesAsText(Flaw):
    """Received bodies go through a UTF-8 string, with replacement characters for what is none."""

    async def received(self, receiver: BrokenReceiver, batch: Sequence[Inbound]) -> Sequence[Inbound]:
        """Receiver.receive."""
        for inbound in batch:
            event = inbound.event
            if isinstance(event, Event) and event.body is not None:
                text = event.body.decode("utf-8", "replace")
                changed_inbound(inbound, event=Event(dict(event.attributes), text.encode()))
        return batch


class DeafAfterAReconnect(Flaw):
    """A receiver that is opened again for the same group brings nothing."""

    def __init__(self) -> None:
        self.opened: set[tuple[Adapter, str, str]] = set()

    async def open_receiver(self, adapter: Adapter, subscription: SubscriptionSpec, listener: LaneListener) -> Receiver:
        """Adapter.open_receiver."""
        receiver = await super().open_receiver(adapter, subscription, listener)
        place = adapter, subscription.topic, subscription.group
        if place in self.opened:
            await receiver.stop()
        self.opened.add(place)
        return receiver


class LetsLeasesRunOut(Flaw):
    """Extending a lease succeeds and does nothing."""

    async def open_receiver(self, adapter: Adapter, subscription: SubscriptionSpec, listener: LaneListener) -> Receiver:
        """Adapter.open_receiver."""
        receiver: Any = await adapter.open_receiver(subscription, listener)

        async def extend(batch: Sequence[Inbound], /) -> Sequence[BrokerError | None]:
            return [None] * len(batch)

        receiver.extend = extend
        return cast("Receiver", receiver)


class CountsWhatPublishersWrite(Flaw):
    """A delivery count in a header counts as the broker's, no matter who wrote it."""

    async def received(self, receiver: BrokenReceiver, batch: Sequence[Inbound]) -> Sequence[Inbound]:
        """Receiver.receive."""
        for inbound in batch:
            counted = (inbound.raw.header.properties.headers or {}).get("x-acquired-count", 0)
            changed_inbound(inbound, deliveries=max(inbound.deliveries, counted))
        return batch


class BelievesEveryHeader(Flaw):
    """Whatever is received counts as sent by the library to this group."""

    async def received(self, receiver: BrokenReceiver, batch: Sequence[Inbound]) -> Sequence[Inbound]:
        """Receiver.receive."""
        return [changed_inbound(inbound, inlet=True) for inbound in batch]


class ForgetsTheInlet(Flaw):
    """What comes by the group's inlet counts as published by anybody."""

    async def received(self, receiver: BrokenReceiver, batch: Sequence[Inbound]) -> Sequence[Inbound]:
        """Receiver.receive."""
        return [changed_inbound(inbound, inlet=False) for inbound in batch]


class EmptiesNullHeaders(Flaw):
    """A header without a value comes as an empty one."""

    async def received(self, receiver: BrokenReceiver, batch: Sequence[Inbound]) -> Sequence[Inbound]:
        """Receiver.receive."""
        for inbound in batch:
            event = inbound.event
            if isinstance(event, Foreign):
                headers = [(name, b"" if value is None else value) for name, value in event.headers]
                changed_inbound(inbound, event=Foreign(event.body, headers, event.key, event.reason))
        return batch


class CountsNothingForNoGroup(Flaw):
    """The backlog of a group that is not there is 0."""

    async def declare(self, adapter: Any, topology: Topology, mode: Literal["create", "verify"]) -> None:
        """Adapter.declare."""
        if not hasattr(adapter, "right_backlog"):
            adapter.right_backlog = adapter.backlog

            async def backlog(topic: str, group: str, /) -> Backlog:
                try:
                    found: Backlog = await adapter.right_backlog(topic, group)
                except MissingGroup:
                    return Backlog(0, 0)
                return found

            adapter.backlog = backlog
        await adapter.declare(topology, mode)


class KeepsWhatItHasNoLaneFor(Flaw):
    """A lane that goes to another member takes nothing along: what is held of it is kept, and extended."""

    async def open_receiver(self, adapter: Adapter, subscription: SubscriptionSpec, listener: LaneListener) -> Receiver:
        """Adapter.open_receiver; the core is not told that a lane goes."""
        return await adapter.open_receiver(subscription, _DeafListener(listener))

    async def give_back(self, receiver: BrokenReceiver, lane: Lane) -> None:
        """Receiver.give_back."""


class _DeafListener:
    """Hears of lanes that come, and not of those that go."""

    def __init__(self, inner: LaneListener) -> None:
        self._inner = inner

    def assigned(self, lane: Lane, note: str = "") -> None:
        """LaneListener.assigned."""
        self._inner.assigned(lane, note)

    async def revoked(self, lanes: Collection[Lane], /) -> None:
        """LaneListener.revoked."""

    def lost(self, lanes: Collection[Lane], /) -> None:
        """LaneListener.lost."""

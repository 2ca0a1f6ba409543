"""The adapter: 270 lines between the log and anybroker."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

from anybroker.adapter import (
    AdapterContext,
    AdapterSettings,
    Commit,
    Foreign,
    Inbound,
    Lane,
    LaneListener,
    Outbound,
    Peek,
    Peeked,
    Receipt,
    Report,
    Settlement,
    SubscriptionSpec,
    Topology,
    check_size,
    slot_of,
)
from anybroker.capabilities import Acknowledgement, Capabilities, Support
from anybroker.cloudevents import Event, format_json, parse_json
from anybroker.errors import BrokerError, ConfigError, InvalidEvent, LeaseLost, MissingGroup, Rejected

from .log import AcmeServer, Group, Log, Member, Record, Topic

LIMIT = 256 * 1024


class AcmeAdapter:
    """Speaks to an :class:`AcmeServer` of this process."""

    capabilities = Capabilities(
        adapter="acme",
        acknowledgement=Acknowledgement.CUMULATIVE,
        durable=Support.ABSENT,
        processes=Support.ABSENT,
        retains=Support.NATIVE,
        inspect=Support.NATIVE,
        max_event_bytes=LIMIT,
    )
    Settings: ClassVar[type[AdapterSettings]] = AdapterSettings

    def __init__(self, server: AcmeServer) -> None:
        self.native = server

    async def connect(self) -> None:
        """Nothing to reach."""

    async def declare(self, topology: Topology, mode: Literal["create", "verify"], /) -> None:
        """Make or verify."""
        for spec in topology.topics:
            topic = self.native.topics.get(spec.name)
            if topic is None:
                if mode == "verify":
                    raise ConfigError(f"topic {spec.name!r}", "does not exist", "Start with provision='create'.")
                topic = self.native.topics[spec.name] = Topic(spec.name, spec.lanes)
            for group in spec.groups:
                if mode == "verify" and group.name not in topic.groups:
                    raise ConfigError(f"group {group.name!r}", "does not exist", "Start with provision='create'.")
                topic.add_group(group.name, group.start == "new")

    async def open_sender(self) -> AcmeSender:
        """A sender."""
        return AcmeSender(self.native)

    async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> AcmeReceiver:
        """A member of the group."""
        receiver = AcmeReceiver(self.native, self._group(subscription.topic, subscription.group), listener)
        await receiver.join()
        return receiver

    async def groups(self) -> Mapping[str, Collection[str]]:
        """ListsGroups.groups."""
        return {name: list(topic.groups) for name, topic in self.native.topics.items()}

    async def members(self, topic: str, group: str, /) -> int | None:
        """Inspects.members."""
        return len(self._group(topic, group).members)

    async def peek(
        self, topic: str, /, *, group: str | None, limit: int, newest: bool, beyond: Mapping[str, int]
    ) -> Peek:
        """Inspects.peek. The server does not say when it stored a record, so lanes come one after the other."""
        if group is None:
            logs, committed = self._topic(topic).logs, {}
        else:
            logs, committed = self._group(topic, group).logs, self._group(topic, group).committed
        events: list[Peeked] = []
        for name, log in logs.items():
            positions = range(committed.get(name, (0, ""))[0], len(log.records))
            if name in beyond and newest:
                positions = range(positions.start, beyond[name])
            elif name in beyond:
                positions = range(max(positions.start, beyond[name] + 1), positions.stop)
            for position in reversed(positions) if newest else positions:
                inbound = inbound_of(log.records[position], Lane(name, 0), position)
                events.append(Peeked(inbound.event, name, position, inbound.key, inbound.headers, None, inbound.raw))
        return Peek(events[:limit], notes={name: note for name, (_, note) in committed.items()})

    def _topic(self, name: str) -> Topic:
        topic = self.native.topics.get(name)
        if topic is None:
            raise MissingGroup(f"topic {name!r}", "does not exist")
        return topic

    def _group(self, topic: str, name: str) -> Group:
        group = self._topic(topic).groups.get(name)
        if group is None:
            raise MissingGroup(f"group {name!r} of topic {topic!r}", "does not exist")
        return group

    async def close(self) -> None:
        """Nothing to close."""


class AcmeFactory:
    """What the suite's Buses are given instead of a URL."""

    def __init__(self) -> None:
        self.server = AcmeServer()

    def make_adapter(self, context: AdapterContext) -> AcmeAdapter:
        """An adapter on the one server."""
        return AcmeAdapter(self.server)


def record_of(outbound: Outbound) -> Record:
    """An event as JSON; a foreign message as it is."""
    event, headers = outbound.event, dict(outbound.headers or {})
    if isinstance(event, Foreign):
        kept = {name: value.decode("latin-1") for name, value in event.headers}
        return Record(event.body or b"", {**headers, "acme-foreign": json.dumps(kept)}, event.key, False)
    return Record(format_json(event), headers, event.key, True)


def inbound_of(record: Record, lane: Lane, position: int) -> Inbound:
    """What was stored, as the core wants it."""
    headers = dict(record.headers)
    event: Event[Any] | Foreign
    if record.is_event:
        event = parse_json(record.body)
    else:
        kept = [(name, value.encode("latin-1")) for name, value in json.loads(headers.pop("acme-foreign")).items()]
        event = Foreign(record.body, kept, record.key, InvalidEvent("it was sent as no event"))
    return Inbound(event, lane, position, record.key, headers, record, inlet=lane.name.startswith("@"))


class AcmeSender:
    """Appends to logs."""

    def __init__(self, server: AcmeServer) -> None:
        self._server = server

    def _log_for(self, outbound: Outbound) -> Log | Rejected:
        topic = self._server.topics.get(outbound.topic)
        if topic is None:
            return Rejected(f"topic {outbound.topic!r} does not exist")
        if outbound.group is not None:
            group = topic.groups.get(outbound.group)
            return Rejected(f"no group {outbound.group!r}") if group is None else group.logs[f"@{outbound.group}"]
        logs = list(topic.logs.values())
        event = outbound.event
        text = outbound.key or (event.id if isinstance(event, Event) else "")
        return logs[slot_of(text) % len(logs)]

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """Sender.submit."""
        for outbound in batch:
            try:
                log, record = self._log_for(outbound), record_of(outbound)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it fails this event alone
                report(outbound, Rejected(f"the event cannot be written as a record: {exc!r}"))
                continue
            beside = sum(len(name) + len(value.encode()) for name, value in record.headers.items())
            too_large = check_size(outbound, len(record.body) + beside, LIMIT)
            if isinstance(log, Rejected) or too_large is not None:
                report(outbound, log if isinstance(log, Rejected) else too_large or Rejected("too large"))
            else:
                report(outbound, Receipt(outbound.topic, f"acme-{self._server.append(log, record)}"))

    async def close(self) -> None:
        """Nothing is buffered."""


class AcmeReceiver:
    """A member of a group."""

    def __init__(self, server: AcmeServer, group: Group, listener: LaneListener) -> None:
        self._server = server
        self._group = group
        self._listener = listener
        self._member = Member(self._taken, self._given_up)
        self._lanes: dict[str, Lane] = {}
        self._next: dict[str, int] = {}
        self._epoch = 0
        self._stopped = False

    async def join(self) -> None:
        """Take part in the group."""
        await self._group.join(self._member)

    def _taken(self, name: str, position: int, note: str) -> None:
        self._epoch += 1
        lane = self._lanes[name] = Lane(name, self._epoch)
        self._next[name] = position
        self._listener.assigned(lane, note)
        self._server.tell()

    async def _given_up(self, name: str) -> None:
        self._next.pop(name, None)
        await self._listener.revoked([self._lanes[name]])
        self._lanes.pop(name, None)

    async def receive(self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float) -> Sequence[Inbound]:
        """Receiver.receive."""
        if self._stopped:
            return ()
        batch = self._take(limit, lanes)
        if not batch:
            await self._server.news(timeout)
            batch = () if self._stopped else self._take(limit, lanes)
        return batch

    def _take(self, limit: int, lanes: Collection[Lane] | None) -> Sequence[Inbound]:
        batch: list[Inbound] = []
        for name, position in list(self._next.items()):
            lane = self._lanes[name]
            if lanes is not None and lane not in lanes:
                continue
            records = self._group.logs[name].records[position : position + limit - len(batch)]
            batch += [inbound_of(record, lane, position + at) for at, record in enumerate(records)]
            self._next[name] = position + len(records)
            if len(batch) == limit:
                break
        return batch

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        """Receiver.settle."""
        results: list[BrokerError | None] = []
        for commit in batch:
            assert isinstance(commit, Commit)
            if self._lanes.get(commit.lane.name) is commit.lane:
                self._group.committed[commit.lane.name] = (commit.position, commit.note)
                results.append(None)
            else:
                results.append(LeaseLost(f"{commit.lane.name} belongs to another member"))
        return results

    async def give_back(self, lane: Lane, /) -> None:
        """The server balances by itself."""

    async def stop(self) -> None:
        """Receiver.stop."""
        self._stopped = True
        self._server.tell()

    async def close(self) -> None:
        """Receiver.close."""
        await self.stop()
        self._lanes.clear()
        self._next.clear()
        await self._group.leave(self._member)

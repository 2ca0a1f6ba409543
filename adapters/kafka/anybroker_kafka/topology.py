"""Making topics, inlets and groups be there, moving groups, and counting what waits for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from aiokafka.errors import InvalidReplicationFactorError, KafkaError, TopicAlreadyExistsError, UnknownMemberIdError
from aiokafka.structs import TopicPartition

from anybroker.adapter import Backlog, Start, Topology
from anybroker.errors import ConfigError, MissingGroup
from anybroker.printable import logger

from .cluster import BEGINNING, END, Cluster
from .failures import failure
from .names import group_id, inlet, inlet_of

__all__ = ["backlog", "check_group", "declare", "groups", "seek"]

_log = logger("anybroker.kafka")


async def declare(
    cluster: Cluster, topology: Topology, mode: Literal["create", "verify"], replication_factor: int
) -> None:
    """See :meth:`anybroker.adapter.Adapter.declare`."""
    names = {
        topic.name: [topic.name, *(inlet(topic.name, group.name) for group in topic.groups)]
        for topic in topology.topics
    }
    there = await cluster.partitions([name for listed in names.values() for name in listed])
    wanted: dict[str, tuple[int, float | None]] = {}
    for topic in topology.topics:
        lanes = there.get(topic.name, topic.lanes) if topic.default_lanes else topic.lanes
        for name in names[topic.name]:
            wanted[name] = lanes, topic.retention
    missing = [name for name in wanted if name not in there]
    if missing and mode == "verify":
        raise ConfigError(
            "topics", f"Kafka has no topic {', '.join(map(repr, missing))}", 'Create them, or set provision="create".'
        )
    if missing:
        await _create(cluster, {name: wanted[name] for name in missing}, replication_factor)
        there |= await cluster.until_there(missing)
    for topic in topology.topics:
        lanes = wanted[topic.name][0]
        if there[topic.name] == lanes:
            for group in topic.groups:
                await _fit_inlet(cluster, topic.name, group.name, lanes, there, mode == "create")
    for name, (lanes, _) in wanted.items():
        if there[name] != lanes:
            raise ConfigError(
                f"topics.{name}.lanes",
                f"is {lanes}, and the Kafka topic {name!r} has {there[name]} partitions",
                f"Set lanes = {there[name]} in the configuration. Another number of partitions moves keys between them "
                "and loses their order: make a new topic, publish there, and let the groups finish the old one first.",
            )
    if sum(len(topic.groups) for topic in topology.topics) > 1:
        await cluster.learn(wanted)
    for topic in topology.topics:
        for group in topic.groups:
            tps = _partitions(topic.name, group.name, there[topic.name])
            if mode == "verify":
                await check_group(cluster, topic.name, group.name)
            else:
                await _make_group(cluster, group_id(topic.name, group.name), tps, group.start)


def _partitions(topic: str, group: str, lanes: int) -> list[TopicPartition]:
    return [TopicPartition(name, number) for name in (topic, inlet(topic, group)) for number in range(lanes)]


async def _fit_inlet(cluster: Cluster, topic: str, group: str, lanes: int, there: dict[str, int], create: bool) -> None:
    """Give the group's inlet as many partitions as its topic has: keys of both are to meet in one member."""
    name = inlet(topic, group)
    has = there[name]
    if has < lanes and create:
        _log.warning("the topic %r has %d partitions now: its inlet %r gets as many (%d)", topic, lanes, name, has)
        await cluster.grow(name, lanes)
        there[name] = lanes
    elif has < lanes:
        raise ConfigError(
            f"topics.{topic}.lanes",
            f"the topic {topic!r} has {lanes} partitions, and the inlet of {group!r} ({name!r}) has {has}",
            f'Set provision="create" for one start, or run: kafka-topics.sh --alter --topic {name} '
            f"--partitions {lanes}.",
        )
    elif has > lanes:
        raise ConfigError(
            f"topics.{topic}.lanes",
            f"the topic {topic!r} has {lanes} partitions, and the inlet of {group!r} ({name!r}) has {has}",
            f"Wait until nothing waits for the group, then run: kafka-topics.sh --delete --topic {name} "
            '(provision="create" makes it again).',
        )


async def _create(cluster: Cluster, topics: Mapping[str, tuple[int, float | None]], replication_factor: int) -> None:
    async def create(names: Iterable[str], replicas: int) -> dict[str, tuple[type[KafkaError], str]]:
        return await cluster.create((name, topics[name][0], replicas, _config(topics[name][1])) for name in names)

    problems = await create(topics, replication_factor)
    unsupported = [name for name, (error, _) in problems.items() if error is InvalidReplicationFactorError]
    if unsupported and replication_factor == -1:
        # Brokers before 2.4 have no default to ask for.
        problems |= dict.fromkeys(unsupported, (TopicAlreadyExistsError, ""))
        problems |= await create(unsupported, min(3, len(cluster.client.cluster.brokers())))
    for name, (error, text) in problems.items():
        if error is not TopicAlreadyExistsError:  # another process was faster
            exc = error(text or name)
            raise failure(exc, f"creating the topic {name!r}") from exc


def _config(retention: float | None) -> dict[str, str]:
    if retention is None:
        return {}
    return {"retention.ms": "-1" if math.isinf(retention) else str(int(retention * 1000))}


async def _make_group(cluster: Cluster, group: str, tps: list[TopicPartition], start: Start) -> None:
    """Commit the start of each partition that has no position yet: from then on the group exists.

    Safe against other processes that do the same. The start is looked up before the last look at the commits, so if
    another one's commit comes in between, it stands at or behind ours: an event may come twice, none is left out. And
    a group that has members takes no commit from outside; those partitions are the members' own.

    Partitions that a group lacks which is there already were added, or made again, while it was: all that is in them
    is the group's, whatever its start.
    """
    found = await cluster.positions(group, tps)
    missing = [tp for tp in tps if tp not in found.commits]
    if not missing:
        return
    if found.commits or found.stale:
        start = "earliest"
        _log.warning("the group %r has no position in %s: it goes on at the oldest event there", group, _named(missing))
    positions = await _positions(cluster, missing, start)
    committed = (await cluster.positions(group, missing)).commits
    positions = {tp: offset for tp, offset in positions.items() if tp not in committed}
    if positions:
        try:
            await cluster.commit(group, positions)
        except UnknownMemberIdError:
            pass  # it has members by now: see above


def _named(tps: Iterable[TopicPartition]) -> str:
    return ", ".join(f"{tp.topic}/{tp.partition}" for tp in tps)


async def _positions(cluster: Cluster, tps: Iterable[TopicPartition], to: Start) -> dict[TopicPartition, int]:
    tps = list(tps)
    if to == "earliest":
        return await cluster.offsets(dict.fromkeys(tps, BEGINNING))
    ends = await cluster.offsets(dict.fromkeys(tps, END))
    if isinstance(to, datetime):
        ends |= await cluster.offsets(dict.fromkeys(tps, int(to.timestamp() * 1000)))
    return ends


async def check_group(cluster: Cluster, topic: str, group: str, create: bool = False) -> None:
    """ConfigError if the topic, its inlet for the group, or the group itself is not there.

    Positions in one partition are enough: what was added or made again beside it is read from its beginning.
    ``create``: an inlet that has fewer partitions than the topic by now gets as many.
    """
    name = inlet(topic, group)
    there = await cluster.partitions((topic, name))
    missing = [each for each in (topic, name) if each not in there]
    if missing:
        raise MissingGroup(
            "topics", f"Kafka has no topic {', '.join(map(repr, missing))}", "Declare the topic and the group first."
        )
    if create and there[name] < there[topic]:
        await _fit_inlet(cluster, topic, group, there[topic], there, create)
    tps = [TopicPartition(each, number) for each, count in there.items() for number in range(count)]
    committed = await cluster.committed(group_id(topic, group), tps)
    if not committed and not await cluster.members(group_id(topic, group)):
        raise MissingGroup(
            f"topics.{topic}.groups",
            f"the consumer group {group_id(topic, group)!r} of {group!r} has no committed positions: it is not there",
            'Declare the group first (provision="create").',
        )


async def backlog(cluster: Cluster, topic: str, group: str) -> Backlog:
    """The events between the committed positions and the ends, the inlet included.

    Offsets are not events: a transaction ends with a marker that has one, and so has what was aborted. So the part
    next to the committed positions is looked at, as far as the first event. ConfigError for a missing group: a
    mistyped name must not read as "nothing waits".
    """
    await check_group(cluster, topic, group)
    there = await cluster.partitions((topic, inlet(topic, group)))
    tps = [TopicPartition(name, number) for name, count in there.items() for number in range(count)]
    committed = (await cluster.positions(group_id(topic, group), tps)).commits
    begins = await cluster.offsets(dict.fromkeys(tps, BEGINNING))
    ends = await cluster.offsets(dict.fromkeys(tps, END))
    at = {tp: max(begins[tp], committed[tp].offset) if tp in committed else begins[tp] for tp in tps}
    waiting = {tp: (at[tp], ends[tp]) for tp in tps if at[tp] < ends[tp]}
    return Backlog(waiting=await cluster.count(waiting) if waiting else 0, in_flight=0)


async def seek(cluster: Cluster, topic: str, group: str, to: Start) -> None:
    """See :meth:`anybroker.adapter.Replays.seek`. Going back leaves the inlet alone: it holds copies of the topic's."""
    await check_group(cluster, topic, group)
    name = group_id(topic, group)
    busy = ConfigError(
        "seek", f"the group {group!r} of {topic!r} has members now", "Stop its subscriptions first, in every process."
    )
    if await cluster.members(name):
        raise busy
    lanes = (await cluster.partitions([topic]))[topic]
    tps = [tp for tp in _partitions(topic, group, lanes) if tp.topic == topic or to == "new"]
    positions = await _positions(cluster, tps, to)
    if isinstance(to, datetime):
        begins = await cluster.offsets(dict.fromkeys(tps, BEGINNING))
        ends = await cluster.offsets(dict.fromkeys(tps, END))
        gone = [tp for tp in tps if 0 < begins[tp] == positions[tp] < ends[tp]]
        if gone:
            raise ConfigError(
                "seek",
                f"{topic!r} does not reach back to {to.isoformat()}: older events were deleted from partition "
                f"{', '.join(str(tp.partition) for tp in gone)}",
                'Choose a later moment, or "earliest" for all that is left.',
            )
    try:
        await cluster.commit(name, positions)
    except UnknownMemberIdError as exc:
        raise busy from exc


def groups(names: Iterable[str]) -> dict[str, list[str]]:
    """The topics among these names of Kafka's, each with its groups: a group is told by its inlet."""
    end = inlet_of("")
    inlets = {name.removesuffix(end) for name in names if name.endswith(end)}
    found: dict[str, list[str]] = {name: [] for name in names if not name.endswith(end)}
    for name in sorted(inlets):
        places = [at for at, letter in enumerate(name) if letter == "." and name[:at] in found]
        if places:  # where the names of two topics begin it, the longer one is the topic
            found[name[: places[-1]]].append(name[places[-1] + 1 :])
    return found

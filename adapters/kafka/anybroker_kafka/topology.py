"""Creating topics, inlets and groups, moving groups, and counting what waits for them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Literal

from aiokafka.errors import InvalidReplicationFactorError, KafkaError, TopicAlreadyExistsError, UnknownMemberIdError
from aiokafka.structs import TopicPartition

from anybroker.adapter import Backlog, Start, Topology, age_since
from anybroker.errors import ConfigError, MissingGroup
from anybroker.printable import logger

from .cluster import BEGINNING, END, Cluster
from .failures import failure
from .names import group_id, inlet, inlet_of, lane_name

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
    partitions = await cluster.partitions([name for listed in names.values() for name in listed])
    wanted: dict[str, tuple[int, float | None]] = {}
    for topic in topology.topics:
        lanes = partitions.get(topic.name, topic.lanes) if topic.default_lanes else topic.lanes
        for name in names[topic.name]:
            wanted[name] = lanes, topic.retention
    missing = [name for name in wanted if name not in partitions]
    if missing and mode == "verify":
        raise ConfigError(
            "topics", f"Kafka has no topic {', '.join(map(repr, missing))}", 'Create them, or set provision="create".'
        )
    if missing:
        await _create(cluster, {name: wanted[name] for name in missing}, replication_factor)
        partitions |= await cluster.until_there(missing)
    for topic in topology.topics:
        lanes = wanted[topic.name][0]
        if partitions[topic.name] == lanes:
            for group in topic.groups:
                await _fit_inlet(cluster, topic.name, group.name, partitions, mode == "create")
    for name, (lanes, _) in wanted.items():
        if partitions[name] != lanes:
            raise ConfigError(
                f"topics.{name}.lanes",
                f"is {lanes}, and the Kafka topic {name!r} has {partitions[name]} partitions",
                f"Set lanes = {partitions[name]} in the configuration. Another number of partitions moves keys between "
                "them and loses their order: create a new topic, publish there, and let the groups finish the old one "
                "first.",
            )
    if sum(len(topic.groups) for topic in topology.topics) > 1:
        await cluster.learn_leaders(wanted)
    for topic in topology.topics:
        for group in topic.groups:
            if mode == "verify":
                await check_group(cluster, topic.name, group.name)
            else:
                lanes = partitions[topic.name]
                tps = _partitions({topic.name: lanes, inlet(topic.name, group.name): lanes})
                await _create_group(cluster, group_id(topic.name, group.name), tps, group.start)


def _partitions(counts: Mapping[str, int]) -> list[TopicPartition]:
    return [TopicPartition(name, number) for name, count in counts.items() for number in range(count)]


async def _fit_inlet(cluster: Cluster, topic: str, group: str, partitions: dict[str, int], create: bool) -> None:
    """Give the group's inlet as many partitions as its topic has, so that one member has a key in both."""
    name = inlet(topic, group)
    lanes, has = partitions[topic], partitions[name]
    if has < lanes and create:
        _log.warning("the topic %r has %d partitions now: its inlet %r gets as many (%d)", topic, lanes, name, has)
        await cluster.grow(name, lanes)
        partitions[name] = lanes
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
            '(provision="create" creates it again).',
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


async def _create_group(cluster: Cluster, group: str, tps: list[TopicPartition], start: Start) -> None:
    """Commit the start of each partition that has no position yet: from then on the group exists.

    Safe against other processes that do the same. The start is looked up before the commits are read for the last
    time, so another process's commit in between is at or behind ours: an event may come twice, none is skipped. A
    group that has members takes no commit from outside; they commit in those partitions themselves.

    Where a group exists already and has no position in some partitions, these were added or made again since: all
    that is in them is for the group, whatever its start.
    """
    positions = await cluster.positions(group, tps)
    missing = [tp for tp in tps if tp not in positions.commits]
    if not missing:
        return
    if positions.commits or positions.stale:
        start = "earliest"
        lanes = ", ".join(map(lane_name, missing))
        _log.warning("the group %r has no position in %s: it goes on at the oldest event there", group, lanes)
    starts = await _offsets(cluster, missing, start)
    committed = (await cluster.positions(group, missing)).commits
    starts = {tp: offset for tp, offset in starts.items() if tp not in committed}
    if starts:
        try:
            await cluster.commit(group, starts)
        except UnknownMemberIdError:
            pass  # it has members by now: see above


async def _offsets(cluster: Cluster, tps: Collection[TopicPartition], to: Start) -> dict[TopicPartition, int]:
    if to == "earliest":
        return await cluster.offsets(dict.fromkeys(tps, BEGINNING))
    ends = await cluster.offsets(dict.fromkeys(tps, END))
    if isinstance(to, datetime):
        ends |= await cluster.offsets(dict.fromkeys(tps, int(to.timestamp() * 1000)))
    return ends


async def check_group(cluster: Cluster, topic: str, group: str, create: bool = False) -> None:
    """ConfigError if the topic, its inlet for the group, or the group itself does not exist.

    A position in one partition is enough: partitions that were added or made again since are read from their beginning.
    ``create``: an inlet that has fewer partitions than the topic by now gets as many.
    """
    name = inlet(topic, group)
    partitions = await cluster.partitions((topic, name))
    missing = [each for each in (topic, name) if each not in partitions]
    if missing:
        raise MissingGroup(
            "topics", f"Kafka has no topic {', '.join(map(repr, missing))}", "Declare the topic and the group first."
        )
    if create and partitions[name] < partitions[topic]:
        await _fit_inlet(cluster, topic, group, partitions, create)
    committed = await cluster.committed(group_id(topic, group), _partitions(partitions))
    if not committed and not await cluster.members(group_id(topic, group)):
        raise MissingGroup(
            f"topics.{topic}.groups",
            f"the consumer group {group_id(topic, group)!r} of {group!r} has no committed positions: it is not there",
            'Declare the group first (provision="create").',
        )


async def backlog(cluster: Cluster, topic: str, group: str) -> Backlog:
    """The events between the committed positions and the ends, the inlet included.

    Offsets are not events: the marker that ends a transaction has one, and so have aborted records. So what is stored
    is read from the committed positions on, as far as the first event, whose timestamp also tells the age: of the
    topic's partitions and of the inlet's, the oldest. ConfigError for a missing group: a mistyped name must not read as
    "nothing waits".
    """
    await check_group(cluster, topic, group)
    tps = _partitions(await cluster.partitions((topic, inlet(topic, group))))
    committed = (await cluster.positions(group_id(topic, group), tps)).commits
    begins = await cluster.offsets(dict.fromkeys(tps, BEGINNING))
    ends = await cluster.offsets(dict.fromkeys(tps, END))
    at = {tp: max(begins[tp], committed[tp].offset) if tp in committed else begins[tp] for tp in tps}
    waiting = {tp: (at[tp], ends[tp]) for tp in tps if at[tp] < ends[tp]}
    count, oldest = await cluster.count(waiting) if waiting else (0, None)
    return Backlog(count, 0, None if count and oldest is None else age_since(oldest))


async def seek(cluster: Cluster, topic: str, group: str, to: Start) -> None:
    """See :meth:`anybroker.adapter.Replays.seek`. Going back leaves the inlet alone: it has copies of the topic's
    events."""
    await check_group(cluster, topic, group)
    name = group_id(topic, group)
    busy = ConfigError(
        "seek", f"the group {group!r} of {topic!r} has members now", "Stop its subscriptions first, in every process."
    )
    if await cluster.members(name):
        raise busy
    lanes = (await cluster.partitions([topic]))[topic]
    tps = _partitions({topic: lanes, inlet(topic, group): lanes} if to == "new" else {topic: lanes})
    positions = await _offsets(cluster, tps, to)
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
    """The topics among these names of Kafka's, each with its groups: a group is recognized by its inlet."""
    suffix = inlet_of("")
    inlets = {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
    groups_of: dict[str, list[str]] = {name: [] for name in names if not name.endswith(suffix)}
    for name in sorted(inlets):
        dots = [at for at, letter in enumerate(name) if letter == "." and name[:at] in groups_of]
        if dots:  # where the names of two topics begin it, the longer one is the topic
            groups_of[name[: dots[-1]]].append(name[dots[-1] + 1 :])
    return groups_of

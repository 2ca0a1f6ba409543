"""Making streams and consumers be there, checking that they are, and counting what waits.

Nothing that exists is changed, but for the lease of a group, which is its members' own and is logged.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from anybroker.adapter import SLOTS, Backlog, GroupSpec, Start, TopicSpec
from anybroker.errors import ConfigError, MissingGroup
from anybroker.printable import logger

from .failures import ApiError, nats_errors
from .link import Link
from .names import PRIORITY_GROUP, consumer_name, inlet, stream_name, stream_subjects
from .settings import NatsSettings

__all__ = [
    "ack_wait",
    "backlog",
    "check_group",
    "declare_topic",
    "groups",
    "lease_of",
    "nanoseconds",
    "repair_group",
    "set_lease",
    "verify_topic",
]

_log = logger("anybroker.nats")

_NOT_FOUND: Final = 404
_OTHER_STREAM: Final = (10058, 10065)
"""The name, or a subject, belongs to another stream."""
_OTHER_CONSUMER: Final = (10148, 10013, 10105)
_BEING_MADE: Final = 10.0
"""Seconds for which another process may be on the way of making a group."""
_LANES: Final = "anybroker-lanes"
"""In a consumer's metadata: how many lanes its group has; 0 for an unordered group."""

_WHOLE: Final = 12.0
"""Seconds up to which the whole lease is what an unordered group's server waits: with a pull of two seconds, what a
dead path swallows is handled again within 15, also with the default lease."""
_NOTICED: Final = 8.0
"""Seconds in which a dead path is noticed, at the earliest: two pings."""


def nanoseconds(seconds: float) -> int:
    """Seconds as JetStream counts time."""
    return int(seconds * 1_000_000_000)


def ack_wait(lease: float, ordered: bool) -> float:
    """Seconds after which the server delivers again what is not acknowledged.

    A lane is its member's for the whole lease, by the pin, and comes again to that member only, which knows what it
    has. So there it may be shorter: what was sent to a lost connection, or by a server that was killed, comes soon. An
    unordered group has nothing but this: the whole of a short lease, and of a longer one all but the time in which a
    dead path is noticed, so that what went there waits no longer than the lease.
    """
    return lease / 3 if ordered else max(min(lease, _WHOLE), lease - _NOTICED)


def lease_of(info: dict[str, Any]) -> float:
    """The lease of a group, in seconds, from what the server says of one of its consumers."""
    config = info.get("config") or {}
    if timeout := config.get("priority_timeout"):
        return float(timeout) / 1e9
    wait = (config.get("ack_wait") or math.inf) / 1e9
    return wait if wait < _WHOLE else wait + _NOTICED


async def _find(link: Link, operation: str) -> dict[str, Any] | None:
    try:
        return await link.api(operation)
    except ApiError as exc:
        if exc.code == _NOT_FOUND:
            return None
        raise


# ------------------------------------------------------------------------------------------------------------ topics


async def declare_topic(link: Link, topic: TopicSpec, settings: NatsSettings, lease: float, schedules: bool) -> None:
    """Make the topic and its groups be there."""
    with nats_errors(f"declaring the topic {topic.name!r}"):
        found = await _find(link, f"STREAM.INFO.{stream_name(topic.name)}")
        if found is None:
            found = await _create_stream(link, topic, settings, schedules)
        _compare_stream(topic.name, found["config"])
        for group in topic.groups:
            lanes = await _lanes_of(link, topic.name, group.name)
            if lanes is None:
                lanes = topic.lanes if group.ordered else 0
            else:
                _compare(topic.name, group.name, group.ordered, None if topic.default_lanes else topic.lanes, lanes)
            try:
                await _create_group(link, topic.name, group, lanes, lease)
            except ApiError as exc:  # made side by side with another number: right, if we only had a default
                there = await _lanes_of(link, topic.name, group.name) if exc.number in _OTHER_CONSUMER else None
                if not topic.default_lanes or there is None:
                    raise
                _compare(topic.name, group.name, group.ordered, None, there)
                await _create_group(link, topic.name, group, there, lease)


async def verify_topic(link: Link, topic: TopicSpec) -> None:
    """ConfigError naming what of the topic is missing or different."""
    with nats_errors(f"looking for the topic {topic.name!r}"):
        found = await _find(link, f"STREAM.INFO.{stream_name(topic.name)}")
    if found is None:
        raise ConfigError(
            "topics", f"NATS has no stream {stream_name(topic.name)!r}", 'Declare the topic (provision="create").'
        )
    _compare_stream(topic.name, found["config"])
    for group in topic.groups:
        await check_group(link, topic.name, group.name, group.ordered, None if topic.default_lanes else topic.lanes)


async def _create_stream(link: Link, topic: TopicSpec, settings: NatsSettings, schedules: bool) -> dict[str, Any]:
    age = settings.max_age if topic.retention is None else topic.retention
    age = 0.0 if math.isinf(age) else age
    config: dict[str, Any] = {
        "name": stream_name(topic.name),
        "description": f"anybroker topic {topic.name}",
        "subjects": stream_subjects(topic.name),
        "retention": "limits",
        "discard": "old",
        "storage": settings.storage,
        "num_replicas": settings.replicas,
        "max_age": nanoseconds(age),
        "duplicate_window": nanoseconds(min(settings.duplicate_window, age or settings.duplicate_window)),
        "allow_direct": True,
        "allow_msg_ttl": True,
    }
    if schedules:
        config["allow_msg_schedules"] = True
    try:
        return await link.api(f"STREAM.CREATE.{config['name']}", config)
    except ApiError as exc:
        found = await _find(link, f"STREAM.INFO.{config['name']}") if exc.number in _OTHER_STREAM else None
        if found is not None:
            return found  # another process was faster; compared by the caller
        if exc.number in _OTHER_STREAM:
            raise ConfigError(
                f"topics.{topic.name}",
                f"another stream has one of the subjects {', '.join(stream_subjects(topic.name))}",
                "Name the topic otherwise, or take the subject from that stream.",
            ) from exc
        raise


def _compare_stream(topic: str, config: dict[str, Any]) -> None:
    subjects = set(config.get("subjects") or ())
    problem = ""
    if missing := set(stream_subjects(topic)) - subjects:
        problem = f"does not take {', '.join(sorted(missing))} (it takes {', '.join(sorted(subjects)) or 'nothing'})"
    elif config.get("retention") != "limits":
        problem = f"has the retention {config.get('retention')!r}, which lets groups take events from each other"
    elif config.get("sealed"):
        problem = "is sealed"
    if problem:
        raise ConfigError(
            f"topics.{topic}",
            f"the stream {stream_name(topic)!r} exists and {problem}",
            "Name the topic otherwise, or change that stream; anybroker changes no stream.",
        )


# ------------------------------------------------------------------------------------------------------------ groups


def _numbers(lanes: int) -> list[int | None]:
    """The lanes of a group with so many; 0: it is unordered."""
    return list(range(lanes)) or [None]


async def _create_group(link: Link, topic: str, group: GroupSpec, lanes: int, lease: float) -> None:
    """What is missing of it: the process that made it may have been stopped half-way, or a part of it was deleted.

    The first one alone: of two processes that want different numbers of lanes the second is refused right there. A part
    begins where the group began: it is owed everything since, and what it had acknowledged is not known any more.
    """
    numbers = _numbers(lanes)
    there = await asyncio.gather(*(_consumer(link, topic, group.name, lane) for lane in numbers))
    missing = [lane for lane, found in zip(numbers, there, strict=True) if found is None]
    if not missing:
        return
    start = _start(group.start)
    if group.start == "new" and (begun := _begun(there)) is not None:
        start = {"deliver_policy": "by_start_time", "opt_start_time": begun}
        if _seconds_since(begun) > _BEING_MADE:
            _log.warning(
                "%d of the %d lanes of the group %r of %r are gone, and are made again from its beginning (%s) on: "
                "what they had handled since then, and is still kept, comes again",
                len(missing),
                len(numbers),
                group.name,
                topic,
                begun,
            )
    made = [await _create(link, topic, group, missing[0], lanes, lease, start)]
    made += await asyncio.gather(*(_create(link, topic, group, lane, lanes, lease, start) for lane in missing[1:]))
    other = await _consumer(link, topic, group.name, None if lanes else 0)
    if other is not None:  # another process made it of the other kind, side by side; both would get every event
        for lane in itertools.compress(missing, made):
            await _find(link, f"CONSUMER.DELETE.{stream_name(topic)}.{consumer_name(group.name, lane)}")
        _compare(topic, group.name, group.ordered, None, _lanes(other))


def _begun(consumers: Iterable[dict[str, Any] | None]) -> str | None:
    """When the first of these was made, as the server writes it; None where there is none."""
    return min((found["created"] for found in consumers if found is not None), key=_moment, default=None)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _seconds_since(text: str) -> float:
    return (datetime.now(UTC) - _moment(text)).total_seconds()


async def _create(
    link: Link, topic: str, group: GroupSpec, lane: int | None, lanes: int, lease: float, start: dict[str, str]
) -> bool:
    """False: another process was faster, with another lease or start."""
    name = consumer_name(group.name, lane)
    config: dict[str, Any] = {
        "name": name,
        "durable_name": name,
        "description": f"anybroker group {group.name}",
        "filter_subjects": _filters(topic, group.name, lane, lanes),
        "ack_policy": "explicit",
        "ack_wait": nanoseconds(ack_wait(lease, lane is not None)),
        "max_deliver": -1,
        "max_ack_pending": -1,
        "metadata": {_LANES: str(lanes)},
        **start,
    }
    if lane is not None:
        config |= {
            "priority_groups": [PRIORITY_GROUP],
            "priority_policy": "pinned_client",
            "priority_timeout": nanoseconds(lease),
        }
    stream = stream_name(topic)
    request = {"stream_name": stream, "config": config, "action": "create"}
    try:
        await link.api(f"CONSUMER.CREATE.{stream}.{name}", request)
    except ApiError as exc:
        found = await _consumer(link, topic, group.name, lane) if exc.number in _OTHER_CONSUMER else None
        if found is None or _lanes(found) != lanes:
            raise
        return False
    return True


def _filters(topic: str, group: str, lane: int | None, lanes: int) -> list[str]:
    """An unordered group takes what stands under any token; a lane takes its slots."""
    tokens = ["*"] if lane is None else [str(slot) for slot in range(lane, SLOTS, lanes)]
    return [f"{prefix}.{token}" for prefix in (topic, inlet(topic, group)) for token in tokens]


def _start(start: Start) -> dict[str, str]:
    if isinstance(start, datetime):
        return {"deliver_policy": "by_start_time", "opt_start_time": start.astimezone(UTC).isoformat()}
    return {"deliver_policy": "new" if start == "new" else "all"}


async def _consumer(link: Link, topic: str, group: str, lane: int | None) -> dict[str, Any] | None:
    return await _find(link, f"CONSUMER.INFO.{stream_name(topic)}.{consumer_name(group, lane)}")


def _lanes(info: dict[str, Any]) -> int:
    """How many lanes the group of this consumer has; -1: it is not one of ours."""
    text = (info["config"].get("metadata") or {}).get(_LANES, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 3 else -1  # SLOTS at most


async def _lanes_of(link: Link, topic: str, group: str) -> int | None:
    """How many lanes a group has: 0 for an unordered one, None if it is not there. Any of its lanes tells."""
    for lane in (0, None):
        found = await _consumer(link, topic, group, lane)
        if found is not None:
            return _ours(topic, found)
    stream = await _find(link, f"STREAM.INFO.{stream_name(topic)}")
    if stream is None or not (stream.get("state") or {}).get("consumer_count"):
        return None
    others = await asyncio.gather(*(_consumer(link, topic, group, lane) for lane in range(1, SLOTS)))
    first = next((found for found in others if found is not None), None)
    return None if first is None else _ours(topic, first)


def _ours(topic: str, found: dict[str, Any]) -> int:
    if (lanes := _lanes(found)) >= 0:
        return lanes
    raise ConfigError(
        f"topics.{topic}.groups",
        f"the stream {stream_name(topic)!r} has a consumer {found['name']!r} that is not anybroker's",
        "Name the group otherwise, or delete that consumer.",
    )


def _compare(topic: str, group: str, ordered: bool, lanes: int | None, there: int) -> None:
    if ordered != (there > 0) or (ordered and lanes is not None and lanes != there):
        asked = "ordered=False" if not ordered else "ordered=True" if lanes is None else f"{lanes} lanes"
        raise ConfigError(
            f"topics.{topic}",
            f"the group {group!r} is asked for with {asked}, and is there with "
            f"{f'{there} lanes' if there else 'ordered=False'}",
            "Use the same everywhere. Another number of lanes moves keys between consumers and loses their order: make "
            "a new group, and let the old one finish.",
        )


async def repair_group(link: Link, topic: str, group: GroupSpec, lease: float) -> None:
    """Make again what was deleted of a group; nothing where all of it is missing."""
    with nats_errors(f"looking for the group {group.name!r} of {topic!r}"):
        lanes = await _lanes_of(link, topic, group.name)
        if lanes is not None and group.ordered == (lanes > 0):
            await _create_group(link, topic, group, lanes, lease)


async def check_group(link: Link, topic: str, group: str, ordered: bool, lanes: int | None) -> int:
    """How many lanes it has. ConfigError if the group is not there, is not whole, or is of another kind."""
    missing: list[int | None] = []
    with nats_errors(f"looking for the group {group!r} of {topic!r}"):
        there = await _lanes_of(link, topic, group)
        if there is not None:
            _compare(topic, group, ordered, lanes, there)
            numbers = _numbers(there)
            found = await asyncio.gather(*(_consumer(link, topic, group, lane) for lane in numbers))
            missing = [lane for lane, one in zip(numbers, found, strict=True) if one is None]
    if there is None or missing:
        where = ", ".join(f"lane {lane}" for lane in missing if lane is not None)
        kind = MissingGroup if there is None else ConfigError
        raise kind(
            f"topics.{topic}.groups",
            f"the group {group!r} is not there" + (f" as a whole: it lacks {where}" if where else ""),
            'Declare it (provision="create").',
        )
    return there


async def set_lease(link: Link, topic: str, group: str, lanes: int, lease: float) -> None:
    """Give the group's consumers this lease where they have another."""
    stream = stream_name(topic)
    with nats_errors(f"setting the lease of the group {group!r} of {topic!r}"):
        for lane in _numbers(lanes):
            found = await _consumer(link, topic, group, lane)
            if found is None:
                continue
            wanted = {"ack_wait": nanoseconds(ack_wait(lease, lane is not None))}
            if lane is not None:
                wanted["priority_timeout"] = nanoseconds(lease)
            if found["config"].items() >= wanted.items():
                continue
            if lane in (0, None):
                _log.info(
                    "the lease of the group %r of %r is %g s from now on, and was %g s",
                    group,
                    topic,
                    lease,
                    lease_of(found),
                )
            request = {"stream_name": stream, "config": found["config"] | wanted, "action": "update"}
            await link.api(f"CONSUMER.CREATE.{stream}.{found['name']}", request)


async def backlog(link: Link, topic: str, group: str) -> Backlog:
    """Messages that no member has, and those that one has and has not acknowledged."""
    with nats_errors(f"counting what waits for {group!r} of {topic!r}"):
        lanes = await _lanes_of(link, topic, group)
        if lanes is None:
            raise MissingGroup(f"topics.{topic}.groups", f"NATS has no group {group!r} of {topic!r}", "Declare it.")
        names = [consumer_name(group, lane) for lane in _numbers(lanes)]
        infos = await asyncio.gather(*(link.api(f"CONSUMER.INFO.{stream_name(topic)}.{name}") for name in names))
    return Backlog(sum(info["num_pending"] for info in infos), sum(info["num_ack_pending"] for info in infos))


async def groups(link: Link) -> dict[str, list[str]]:
    """The streams as topics, and their consumers as groups. No name of ours has an underscore, and where a dot was,
    theirs have one."""
    with nats_errors("listing streams"):
        streams = await _names(link, "STREAM.NAMES", "streams")
        found: dict[str, list[str]] = {}
        for stream in streams:
            consumers = await _names(link, f"CONSUMER.NAMES.{stream}", "consumers")
            found[stream.replace("_", ".")] = sorted({each.partition("@")[0].replace("_", ".") for each in consumers})
    return found


async def _names(link: Link, operation: str, what: str) -> list[str]:
    """All pages of a list."""
    names: list[str] = []
    while True:
        page = await link.api(operation, {"offset": len(names)})
        more = page.get(what) or []
        names += more
        if not more or len(names) >= page["total"]:
            return names

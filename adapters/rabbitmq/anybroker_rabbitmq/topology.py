"""Making topics and groups, checking that they exist, and counting what waits for them.

A topic is an exchange. A group is another exchange, with its queues bound to it; one binding, made after all of those,
connects the topic to it, so no event can reach only a part of a group. Its ``members`` queue is made last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

from aiormq.channel import Channel
from aiormq.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from anybroker.adapter import SLOTS, GroupSpec, TopicSpec
from anybroker.errors import ConfigError, MissingGroup
from anybroker.printable import logger

from .failures import is_missing
from .link import Link
from .names import group_exchange, lane_queue, marker_exchange, members_queue

__all__ = ["ExistingGroup", "backlog", "check_topic", "declare_topic", "find_group", "is_there"]

_log = logger("anybroker.rabbitmq")

_TRIES: Final = 3
"""How often to look up how many lanes a group has, while other processes make it at the same moment."""


class _Kind(NamedTuple):
    """The kind of a group, which the name of its marker exchange says."""

    ordered: bool
    lanes: int

    @property
    def text(self) -> str:
        """In the words of the settings."""
        return f"{self.lanes} lanes" if self.ordered else "ordered=False"


_KINDS: Final = tuple(
    dict.fromkeys((_Kind(False, 1), *(_Kind(True, lanes) for lanes in (4, 1, 8, 2, 16, 32, 64, *range(1, SLOTS + 1)))))
)
"""All possible kinds, the likely ones first."""


async def is_there(link: Link, kind: Literal["exchange", "queue"], name: str) -> bool:
    """Whether an exchange or a queue of that name exists."""
    async with link.scratch(f"looking for the {kind} {name!r}") as channel:
        try:
            if kind == "queue":
                await channel.queue_declare(name, passive=True)
            else:
                await channel.exchange_declare(name, passive=True)
        except ChannelNotFoundEntity as exc:
            if not is_missing(exc):
                raise
            return False
    return True


async def declare_topic(link: Link, topic: TopicSpec, limit: int | None) -> None:
    """Make the topic and its groups. ``limit``: x-delivery-limit of the queues; None: without that argument."""
    async with link.scratch(f"declaring the topic {topic.name!r}") as channel:
        try:
            await channel.exchange_declare(topic.name, exchange_type="topic", durable=True)
        except ChannelPreconditionFailed as exc:
            raise _unequal(topic, str(exc)) from exc
    for group in topic.groups:
        await _make_group(link, topic, group, limit)


async def _make_group(link: Link, topic: TopicSpec, group: GroupSpec, limit: int | None) -> None:
    """Make a group. If no number of lanes was asked for, the number that an existing group has is right."""
    default = group.ordered and topic.default_lanes
    lanes = topic.lanes if group.ordered else 1
    for last in range(_TRIES - 1, -1, -1):
        new = not await is_there(link, "exchange", group_exchange(topic.name, group.name))
        if not new:
            if default:
                kind = await _kind_of(link, topic.name, group.name, lanes)
                lanes = kind.lanes if kind is not None and kind.ordered else lanes
            _log_what_was_deleted(topic.name, group.name, await _missing(link, topic.name, group.name, lanes))
        try:
            async with link.scratch(f"declaring the group {group.name!r} of {topic.name!r}") as channel:
                try:
                    await _declare_group(channel, topic, group, lanes, limit, new)
                except ChannelPreconditionFailed as exc:
                    raise _unequal(topic, str(exc)) from exc
        except ConfigError as exc:
            # Another process, which asked for a number, may have made it meanwhile.
            if not (default and last and "alternate-exchange" in str(exc.__cause__)):
                raise
        else:
            return


def _log_what_was_deleted(topic: str, group: str, missing: Sequence[str]) -> None:
    if missing and members_queue(topic, group) not in missing:  # else it was never complete: others are making it
        _log.warning(
            "%s/%s: %s deleted, with the events that waited there, and made again. Events published meanwhile are in "
            "lane 0; later ones of the same keys may overtake them",
            topic,
            group,
            " and ".join(missing) + (" were" if len(missing) > 1 else " was"),
        )


async def _declare_group(
    channel: Channel, topic: TopicSpec, group: GroupSpec, lanes: int, limit: int | None, new: bool
) -> None:
    exchange = group_exchange(topic.name, group.name)
    marker = marker_exchange(topic.name, group.name, group.ordered, lanes)
    # RabbitMQ compares this argument, so a second process that wants another kind of group is refused here.
    alternate = {"alternate-exchange": marker}
    await channel.exchange_declare(exchange, exchange_type="topic", durable=True, arguments=alternate)
    await channel.exchange_declare(marker, exchange_type="fanout", durable=True)
    if new:  # a group that was deleted by hand may have left a marker of another kind
        for kind in _KINDS:
            if (other := marker_exchange(topic.name, group.name, *kind)) != marker:
                await channel.exchange_delete(other, nowait=True)
    arguments: dict[str, Any] = {"x-queue-type": "quorum"}
    if group.ordered:
        arguments["x-single-active-consumer"] = True
    if limit is not None:
        arguments["x-delivery-limit"] = limit
    if topic.retention is not None and math.isfinite(topic.retention):
        arguments["x-message-ttl"] = int(topic.retention * 1000)
    queues = [lane_queue(topic.name, group.name, lane) for lane in range(lanes)]
    for queue in queues:
        await channel.queue_declare(queue, durable=True, arguments=arguments)
    if lanes == 1:
        await channel.queue_bind(queues[0], exchange, "#")
    else:
        for slot in range(SLOTS):  # with what the ladder puts before the slot
            await channel.queue_bind(queues[slot % lanes], exchange, f"#.{slot}", nowait=True)
    await channel.queue_bind(queues[0], marker)
    await channel.exchange_bind(exchange, topic.name, "#")
    await channel.queue_declare(
        members_queue(topic.name, group.name), durable=True, arguments={"x-queue-type": "quorum"}
    )


def _unequal(topic: TopicSpec, text: str) -> ConfigError:
    """An exchange or queue exists as another kind; RabbitMQ's text names both."""
    if "alternate-exchange" in text:
        return ConfigError(
            f"topics.{topic.name}",
            f"a group exists with another number of lanes, or with another 'ordered': {text}",
            "Use the same everywhere. With another number, keys move between queues, which loses their order. Make a "
            "new group, and let the old one finish.",
        )
    if "x-delivery-limit" in text:
        return ConfigError(
            "delivery_limit",
            f"a queue of {topic.name!r} was made with another delivery limit, perhaps on RabbitMQ 3: {text}",
            "Lift it by a policy (rabbitmqctl set_policy --apply-to quorum_queues anybroker '^[^:]+:[^:]+:[0-9]+$' "
            "'{\"delivery-limit\": -1}') and set delivery_limit=policy.",
        )
    return ConfigError(
        f"topics.{topic.name}", f"part of it exists with other arguments: {text}", "Change the setting, or delete it."
    )


async def check_topic(link: Link, topic: TopicSpec) -> None:
    """ConfigError that names the part of the topic that is missing or different."""
    if not await is_there(link, "exchange", topic.name):
        raise ConfigError(
            "topics", f"RabbitMQ has no exchange {topic.name!r}", 'Declare the topic (provision="create").'
        )
    for group in topic.groups:
        existing = await find_group(link, topic.name, group, topic.lanes, None if topic.default_lanes else topic.lanes)
        existing.check()


class ExistingGroup(NamedTuple):
    """A group of which at least the exchange exists."""

    topic: str
    group: str
    lanes: int
    missing: tuple[str, ...]
    """Its queues that do not exist."""

    def check(self) -> None:
        """ConfigError that names what is missing."""
        if self.missing:
            queues = " and no queue ".join(map(repr, self.missing))
            raise ConfigError(
                f"topics.{self.topic}.groups",
                f"a part of the group {self.group!r} is missing: no queue {queues}",
                'Declare it (provision="create").',
            )


async def find_group(link: Link, topic: str, group: GroupSpec, hint: int, lanes: int | None) -> ExistingGroup:
    """A group with as many lanes as it has. ConfigError if it does not exist, or is of another kind. ``lanes``: the
    number that it must have; None: any. ``hint``: how many it probably has."""
    if not await is_there(link, "exchange", group_exchange(topic, group.name)):
        raise MissingGroup(
            f"topics.{topic}.groups",
            f"the group {group.name!r} does not exist: no exchange {group_exchange(topic, group.name)!r}",
            'Declare it (provision="create").',
        )
    kind = await _kind_of(link, topic, group.name, hint)
    if kind is None:
        raise ConfigError(
            f"topics.{topic}.groups",
            f"a part of the group {group.name!r} is missing: no exchange "
            f"{marker_exchange(topic, group.name, group.ordered, lanes or hint)!r}, which says how many lanes it has",
            f'Declare it (provision="create"), with topics.{topic}.lanes as it was.',
        )
    asked = _Kind(group.ordered, (lanes or kind.lanes) if group.ordered else 1)
    if kind != asked:
        raise ConfigError(
            f"topics.{topic}",
            f"the group {group.name!r} is asked for with {asked.text}, and exists with {kind.text}",
            "Use the same everywhere, or make a new group and let the old one finish.",
        )
    return ExistingGroup(topic, group.name, kind.lanes, await _missing(link, topic, group.name, kind.lanes))


async def _kind_of(link: Link, topic: str, group: str, hint: int) -> _Kind | None:
    """What a group's marker says; None without one. ``hint`` is tried first: each wrong guess costs a channel."""
    for kind in dict.fromkeys((_Kind(True, hint), *_KINDS)):
        if await is_there(link, "exchange", marker_exchange(topic, group, *kind)):
            return kind
    return None


async def _missing(link: Link, topic: str, group: str, lanes: int) -> tuple[str, ...]:
    queues = [*(lane_queue(topic, group, lane) for lane in range(lanes)), members_queue(topic, group)]
    counts = await _count(link, queues)
    return tuple(queue for queue in queues if queue not in counts)


async def _count(link: Link, queues: Sequence[str]) -> dict[str, int]:
    """How many messages are ready in each of the queues that exist."""
    counts: dict[str, int] = {}
    left = list(queues)
    while left:
        async with link.scratch("counting what waits") as channel:
            try:
                while left:
                    queue = left.pop(0)
                    counts[queue] = (await channel.queue_declare(queue, passive=True)).message_count or 0
            except ChannelNotFoundEntity as exc:  # and the channel is closed
                if not is_missing(exc):
                    raise
    return counts


async def backlog(link: Link, topic: str, group: str, hint: int) -> int:
    """How many events are ready for the group: neither delivered nor on the ladder. ConfigError without the group."""
    kind = await _kind_of(link, topic, group, hint)
    if kind is not None:
        counts = await _count(link, [lane_queue(topic, group, lane) for lane in range(kind.lanes)])
        if counts:
            return sum(counts.values())
    raise MissingGroup(f"topics.{topic}.groups", f"RabbitMQ has no group {group!r} of {topic!r}", "Declare it.")

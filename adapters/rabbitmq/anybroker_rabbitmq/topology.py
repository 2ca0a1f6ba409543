"""Making topics and groups be there, checking that they are, and counting what waits for them.

A topic is an exchange. A group is an exchange of its own with its queues bound to it; one binding, made after all of
those, connects the topic to it, so no event can reach a part of a group only. Its ``members`` queue is made last.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from aiormq.channel import Channel
from aiormq.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from anybroker.adapter import SLOTS, GroupSpec, TopicSpec
from anybroker.errors import ConfigError, MissingGroup

from .failures import is_missing
from .link import Link
from .names import group_exchange, lane_queue, marker_exchange, members_queue

__all__ = ["backlog", "check_group", "check_topic", "declare_topic", "is_there"]


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
    """Make the topic and its groups be there. ``limit``: x-delivery-limit of the queues; None: do not ask for one."""
    async with link.scratch(f"declaring the topic {topic.name!r}") as channel:
        try:
            await channel.exchange_declare(topic.name, exchange_type="topic", durable=True)
            for group in topic.groups:
                lanes = await _lanes_of(link, topic, group)
                await _declare_group(channel, topic, group, lanes, limit)
        except ChannelPreconditionFailed as exc:
            raise _unequal(topic, str(exc)) from exc


async def _declare_group(channel: Channel, topic: TopicSpec, group: GroupSpec, lanes: int, limit: int | None) -> None:
    exchange = group_exchange(topic.name, group.name)
    marker = marker_exchange(topic.name, group.name, group.ordered, lanes)
    # RabbitMQ compares this argument, so of two processes that want different groups the second is refused right here.
    alternate = {"alternate-exchange": marker}
    await channel.exchange_declare(exchange, exchange_type="topic", durable=True, arguments=alternate)
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
    await channel.exchange_declare(marker, exchange_type="fanout", durable=True)
    await channel.queue_bind(queues[0], marker)
    await channel.exchange_bind(exchange, topic.name, "#")
    await channel.queue_declare(
        members_queue(topic.name, group.name), durable=True, arguments={"x-queue-type": "quorum"}
    )


async def _lanes_of(link: Link, topic: TopicSpec, group: GroupSpec) -> int:
    """How many lanes the group has, or gets; where nobody asked for a number, what is there is right."""
    if not group.ordered:
        return 1
    if topic.default_lanes and await is_there(link, "queue", members_queue(topic.name, group.name)):
        return len(await _ready(link, topic.name, group.name)) or topic.lanes
    return topic.lanes


def _unequal(topic: TopicSpec, text: str) -> ConfigError:
    """What exists is of another kind; RabbitMQ's text names both."""
    if "alternate-exchange" in text:
        return ConfigError(
            f"topics.{topic.name}",
            f"a group exists with another number of lanes, or with another 'ordered': {text}",
            "Use the same everywhere. Another number of lanes moves keys between queues and loses their order: make a "
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
    """ConfigError naming what of the topic is missing or different."""
    if not await is_there(link, "exchange", topic.name):
        raise ConfigError(
            "topics", f"RabbitMQ has no exchange {topic.name!r}", 'Declare the topic (provision="create").'
        )
    for group in topic.groups:
        await check_group(link, topic.name, group.name, group.ordered, None if topic.default_lanes else topic.lanes)


async def check_group(link: Link, topic: str, group: str, ordered: bool, lanes: int | None) -> int:
    """How many lanes the group has. ConfigError if it is not there, is not whole, or is of another kind; ``lanes``
    None: any number will do."""
    if not await is_there(link, "queue", members_queue(topic, group)):
        raise MissingGroup(
            f"topics.{topic}.groups",
            f"the group {group!r} is not there, or only a part of it: no queue {members_queue(topic, group)!r}",
            'Declare it (provision="create").',
        )
    if lanes is None or not ordered:
        lanes = len(await _ready(link, topic, group)) if ordered else 1
    if not await is_there(link, "exchange", marker_exchange(topic, group, ordered, lanes)):
        raise ConfigError(
            f"topics.{topic}",
            f"the group {group!r} is asked for with {f'{lanes} lanes' if ordered else 'ordered=False'}, "
            f"and is there with {await _kind(link, topic, group)}",
            "Use the same everywhere, or make a new group and let the old one finish.",
        )
    return lanes


async def _kind(link: Link, topic: str, group: str) -> str:
    if await is_there(link, "exchange", marker_exchange(topic, group, False, 1)):
        return "ordered=False"
    return f"{len(await _ready(link, topic, group))} lanes"


async def _ready(link: Link, topic: str, group: str) -> list[int]:
    """How many messages are ready in each queue of the group."""
    ready: list[int] = []
    async with link.scratch(f"counting what waits for {group!r} of {topic!r}") as channel:
        try:
            while len(ready) < SLOTS:
                declared = await channel.queue_declare(lane_queue(topic, group, len(ready)), passive=True)
                ready.append(declared.message_count or 0)
        except ChannelNotFoundEntity as exc:
            if not is_missing(exc):
                raise
            # else the lane behind the last
    return ready


async def backlog(link: Link, topic: str, group: str) -> int:
    """How many events are ready for the group: neither delivered nor on the ladder. ConfigError without the group."""
    ready = await _ready(link, topic, group)
    if not ready:
        raise MissingGroup(f"topics.{topic}.groups", f"RabbitMQ has no group {group!r} of {topic!r}", "Declare it.")
    return sum(ready)

"""Topics and their groups: made, checked and listed. A topic is a stream, with the consumers of its groups.

Nothing that exists is changed, except for the lease of a group, which its members set and which is logged.
"""

from __future__ import annotations

import math
from typing import Any, Final

from anybroker.adapter import TopicSpec
from anybroker.errors import ConfigError

from .durations import nanoseconds
from .failures import ApiError, nats_errors
from .groups import Group
from .link import Link
from .names import stream_name, stream_subjects
from .settings import NatsSettings

__all__ = ["declare_topic", "list_groups", "verify_topic"]

_OTHER_STREAM: Final = (10058, 10065)
"""The name, or a subject, belongs to another stream."""


async def declare_topic(link: Link, topic: TopicSpec, settings: NatsSettings, lease: float, schedules: bool) -> None:
    """Make the topic and its groups, as far as they do not exist."""
    with nats_errors(f"declaring the topic {topic.name!r}"):
        info = await link.find(f"STREAM.INFO.{stream_name(topic.name)}")
        if info is None:
            info = await _create_stream(link, topic, settings, schedules)
        _compare(topic.name, info["config"])
        for group in topic.groups:
            await Group(link, topic.name, group.name).declare(topic, group, lease)


async def verify_topic(link: Link, topic: TopicSpec) -> None:
    """ConfigError naming what of the topic is missing or different."""
    with nats_errors(f"looking for the topic {topic.name!r}"):
        info = await link.find(f"STREAM.INFO.{stream_name(topic.name)}")
    if info is None:
        raise ConfigError(
            "topics", f"NATS has no stream {stream_name(topic.name)!r}", 'Declare the topic (provision="create").'
        )
    _compare(topic.name, info["config"])
    for group in topic.groups:
        lanes = None if topic.default_lanes else topic.lanes
        await Group(link, topic.name, group.name).check(group.ordered, lanes)


async def list_groups(link: Link) -> dict[str, list[str]]:
    """The streams as topics, and their consumers as groups. Our names have no underscores: one stands for a dot."""
    with nats_errors("listing streams"):
        topics: dict[str, list[str]] = {}
        for stream in await _all_names(link, "STREAM.NAMES", "streams"):
            consumers = await _all_names(link, f"CONSUMER.NAMES.{stream}", "consumers")
            groups = {each.partition("@")[0].replace("_", ".") for each in consumers}
            topics[stream.replace("_", ".")] = sorted(groups)
    return topics


async def _all_names(link: Link, operation: str, what: str) -> list[str]:
    """All pages of a list."""
    names: list[str] = []
    while True:
        page = await link.api(operation, {"offset": len(names)})
        more = page.get(what) or []
        names += more
        if not more or len(names) >= page["total"]:
            return names


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
        if exc.number not in _OTHER_STREAM:
            raise
        existing = await link.find(f"STREAM.INFO.{config['name']}")
        if existing is not None:
            return existing  # another process was faster; the caller compares it
        raise ConfigError(
            f"topics.{topic.name}",
            f"another stream has one of the subjects {', '.join(stream_subjects(topic.name))}",
            "Give the topic another name, or take the subject from that stream.",
        ) from exc


def _compare(topic: str, config: dict[str, Any]) -> None:
    """ConfigError if a stream with this configuration cannot be the topic's."""
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
            "Give the topic another name, or change that stream; anybroker changes no existing stream.",
        )

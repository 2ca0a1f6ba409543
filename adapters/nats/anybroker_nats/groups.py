"""The consumers of a group: making them, checking them, and giving them the lease of the group's members."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from anybroker.adapter import SLOTS, Backlog, GroupSpec, Start, TopicSpec, number_of
from anybroker.errors import ConfigError, MissingGroup
from anybroker.printable import logger

from .age import age_of_oldest
from .durations import ack_wait, lease_of, nanoseconds
from .failures import ApiError, nats_errors
from .link import Link
from .names import PRIORITY_GROUP, consumer_name, inlet, lane_numbers, stream_name

__all__ = ["Group"]

_log = logger("anybroker.nats")

_OTHER_CONSUMER: Final = (10148, 10013, 10105)
"""There is another consumer of this name."""
_BEING_MADE: Final = 10.0
"""Seconds for which another process may still be making a group."""
_LANES: Final = "anybroker-lanes"
"""In a consumer's metadata: how many lanes its group has; 0 for an unordered group."""


class Group:
    """One group of a topic, as the server has it."""

    def __init__(self, link: Link, topic: str, name: str) -> None:
        self._link = link
        self._topic = topic
        self._name = name
        self._stream = stream_name(topic)

    async def declare(self, topic: TopicSpec, group: GroupSpec, lease: float) -> None:
        """Make the group, or what is missing of it. ConfigError where another kind exists."""
        lanes = await self._lanes()
        if lanes is None:
            lanes = topic.lanes if group.ordered else 0
        else:
            self._compare(group.ordered, None if topic.default_lanes else topic.lanes, lanes)
        try:
            await self._create(group, lanes, lease)
        except ApiError as exc:  # another process made it with another number: fine if ours was only the default
            existing = await self._lanes() if exc.number in _OTHER_CONSUMER else None
            if not topic.default_lanes or existing is None:
                raise
            self._compare(group.ordered, None, existing)
            await self._create(group, existing, lease)

    async def repair(self, group: GroupSpec, lease: float) -> None:
        """Make again what was deleted of it; nothing where all of it is missing."""
        with nats_errors(f"looking for the group {self._name!r} of {self._topic!r}"):
            lanes = await self._lanes()
            if lanes is not None and group.ordered == (lanes > 0):
                await self._create(group, lanes, lease)

    async def check(self, ordered: bool, lanes: int | None) -> int:
        """How many lanes it has; 0 if it is unordered. ``lanes``: None where any number is right. ConfigError if the
        group does not exist (``MissingGroup``), is not complete, or is of another kind."""
        missing: list[int | None] = []
        with nats_errors(f"looking for the group {self._name!r} of {self._topic!r}"):
            existing = await self._lanes()
            if existing is not None:
                self._compare(ordered, lanes, existing)
                numbers = lane_numbers(existing)
                infos = await asyncio.gather(*(self._find(lane) for lane in numbers))
                missing = [lane for lane, info in zip(numbers, infos, strict=True) if info is None]
        setting, remedy = f"topics.{self._topic}.groups", 'Declare it (provision="create").'
        if existing is None:
            raise MissingGroup(setting, f"the group {self._name!r} does not exist", remedy)
        if missing:
            lacking = ", ".join(f"lane {lane}" for lane in missing if lane is not None)
            problem = f"the group {self._name!r} is not complete" + (f": it lacks {lacking}" if lacking else "")
            raise ConfigError(setting, problem, remedy)
        return existing

    async def set_lease(self, lanes: int, lease: float) -> None:
        """Give its consumers this lease where they have another."""
        with nats_errors(f"setting the lease of the group {self._name!r} of {self._topic!r}"):
            for lane in lane_numbers(lanes):
                info = await self._find(lane)
                if info is None:
                    continue
                wanted = _lease_settings(lease, lane)
                if info["config"].items() >= wanted.items():
                    continue
                if lane in (0, None):
                    _log.info(
                        "the lease of the group %r of %r is now %g s; it was %g s",
                        self._name,
                        self._topic,
                        lease,
                        lease_of(info),
                    )
                request = {"stream_name": self._stream, "config": info["config"] | wanted, "action": "update"}
                await self._link.api(f"CONSUMER.CREATE.{self._stream}.{info['name']}", request)

    async def backlog(self) -> Backlog:
        """Messages that no member has, those that one has and has not acknowledged, and the age of the oldest, which
        a user who may not read the stream (``STREAM.MSG.GET``) is not told."""
        with nats_errors(f"counting what waits for {self._name!r} of {self._topic!r}"):
            lanes = await self._lanes()
            if lanes is None:
                setting = f"topics.{self._topic}.groups"
                raise MissingGroup(setting, f"NATS has no group {self._name!r} of {self._topic!r}", "Declare it.")
            infos = await asyncio.gather(
                *(self._link.api(f"CONSUMER.INFO.{self._consumer(lane)}") for lane in lane_numbers(lanes))
            )
            subjects = [f"{prefix}.*" for prefix in self._prefixes]
            age = await age_of_oldest(self._link, self._topic, subjects, infos)
        waiting, in_flight = (sum(info[name] for info in infos) for name in ("num_pending", "num_ack_pending"))
        return Backlog(waiting, in_flight, age)

    # ---------------------------------------------------------------------------------------------------- looking

    def _consumer(self, lane: int | None) -> str:
        return f"{self._stream}.{consumer_name(self._name, lane)}"

    async def _find(self, lane: int | None) -> dict[str, Any] | None:
        return await self._link.find(f"CONSUMER.INFO.{self._consumer(lane)}")

    async def _lanes(self) -> int | None:
        """How many lanes it has: 0 if it is unordered, None if it does not exist. Any of its lanes tells."""
        for lane in (0, None):
            info = await self._find(lane)
            if info is not None:
                return self._our_lanes(info)
        stream = await self._link.find(f"STREAM.INFO.{self._stream}")
        if stream is None or not (stream.get("state") or {}).get("consumer_count"):
            return None
        others = await asyncio.gather(*(self._find(lane) for lane in range(1, SLOTS)))
        first = next((info for info in others if info is not None), None)
        return None if first is None else self._our_lanes(first)

    def _our_lanes(self, info: dict[str, Any]) -> int:
        if (lanes := _lanes_in(info)) >= 0:
            return lanes
        raise ConfigError(
            f"topics.{self._topic}.groups",
            f"the stream {self._stream!r} has a consumer {info['name']!r} that is not anybroker's",
            "Give the group another name, or delete that consumer.",
        )

    def _compare(self, ordered: bool, lanes: int | None, existing: int) -> None:
        """ConfigError if a group with ``existing`` lanes is not what is asked for."""
        if ordered != (existing > 0) or (ordered and lanes is not None and lanes != existing):
            asked = "ordered=False" if not ordered else "ordered=True" if lanes is None else f"{lanes} lanes"
            raise ConfigError(
                f"topics.{self._topic}",
                f"the group {self._name!r} is asked for with {asked}, and exists with "
                f"{f'{existing} lanes' if existing else 'ordered=False'}",
                "Use the same everywhere. Another number of lanes moves keys between consumers and loses their order: "
                "make a new group, and let the old one finish.",
            )

    # ----------------------------------------------------------------------------------------------------- making

    async def _create(self, group: GroupSpec, lanes: int, lease: float) -> None:
        """What is missing of it: the process that was making it may have been stopped, or a part of it was deleted.

        The first consumer alone: of two processes that want different numbers of lanes, the second is refused right
        there. A part begins where the group began: it is owed everything since, and what it had acknowledged is no
        longer known.
        """
        numbers = lane_numbers(lanes)
        infos = await asyncio.gather(*(self._find(lane) for lane in numbers))
        missing = [lane for lane, info in zip(numbers, infos, strict=True) if info is None]
        if not missing:
            return
        start = _start(group.start)
        if group.start == "new" and (created := _first_creation(infos)) is not None:
            start = {"deliver_policy": "by_start_time", "opt_start_time": created}
            if _seconds_since(created) > _BEING_MADE:
                _log.warning(
                    "%d of the %d lanes of the group %r of %r are gone, and are made again from its beginning (%s) on: "
                    "what they had handled since then, and is still kept, comes again",
                    len(missing),
                    len(numbers),
                    self._name,
                    self._topic,
                    created,
                )
        made = [await self._create_consumer(missing[0], lanes, lease, start)]
        made += await asyncio.gather(*(self._create_consumer(lane, lanes, lease, start) for lane in missing[1:]))
        other = await self._find(None if lanes else 0)
        if other is not None:  # another process made it of the other kind at the same time: both would get every event
            for lane in itertools.compress(missing, made):
                await self._link.find(f"CONSUMER.DELETE.{self._consumer(lane)}")
            self._compare(group.ordered, None, _lanes_in(other))

    async def _create_consumer(self, lane: int | None, lanes: int, lease: float, start: dict[str, str]) -> bool:
        """False: another process was faster, with another lease or start."""
        name = consumer_name(self._name, lane)
        config: dict[str, Any] = {
            "name": name,
            "durable_name": name,
            "description": f"anybroker group {self._name}",
            "filter_subjects": self._filters(lane, lanes),
            "ack_policy": "explicit",
            "max_deliver": -1,
            "max_ack_pending": -1,
            "metadata": {_LANES: str(lanes)},
            **_lease_settings(lease, lane),
            **start,
        }
        if lane is not None:
            config |= {"priority_groups": [PRIORITY_GROUP], "priority_policy": "pinned_client"}
        request = {"stream_name": self._stream, "config": config, "action": "create"}
        try:
            await self._link.api(f"CONSUMER.CREATE.{self._stream}.{name}", request)
        except ApiError as exc:
            info = await self._find(lane) if exc.number in _OTHER_CONSUMER else None
            if info is None or _lanes_in(info) != lanes:
                raise
            return False
        return True

    def _filters(self, lane: int | None, lanes: int) -> list[str]:
        """An unordered group takes what has any token; a lane takes its slots."""
        tokens = ["*"] if lane is None else [str(slot) for slot in range(lane, SLOTS, lanes)]
        return [f"{prefix}.{token}" for prefix in self._prefixes for token in tokens]

    @property
    def _prefixes(self) -> tuple[str, str]:
        return self._topic, inlet(self._topic, self._name)


def _lanes_in(info: dict[str, Any]) -> int:
    """How many lanes the group of this consumer has; -1: it is not one of ours."""
    text = (info["config"].get("metadata") or {}).get(_LANES, "")
    lanes = number_of(text, 2)  # SLOTS at most
    return -1 if lanes is None else lanes


def _lease_settings(lease: float, lane: int | None) -> dict[str, int]:
    settings = {"ack_wait": nanoseconds(ack_wait(lease, lane is not None))}
    return settings if lane is None else settings | {"priority_timeout": nanoseconds(lease)}


def _start(start: Start) -> dict[str, str]:
    if isinstance(start, datetime):
        return {"deliver_policy": "by_start_time", "opt_start_time": start.astimezone(UTC).isoformat()}
    return {"deliver_policy": "new" if start == "new" else "all"}


def _first_creation(consumers: Iterable[dict[str, Any] | None]) -> str | None:
    """When the first of these was made, as the server writes it; None where there is none."""
    return min((info["created"] for info in consumers if info is not None), key=datetime.fromisoformat, default=None)


def _seconds_since(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()

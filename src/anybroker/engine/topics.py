"""The topics of a Bus: which groups it knows of each, making them be there, and the first publish to one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

from ..adapter import DEFAULT_LANES, Adapter, GroupSpec, Start, TopicSpec, Topology
from ..config.settings import TopicSettings
from ..errors import BrokerError, ConfigError, Rejected
from ..names import DEAD_LETTER_GROUP, check_names, check_topic, dead_letter_topic
from ..printable import logger
from ..stats import PublishStats
from .calls import as_failure

__all__ = ["Topics", "Wanted"]

_log = logger("anybroker")


class Wanted(NamedTuple):
    """What a subscription wants of its topic."""

    topic: str
    group: GroupSpec
    lanes: int | None
    """In how many lanes the group is to be kept in order; None: nobody asked for a number."""


class Topics:
    """Topics by name. ``adapter`` is set when the Bus starts, before anything is declared."""

    adapter: Adapter

    def __init__(
        self,
        settings: Mapping[str, TopicSettings],
        provision: Literal["create", "verify", "off"],
        wanted: Callable[[], Iterable[Wanted]],
        stats: PublishStats,
    ) -> None:
        """``wanted``: what the subscriptions want, asked each time. ``stats``: where is counted what was published to a
        topic without a group."""
        self._settings = settings
        self._provision: Literal["create", "verify", "off"] = provision
        self._wanted = wanted
        self._stats = stats
        self._groups: dict[str, dict[str, GroupSpec]] = {}
        """Those that were declared while the Bus runs."""
        self._declared: set[str] = set()
        self.known: set[str] = set()
        """Published to before, with a group that this Bus knows: nothing is to be done about them any more."""
        self._groupless: set[str] = set()
        """Published to before, and without a group that this Bus knows."""
        self._first: dict[str, int] = {}
        self._warned: set[str] = set()
        self._declaring: dict[str, asyncio.Lock] = {}
        """For each topic that is being published to for the first time: its declaration, which may take long."""

        self._making_again = asyncio.Lock()
        self._again: dict[str, int] = {}

    # ------------------------------------------------------------------------------------------------- what is known

    def settings_of(self, topic: str) -> TopicSettings:
        """What the configuration says of the topic."""
        return self._settings.get(topic) or TopicSettings()

    def dead_letters_of(self, topic: str, group: str) -> str:
        """The dead-letter topic of a group."""
        return self.settings_of(topic).dead_letter or dead_letter_topic(topic, group)

    def groups_of(self, topic: str) -> dict[str, GroupSpec]:
        """Every group of the topic that this Bus knows."""
        settings = self.settings_of(topic)
        groups = {group: GroupSpec(group, settings.ordered) for group in settings.groups}
        groups.update(self._groups.get(topic, {}))
        groups.update((group.name, group) for name, group, _ in self._wanted() if name == topic)
        return groups

    def _specs(self, topic: str) -> list[TopicSpec]:
        """The topic, and the dead-letter topic of each of its groups."""
        settings = self.settings_of(topic)
        groups = self.groups_of(topic)
        asked = {lanes for name, _, lanes in self._wanted() if name == topic} | {settings.lanes}
        asked.discard(None)
        if len(asked) > 1:
            raise ConfigError(
                f"topic {topic!r}, lanes",
                f"the configuration and its subscriptions ask for {' and '.join(sorted(map(str, asked)))}",
                "Use one number for all.",
            )
        lanes = asked.pop() if asked else None
        specs = [
            TopicSpec(
                topic,
                tuple(groups.values()),
                settings.ordered,
                lanes or DEFAULT_LANES,
                default_lanes=lanes is None,
                retention=settings.retention,
            )
        ]
        if topic.endswith(f".{DEAD_LETTER_GROUP}") and settings.dead_letter is None:
            return specs
        dead = dict.fromkeys(settings.dead_letter or dead_letter_topic(topic, group) for group in groups)
        return [*specs, *(self._dead_letter_spec(name) for name in dead)]

    def _dead_letter_spec(self, topic: str) -> TopicSpec:
        """A dead-letter topic, with what else this Bus knows of it."""
        # From the start where the broker can: one that forgets a group without members must not skip what waits.
        start: Start = "earliest" if self.adapter.capabilities.retains else "new"
        own = {name: spec for name, spec in self.groups_of(topic).items() if name != DEAD_LETTER_GROUP}
        groups = (GroupSpec(DEAD_LETTER_GROUP, True, start), *own.values())
        settings = self.settings_of(topic)
        # Whatever number of lanes it has is right: it may be another service's topic, or made by hand.
        lanes, kept = settings.lanes or 1, settings.retention or float("inf")
        return TopicSpec(topic, groups, settings.ordered, lanes, settings.lanes is None, kept)

    # ---------------------------------------------------------------------------------------------------- declaring

    async def declare_all(self) -> None:
        """Make each topic be there that the configuration or a subscription names."""
        names = dict.fromkeys((*self._settings, *(topic for topic, _, _ in self._wanted())))
        if self._provision != "off":
            listed = [self._specs(name) for name in names]
            own = {first.name: first for first, *_ in listed}
            # What is a dead-letter topic too is made as one: that spec has its other groups.
            dead = {spec.name: spec for _, *others in listed for spec in others}
            await self.adapter.declare(Topology(tuple({**own, **dead}.values())), self._provision)
        self._declared.update(names)

    async def declare(self, topic: str, groups: Iterable[str], ordered: bool | None) -> None:
        """Make the topic and these groups be there."""
        settings = self.settings_of(topic)
        known = self._groups.setdefault(check_topic(topic), {})
        for group in groups:
            check_names(topic, group)
            known.setdefault(group, GroupSpec(group, settings.ordered if ordered is None else ordered))
        await self._declare(topic)

    async def _declare(self, topic: str) -> None:
        if self._provision != "off":
            topology = Topology(tuple(self._specs(topic)))
            await as_failure("declaring a topic", self.adapter.declare(topology, self._provision))
        self._declared.add(topic)
        if topic in self._groupless and self.groups_of(topic):
            self._groupless.discard(topic)
            self.known.add(topic)

    def declared_again(self, dead_letters: str) -> int:
        """How often this dead-letter topic was declared after it had refused a dead letter."""
        return self._again.get(dead_letters, 0)

    async def declare_again(self, topic: str, dead_letters: str, refused: Rejected, before: int) -> None:
        """Make a dead-letter topic of this topic that refuses; it may have been deleted. Raises ``refused`` where this
        Bus makes no topics, or cannot make it.

        Once, however many dead letters were refused meanwhile: ``before`` is what :meth:`declared_again` said before
        this one was sent.
        """
        if self._provision != "create":
            raise refused
        async with self._making_again:
            if self.declared_again(dead_letters) == before:
                await self._declare_again(topic, dead_letters, refused)
                self._again[dead_letters] = before + 1

    async def _declare_again(self, topic: str, dead_letters: str, refused: Rejected) -> None:
        _log.warning("the dead-letter topic %r refuses a dead letter (%s); declaring it again", dead_letters, refused)
        specs = tuple(spec for spec in self._specs(topic) if spec.name == dead_letters)
        try:
            await as_failure("declaring a topic", self.adapter.declare(Topology(specs), "create"))
        except (BrokerError, ConfigError) as exc:
            _log.warning("the dead-letter topic %r cannot be declared: %s", dead_letters, exc)
            raise refused from exc

    async def first_publish(self, topic: str, count: int) -> None:
        """Once a topic: check its name, make it be there, and warn where no group will get what is published; from then
        on count it where that is so."""
        if topic in self._groupless:
            self._stats.without_group += count
            return
        check_topic(topic)
        self._first[topic] = self._first.get(topic, 0) + 1
        try:
            # Fair: those who wait go on in the order of their calls. And each topic's own: one that cannot be declared
            # now delays no other.
            async with self._declaring.setdefault(topic, asyncio.Lock()):
                if topic not in self._declared:
                    await self._declare(topic)
        finally:
            self._first[topic] -= 1
            if not self._first[topic]:
                del self._first[topic]
                self._declaring.pop(topic, None)
                if topic in self._declared:  # from now on nobody waits, so nobody can be overtaken
                    (self.known if self.groups_of(topic) else self._groupless).add(topic)
        if not self.groups_of(topic):
            self._stats.without_group += count
            if topic not in self._warned:
                self._warned.add(topic)
                _log.warning(
                    "topic %r has no group that this Bus knows: what is published may reach nobody. Declare the groups "
                    "in the configuration (topics.%s.groups) or with bus.declare()",
                    topic,
                    topic,
                )

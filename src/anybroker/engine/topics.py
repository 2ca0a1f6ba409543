"""The topics of a Bus: the groups that it knows of each, declaring them, and the first publish to a topic."""

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

_log = logger("anybroker.publish")


class Wanted(NamedTuple):
    """What a subscription needs of its topic."""

    topic: str
    group: GroupSpec
    lanes: int | None
    """The number of lanes of the group; None: not specified."""


class Topics:
    """Topics by name. ``adapter`` is set when the Bus starts, before anything is declared."""

    adapter: Adapter

    def __init__(
        self,
        settings: Mapping[str, TopicSettings],
        wanted: Callable[[], Iterable[Wanted]],
        stats: PublishStats,
    ) -> None:
        """``wanted``: returns what the subscriptions need, called each time. ``stats``: counts what is published to a
        topic without a group."""
        self._settings = settings
        self._provision: Literal["create", "verify", "off"] = "create"
        self._wanted = wanted
        self._stats = stats
        self._groups: dict[str, dict[str, GroupSpec]] = {}
        """Topics that were declared while the Bus runs."""
        self._declared: set[str] = set()
        self.known: set[str] = set()
        """Topics that were published to before and have a group that this Bus knows: nothing is left to check."""
        self._groupless: set[str] = set()
        """Topics that were published to before and have no group that this Bus knows."""
        self._first: dict[str, int] = {}
        self._warned: set[str] = set()
        self._declaring: dict[str, asyncio.Lock] = {}
        """For each topic that is being published to for the first time, its declaration, which may take long."""

        self._making_again = asyncio.Lock()
        self._again: dict[str, int] = {}

    def begin(self, provision: Literal["create", "verify", "off"]) -> None:
        """The Bus starts, also again: forget what was there the last time. ``adapter`` is set next."""
        self._provision = provision
        self._making_again = asyncio.Lock()  # a lock belongs to the event loop in which it was waited for
        for known in (self._groups, self._declared, self.known, self._groupless, self._warned, self._again):
            known.clear()

    # ------------------------------------------------------------------------------------------------- what is known

    def settings_of(self, topic: str) -> TopicSettings:
        """What the configuration says about the topic."""
        return self._settings.get(topic) or TopicSettings()

    def dead_letters_of(self, topic: str, group: str) -> str:
        """The dead-letter topic of a group."""
        return self.settings_of(topic).dead_letter or dead_letter_topic(topic, group)

    def has_dead_letters(self, topic: str) -> bool:
        """Whether the groups of the topic have dead-letter topics; those of a topic of dead letters have one only if it
        is configured."""
        return not topic.endswith(f".{DEAD_LETTER_GROUP}") or self.settings_of(topic).dead_letter is not None

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
        if not self.has_dead_letters(topic):
            return specs
        dead = dict.fromkeys(settings.dead_letter or dead_letter_topic(topic, group) for group in groups)
        return [*specs, *(self._dead_letter_spec(name) for name in dead)]

    def _dead_letter_spec(self, topic: str) -> TopicSpec:
        """A dead-letter topic, with everything else that this Bus knows about it."""
        # From the start where the broker can: if it forgets a group without members, no dead letter must be skipped.
        start: Start = "earliest" if self.adapter.capabilities.retains else "new"
        own = {name: spec for name, spec in self.groups_of(topic).items() if name != DEAD_LETTER_GROUP}
        groups = (GroupSpec(DEAD_LETTER_GROUP, True, start), *own.values())
        settings = self.settings_of(topic)
        # Any number of lanes is right: it may be another service's topic, or one created by hand.
        lanes, kept = settings.lanes or 1, settings.retention or float("inf")
        return TopicSpec(topic, groups, settings.ordered, lanes, settings.lanes is None, kept)

    # ---------------------------------------------------------------------------------------------------- declaring

    async def declare_all(self) -> None:
        """Declare each topic that the configuration or a subscription names."""
        names = dict.fromkeys((*self._settings, *(topic for topic, _, _ in self._wanted())))
        if self._provision != "off":
            listed = [self._specs(name) for name in names]
            own = {first.name: first for first, *_ in listed}
            # A topic that is also a dead-letter topic is declared as one: that spec has its other groups.
            dead = {spec.name: spec for _, *others in listed for spec in others}
            await self.adapter.declare(Topology(tuple({**own, **dead}.values())), self._provision)
        self._declared.update(names)

    async def declare(self, topic: str, groups: Iterable[str], ordered: bool | None) -> None:
        """Declare the topic and these groups."""
        settings = self.settings_of(topic)
        specs = self._groups.setdefault(check_topic(topic), {})
        for group in groups:
            check_names(topic, group)
            specs.setdefault(group, GroupSpec(group, settings.ordered if ordered is None else ordered))
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
        """Declare a dead-letter topic again that refused a dead letter: it may have been deleted. Raises ``refused`` if
        this Bus does not create topics, or cannot create this one.

        It is declared once, however many dead letters were refused: ``before`` is the result of :meth:`declared_again`
        from before this one was sent.
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

    async def first_publish(self, topic: str, count: int, *, forwarded: bool = False) -> None:
        """On the first publish to a topic, check its name, declare it, and warn if no group will get the events. From
        then on only count such events. ``forwarded``: others have published them, so neither is done: a relay need not
        know who gets them."""
        if topic in self._groupless:
            if not forwarded:
                self._no_group(topic, count)
            return
        check_topic(topic)
        self._first[topic] = self._first.get(topic, 0) + 1
        try:
            # A fair lock: waiting publishes continue in the order of their calls. One for each topic: a topic that
            # cannot be declared now does not delay the others.
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
        if not forwarded and not self.groups_of(topic):
            self._no_group(topic, count)

    def _no_group(self, topic: str, count: int) -> None:
        self._stats.without_group += count
        if topic not in self._warned:
            self._warned.add(topic)
            _log.warning(
                "topic %r has no group that this Bus knows: what is published may reach nobody. Declare its groups "
                "in the configuration (topics.%s.groups) or with bus.declare()",
                topic,
                topic,
            )

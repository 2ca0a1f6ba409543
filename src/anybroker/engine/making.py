"""Making an event from the arguments of ``publish``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from time import time as wall_clock
from typing import Any

from ..cloudevents.event import Event, create_encoded
from ..cloudevents.timestamps import format_timestamp
from ..delivery import current_cause
from ..errors import ConfigError
from ..names import check_key
from .core import Core
from .outgoing import continue_cause, key_reader

__all__ = ["EventMaker", "expire"]

_NOTHING_GIVEN = (None,) * 8


class EventMaker:
    """Makes the events of one Bus, with its source and the keys configured for its topics."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.key_of = {
            name: reader
            for name, settings in core.settings.topics.items()
            if (reader := key_reader(name, settings)) is not None
        }
        """For each topic with a configured ``key``, the function that reads it from an event."""
        self._codecs = core.codecs if core.codecs else None
        self.configured = bool(self.key_of or core.codecs)
        """Whether there is more to an event than :meth:`Event.create` knows."""

    def make(
        self,
        topic: str,
        data: Any,
        key: Any,
        type: str | None,
        id: str | None,
        source: str | None,
        subject: str | None,
        time: datetime | str | None,
        datacontenttype: str | None,
        dataschema: str | None,
        extensions: Mapping[str, Any] | None,
    ) -> Event[Any]:
        """The event, with its key. ConfigError or EventError if the arguments do not make one."""
        core = self._core
        if data.__class__ is Event:
            given = (type, id, source, subject, time, datacontenttype, dataschema, extensions)
            if given != _NOTHING_GIVEN:
                raise ConfigError("publish(data)", "is an Event, and attributes are given too", "Use event.replace(…).")
            event: Event[Any] = data if key is None else data.replace(key=key)
        elif self._codecs is not None and (codec := self._codecs.writer(topic, data, datacontenttype)) is not None:
            event = create_encoded(
                data,
                lambda type: codec.encode(data, topic, type),
                type=type,
                source=source or core.known_source or core.source,
                id=id,
                time=time,
                subject=subject,
                key=key,
                dataschema=dataschema,
                extensions=extensions,
            )
        else:
            event = Event.create(
                data,
                type=type,
                source=source or core.known_source or core.source,
                id=id,
                time=time,
                subject=subject,
                key=key,
                datacontenttype=datacontenttype,
                dataschema=dataschema,
                extensions=extensions,
            )
        if self.key_of and topic in self.key_of and "partitionkey" not in event._attributes:
            configured = self.key_of[topic](event)
            if configured is not None:
                event = event.replace(key=configured)
        partition_key = event._attributes.get("partitionkey")
        if partition_key is not None:
            check_key(str(partition_key))
        return event

    def make_many(self, topic: str, items: Sequence[Any]) -> list[tuple[Event[Any], dict[str, str]]]:
        """An event of each payload, with the headers that it takes over from its cause."""
        cause = current_cause()
        ready: list[tuple[Event[Any], dict[str, str]]] = []
        for item in items:
            event = self.make(topic, item, *(None,) * 9)
            headers: dict[str, str] = {}
            if cause is not None and not isinstance(item, Event):
                continue_cause(event, cause, topic, False, headers)
            ready.append((event, headers))
        return ready

    def not_before(self, topic: str, event: Event[Any], delay: float, held: bool) -> float:
        """The time of delivery in seconds since the epoch; ConfigError if the event cannot be delayed (that long).
        ``held``: an outbox holds it until then, and not the broker."""
        if isinstance(delay, bool) or not 0 <= delay < float("inf"):
            raise ConfigError("publish(delay=)", f"{delay!r} is not a number of seconds of 0 or more")
        if not held:
            self._check_delay(delay)
        if event.key is not None and self._core.topics.settings_of(topic).ordered:
            raise ConfigError(
                "publish(delay=)",
                f"the event has a key and the topic {topic!r} is ordered: a delayed event would be overtaken",
                "Leave the key or the delay out, or configure the topic with ordered = false.",
            )
        return wall_clock() + delay

    def _check_delay(self, delay: float) -> None:
        """ConfigError where the broker cannot hold it so long."""
        capabilities = self._core.adapter.capabilities
        capabilities.require("delay", setting="publish(delay=)", remedy="Publish later, or use a broker that can.")
        if capabilities.max_delay is not None and delay > capabilities.max_delay:
            raise ConfigError(
                "publish(delay=)",
                f"{delay:g} s is more than the {capabilities.adapter} adapter allows",
                f"Use {capabilities.max_delay:g} s at most.",
            )


def expire(event: Event[Any], seconds: float, given: bool) -> None:
    """Let a new event expire in so many seconds. Called when it has its id, which must be the same in the next run of
    the handler that publishes it. ``given``: it is the caller's own Event. ConfigError for what cannot be."""
    problem, remedy = "", "Give one of the two."
    if isinstance(seconds, bool) or not 0 < seconds < float("inf"):
        problem, remedy = f"{seconds!r} is not a time", "Use a number of seconds over 0."
    elif given:
        problem, remedy = "is given with an Event", 'Use event.replace(extensions={"expirytime": …}).'
    elif "expirytime" in event._attributes:
        problem = "is given, and expirytime in extensions too"
    else:
        try:
            moment = datetime.now(UTC) + timedelta(seconds=seconds)
        except OverflowError:
            problem, remedy = f"{seconds!r} s end after the year 9999", "Leave it out."
        else:
            event._attributes["expirytime"] = format_timestamp("expirytime", moment)
            return
    raise ConfigError("publish(expires_in=)", problem, remedy)

"""Making an event of what ``publish`` was given."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from time import time as wall_clock
from typing import Any

from ..cloudevents.event import Event
from ..errors import ConfigError
from ..names import check_key
from .core import Core
from .outgoing import key_reader

__all__ = ["EventMaker"]

_NOTHING_GIVEN = (None,) * 8


class EventMaker:
    """Of one Bus: its source, and the keys that its topics are configured with."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.key_of = {
            name: reader
            for name, settings in core.settings.topics.items()
            if (reader := key_reader(name, settings)) is not None
        }
        """How an event's key is found, by topic, where the configuration says."""

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
        """The event, with its key; ConfigError, or EventError, for what cannot be one."""
        core = self._core
        if data.__class__ is Event:
            given = (type, id, source, subject, time, datacontenttype, dataschema, extensions)
            if given != _NOTHING_GIVEN:
                raise ConfigError(
                    "publish(data)", "is an Event, and its attributes are given beside it", "Use event.replace(…)."
                )
            event: Event[Any] = data if key is None else data.replace(key=key)
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
            found = self.key_of[topic](event)
            if found is not None:
                event = event.replace(key=found)
        partition_key = event._attributes.get("partitionkey")
        if partition_key is not None:
            check_key(str(partition_key))
        return event

    def not_before(self, topic: str, event: Event[Any], delay: float) -> float:
        """Seconds since the epoch; ConfigError where the event cannot be delayed so long, or at all."""
        if isinstance(delay, bool) or not 0 <= delay < float("inf"):
            raise ConfigError("publish(delay=)", f"{delay!r} is no number of seconds of 0 or more")
        capabilities = self._core.adapter.capabilities
        capabilities.require("delay", setting="publish(delay=)", remedy="Publish later, or use a broker that can.")
        if capabilities.max_delay is not None and delay > capabilities.max_delay:
            raise ConfigError(
                "publish(delay=)",
                f"{delay:g} s is over what the {capabilities.adapter} adapter takes",
                f"Use {capabilities.max_delay:g} s at most.",
            )
        if event.key is not None and self._core.topics.settings_of(topic).ordered:
            raise ConfigError(
                "publish(delay=)",
                f"the event has a key and the topic {topic!r} is ordered: a delayed event would be overtaken",
                "Leave the key or the delay out, or configure the topic with ordered = false.",
            )
        return wall_clock() + delay

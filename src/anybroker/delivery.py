"""Delivery: one hand-over of an event to a group, as handlers and middleware see it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .adapter import Foreign, Inbound
from .cloudevents.event import Event
from .names import is_owned

if TYPE_CHECKING:
    from .engine.lanes import LaneState

__all__ = ["Delivery", "current_cause", "current_delivery"]


class Delivery:
    """One hand-over of an event to a group.

    A new Delivery is made for each start, so that what a handler changes on it does not reach the next attempt.
    """

    __slots__ = (
        "attempt",
        "ended",
        "event",
        "group",
        "handler",
        "inbound",
        "key",
        "lane_state",
        "published",
        "topic",
        "verdict",
    )

    def __init__(
        self, event: Any, topic: str, group: str, attempt: int, key: str | None, inbound: Inbound, lane_state: LaneState
    ) -> None:
        self.event: Event[Any] = event
        """The event; on the way to a foreign-message middleware a :class:`~anybroker.adapter.Foreign`."""
        self.topic = topic
        self.group = group
        self.attempt = attempt
        """Handler starts in this group with this event, this one included: 1 for the first."""
        self.key = key
        """What orders it: the event's ``key``, else the broker's own; its hash where that has more than 512 bytes of
        UTF-8, as only other programs send it."""
        self.inbound = inbound
        self.lane_state = lane_state
        self.handler = ""
        """The name of the handler that the event's type was dispatched to."""
        self.ended = False
        """Whether its start is over: what a task that it left behind publishes has no cause any more."""
        self.published: dict[bytes, int] | None = None
        """For the core: how many events its handler has published so far, by what they say; None: none yet."""
        self.verdict: Exception | None = None
        """The failure whose dead letter could not be sent yet: the handler is not run again before it was."""

    @property
    def raw(self) -> Any:
        """The client's own record of the message: the way out of the abstraction."""
        return self.inbound.raw

    @property
    def headers(self) -> Mapping[str, str]:
        """Transport headers: what travelled beside the event, names lower-case, as text; the publisher's own and the
        trace context. What belongs to the event, to a broker or to the library is not among them, so that they can be
        passed on with what the handler publishes."""
        headers = self.inbound.headers
        if headers and any(map(is_owned, headers)):
            return {name: value for name, value in headers.items() if not is_owned(name)}
        return headers

    @property
    def is_foreign(self) -> bool:
        """Whether the message was no CloudEvent."""
        return isinstance(self.event, Foreign)

    def again(self, attempt: int) -> Delivery:
        """The same event for another start, with nothing decoded that a handler could have changed."""
        event = self.event if isinstance(self.event, Foreign) else self.event._without_data()
        return Delivery(event, self.topic, self.group, attempt, self.key, self.inbound, self.lane_state)

    def __repr__(self) -> str:
        return f"Delivery(topic={self.topic!r}, group={self.group!r}, attempt={self.attempt}, event={self.event!r})"


current_delivery: ContextVar[Delivery | None] = ContextVar("anybroker_current_delivery", default=None)
"""The delivery whose handler was started in this context; None outside a handler."""


def current_cause() -> Delivery | None:
    """The delivery whose handler runs here now; None outside of one, and in a task that outlived its handler."""
    delivery = current_delivery.get()
    return None if delivery is None or delivery.ended else delivery

"""Delivery: an event on its way to a handler, as handlers and middleware see it; and the lane that it came on."""

from __future__ import annotations

from asyncio import Event as AsyncEvent
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .adapter import Foreign, Inbound, Lane
from .cloudevents.event import Event
from .names import is_owned

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

__all__ = ["Attempt", "Delivery", "LaneState", "Ledger", "current_cause", "current_delivery"]


class Ledger(Protocol):
    """What is finished in one lane of a cumulative broker: :class:`anybroker.engine.ledger.LaneLedger`."""

    attempts: dict[int, int]
    full: bool

    @property
    def position(self) -> int | None:
        """The first position that is not finished; None while nothing was received."""
        ...

    def __len__(self) -> int:
        """How many positions are received and not below the committed one."""
        ...

    def receive(self, position: int, /) -> int:
        """Take note of a received position. Returns the starts noted for it, or -1 if it is finished already."""
        ...

    def finish(self, position: int, /) -> None:
        """The event at this position is done."""
        ...

    def note(self) -> str:
        """What lies beyond :attr:`position`, to be stored beside it."""
        ...


class LaneState:
    """One lane while this member has it."""

    __slots__ = ("drained", "gone", "lane", "ledger", "lost", "outstanding", "parked_keys", "running")

    def __init__(self, lane: Lane, ledger: Ledger | None) -> None:
        self.lane = lane
        self.ledger = ledger
        """None where the broker settles each message by itself."""
        self.outstanding = 0
        """Received and not finished."""
        self.running = 0
        """Handlers in flight."""
        self.gone = False
        """Revoked or lost: nothing more of it starts."""
        self.lost = False
        """Lost: what still finishes is not settled any more."""
        self.drained: AsyncEvent | None = None
        """Set when the last handler of a revoked lane has ended."""
        self.parked_keys: set[str] | None = None
        """The parked keys of the group, where they are known; others of this lane are free as long as it is ours."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of a handler that failed."""

    number: int
    """Handler starts in this group with the event, this one included."""
    at: str
    """When it failed, RFC 3339."""
    error: str
    """``module.Type: text`` of the exception, printable, at most 200 bytes."""


class Delivery:
    """One delivery of an event to a group.

    Each start of a handler gets a new Delivery, so that changes a handler makes to it do not reach the next attempt.
    """

    __slots__ = (
        "attempt",
        "ended",
        "event",
        "failures",
        "first_failed",
        "group",
        "handler",
        "inbound",
        "key",
        "lane_state",
        "letter_stored",
        "parked_as",
        "published",
        "span_context",
        "starts_allowed",
        "suppressed",
        "topic",
        "verdict",
    )

    def __init__(
        self,
        event: Event[Any] | Foreign,
        topic: str,
        group: str,
        attempt: int,
        key: str | None,
        inbound: Inbound,
        lane_state: LaneState,
    ) -> None:
        self.event: Event[Any] = event  # type: ignore[assignment] # a Foreign: on the way to what takes one
        """The event; a :class:`~anybroker.adapter.Foreign` if the message is not a CloudEvent."""
        self.topic = topic
        self.group = group
        self.attempt = attempt
        """Handler starts in this group with this event, this one included: 1 for the first."""
        self.key = key
        """The ordering key: the event's ``key``, else the broker's own. For a key of more than 512 bytes of UTF-8,
        which only other programs send, its hash."""
        self.inbound = inbound
        self.lane_state = lane_state
        self.handler = ""
        """The name of the handler that the event's type was dispatched to."""
        self.ended = False
        """Whether its start is over: what a task left behind by the handler publishes then has no cause."""
        self.published: dict[bytes, int] | None = None
        """For the core: how many events its handler has published so far, by their content; None: none yet."""
        self.letter_stored: bool  # set once its dead letter is stored, and not before: most never have one
        self.parked_as: str  # its row among those of its parked key: set where it has one
        self.failures: tuple[Attempt, ...]  # set once a start has failed: see anybroker.engine.failures
        self.first_failed: float  # set with it: when the first one failed, in seconds since the epoch
        self.starts_allowed: int  # set by retry once a start has failed, and not before: most never need it
        self.suppressed: bool  # set where the handler was not run, because the event is a copy of one that is done
        self.verdict: Exception | None = None
        """The failure whose dead letter could not be sent yet: the handler is not run again until it is sent."""
        self.span_context: Any  # set where an OpenTelemetry SDK is set up, and not elsewhere

    @property
    def is_dead_lettered(self) -> bool:
        """Whether its dead letter is stored."""
        return getattr(self, "letter_stored", False)

    @property
    def is_suppressed(self) -> bool:
        """Whether it is a copy of what was done already, so that its handler was not run."""
        return getattr(self, "suppressed", False)

    @property
    def last_span(self) -> SpanContext | None:
        """The span context of the last start of a handler with this event in this process, this one included; None
        where there was none, or nothing is traced."""
        return getattr(self, "span_context", None)

    @property
    def raw(self) -> Any:
        """The client's own record of the message, for what this library does not cover."""
        return self.inbound.raw

    @property
    def headers(self) -> Mapping[str, str]:
        """The publisher's transport headers and the trace context, as text, names in lower case. Headers of the event,
        of a broker or of the library are left out, so these can be passed on with what the handler publishes."""
        headers = self.inbound.headers
        if headers and any(map(is_owned, headers)):
            return {name: value for name, value in headers.items() if not is_owned(name)}
        return headers

    @property
    def is_foreign(self) -> bool:
        """Whether the message was not a CloudEvent."""
        return isinstance(self.event, Foreign)

    def again(self, attempt: int) -> Delivery:
        """The same event for another start, with nothing decoded that a handler could have changed."""
        event = self.event if isinstance(self.event, Foreign) else self.event._without_data()
        again = Delivery(event, self.topic, self.group, attempt, self.key, self.inbound, self.lane_state)
        if hasattr(self, "failures"):
            again.failures = self.failures
            again.first_failed = self.first_failed
        if (span_context := self.last_span) is not None:
            again.span_context = span_context
        return again

    def __repr__(self) -> str:
        return f"Delivery(topic={self.topic!r}, group={self.group!r}, attempt={self.attempt}, event={self.event!r})"


current_delivery: ContextVar[Delivery | None] = ContextVar("anybroker_current_delivery", default=None)
"""The delivery whose handler was started in this context; None outside a handler."""


def current_cause() -> Delivery | None:
    """The delivery whose handler runs here now; None outside a handler, and in a task that outlived its handler."""
    delivery = current_delivery.get()
    return None if delivery is None or delivery.ended else delivery

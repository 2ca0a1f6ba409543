"""What an adapter can do, as data, and the check that explains itself.

An adapter declares each capability as ``native`` (the broker does it), ``emulated`` (the core does it on top of the
broker, with the same promise) or ``absent``. A program that asks for an absent one gets a :class:`CapabilityError` at
the start, before anything is sent, that names the adapter, the setting and the remedy. The contract suite tests both
sides: the feature where it is declared, the refusal where it is not.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from .errors import CapabilityError

__all__ = ["Acknowledgement", "Capabilities", "Support"]


class Support(Enum):
    """How far a capability goes."""

    NATIVE = "native"
    EMULATED = "emulated"
    ABSENT = "absent"

    def __bool__(self) -> bool:
        return self is not Support.ABSENT


class Acknowledgement(Enum):
    """How the broker remembers what is done."""

    PER_MESSAGE = "per message"
    """Each delivery is settled by itself."""
    CUMULATIVE = "cumulative"
    """One position per lane; the core's ledger tracks what is finished beyond it, and stores a note with it."""


NATIVE, EMULATED, ABSENT = Support.NATIVE, Support.EMULATED, Support.ABSENT


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What one adapter can do. Each adapter must decide the fields without a default."""

    adapter: str
    """The adapter's name in errors and in the capability matrix."""
    acknowledgement: Acknowledgement
    """PER_MESSAGE or CUMULATIVE: what :meth:`Receiver.settle` is given."""

    durable: Support
    """Events that ``publish`` returned for survive a restart of the broker."""
    processes: Support
    """Several processes share the topics and the groups."""
    ordering: Support = NATIVE
    """Events of one key reach a group one at a time, in publish order."""
    inlet: Support = NATIVE
    """An event can be sent to a single group, for replays and delayed releases."""
    release: Support = ABSENT
    """A delivery can be given back with a delay and its count of attempts (``retry(mode="release")``).
    ``native``: :class:`Release` with ``delay`` and ``attempts``; ``emulated``: the core sends a copy to the inlet."""
    delay: Support = ABSENT
    """``publish(delay=…)``: the broker holds the event until then."""
    deduplication: Support = ABSENT
    """The broker drops a second copy of what was published under the same id, for some minutes at least."""
    attempts_survive: Support = ABSENT
    """``delivery.attempt`` counts on after a crash of the consumer, not only after a clean restart."""
    retains: Support = ABSENT
    """A group made later can have events published before it: ``start="earliest"``."""
    start_at_time: Support = ABSENT
    """A group can start at a moment in time."""
    seek: Support = ABSENT
    """An existing group can be moved back or forth: :class:`Replays`."""
    lease_extension: Support = ABSENT
    """A delivery's lease runs out and must be extended while it is handled: :class:`ExtendsLease`."""
    backlog: Support = ABSENT
    """The broker can tell how many events wait for a group: :class:`ReportsBacklog`."""
    backlog_age: Support = ABSENT
    """It can also tell since when the oldest of them is stored, without taking it: ``Backlog.age`` is a number."""
    inspect: Support = ABSENT
    """Stored events can be looked at without being received: :class:`Inspects`."""
    history: Support = ABSENT
    """What a topic keeps can be read again, consumed or not, by time or position: :class:`ReadsHistory`."""
    balance: Support = ABSENT
    """Lanes stay with the first member unless it gives some back: :class:`BalancesLanes`."""
    verify: Support = NATIVE
    """``provision="verify"``: what is declared can be compared with what exists, without changing it."""
    null_body_with_key: Support = NATIVE
    """An event without data can be sent with a key in the default content mode."""

    max_event_bytes: int | None = None
    """The most bytes that the broker accepts for one event, attributes included; None: it has no limit."""
    max_delay: float | None = None
    """The longest ``delay`` in seconds; None: no limit."""
    settle_interval: float = 0.0
    """Seconds between two calls of ``settle``; 0: the next call follows as soon as the last one has returned."""
    exclusive_lanes: bool = False
    """All events of a key come on one lane, which one member has until it is revoked or lost. False: a member may get
    any event of any key, as soon as those before it are settled."""
    poll: float = 0.0
    """The most seconds that :meth:`Receiver.receive` may take to return after :meth:`Receiver.stop`."""
    messaging_system: str = ""
    """The broker's name in OpenTelemetry's conventions; empty: the adapter's own."""

    @property
    def system(self) -> str:
        """``messaging.system`` of traces and metrics."""
        return self.messaging_system or self.adapter

    def supports(self, name: str) -> bool:
        """Whether the capability of that name is declared native or emulated."""
        value = getattr(self, name)
        if not isinstance(value, Support):
            raise TypeError(f"{name!r} is a limit, not a capability")
        return bool(value)

    def require(self, name: str, *, setting: str, remedy: str) -> None:
        """Raise :class:`CapabilityError` if the capability of that name is absent."""
        if not self.supports(name):
            raise CapabilityError(self.adapter, name, setting, remedy)

    def table(self) -> dict[str, str]:
        """Each capability by name with ``native``, ``emulated`` or ``absent``, in the order of declaration."""
        rows: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value.value for name, value in rows.items() if isinstance(value, Support)}

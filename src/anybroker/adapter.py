"""The interface between the core and a broker: the one file that the author of an adapter reads.

An adapter is a class named in the entry-point group ``anybroker.adapters`` under its URL scheme. It speaks one broker
and holds no policy. It may not retry, sleep, back off, spawn a task per message, decode data, choose what happens to
a message, log payloads, keep module state, or raise anything but :class:`~anybroker.errors.BrokerError` and
:class:`~anybroker.errors.ConfigError`; the client's exception is the ``__cause__``.

How the core uses it:

1. ``Adapter(url, settings, context)``, then ``connect()``, then ``declare(topology, mode)``.
2. One ``open_sender()`` for the Bus. ``Sender.submit`` is called one batch at a time.
3. One ``open_receiver()`` for each subscription. One task calls ``Receiver.receive``, never cancelled; another calls
   ``Receiver.settle``, one call at a time, side by side with ``receive``.
4. On the way out: ``Receiver.stop``, the last ``settle``, ``Receiver.close``, ``Sender.close``, ``Adapter.close``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from pydantic import BaseModel, ConfigDict
from pydantic.config import JsonDict

from .capabilities import Capabilities
from .cloudevents.event import Event
from .errors import BrokerError, EventTooLarge, InvalidEvent, Rejected
from .names import bounded_key

__all__ = [
    "DEFAULT_LANES",
    "RESERVED_BYTES",
    "SECURITY",
    "SLOTS",
    "Ack",
    "Adapter",
    "AdapterContext",
    "AdapterSettings",
    "Backlog",
    "BalancesLanes",
    "BoundsLanes",
    "BrokerUrl",
    "Commit",
    "ExtendsLease",
    "Foreign",
    "GroupSpec",
    "Inbound",
    "Lane",
    "LaneListener",
    "ListsGroups",
    "Outbound",
    "Receipt",
    "Receiver",
    "Release",
    "Replays",
    "Report",
    "ReportsBacklog",
    "Sender",
    "Settlement",
    "Start",
    "SubscriptionSpec",
    "TellsHindrance",
    "TopicSpec",
    "Topology",
    "bounded_key",
    "check_size",
    "count_of",
    "murmur2",
    "slot_of",
    "unwritable",
]

DEFAULT_LANES = 4
"""Lanes of a new topic for which nobody asked for a number."""

SLOTS = 64
"""How many slots keys map to, on every broker that has to be told one."""

RESERVED_BYTES = 8 * 1024
"""How much of the broker's size limit an ordinary publish leaves free, for what a dead letter adds."""

SECURITY: JsonDict = {"security": True}
"""Marks a setting: ``Field(json_schema_extra=SECURITY)``; see :class:`AdapterSettings`."""
_MOST = 1_000_000
"""Handler starts, or replays, of one event."""

Start: TypeAlias = Literal["new", "earliest"] | datetime
"""Where a group that does not exist yet begins."""


def count_of(value: object) -> int:
    """Handler starts or replays, as a header or a note has them, as text or as a number; 0 for what we never write,
    which another program may have put there."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0
    return value if type(value) is int and 0 < value <= _MOST else 0


def murmur2(data: bytes) -> int:
    """The 32-bit murmur2 hash that the widest used Java client partitions by, as an unsigned number."""
    mask, mixer = 0xFFFFFFFF, 0x5BD1E995
    length = len(data)
    value = (0x9747B28C ^ length) & mask
    whole = length & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * mixer & mask
        word = (word ^ word >> 24) * mixer & mask
        value = (value * mixer & mask) ^ word
    if whole != length:
        value = (value ^ int.from_bytes(data[whole:], "little")) * mixer & mask
    value = (value ^ value >> 13) * mixer & mask
    return value ^ value >> 15


_MOST_SLOTS = 65_536
_LONGEST_REMEMBERED = 128
"""UTF-8 bytes of a key whose slot is remembered: all of them together take 20 MB at most."""
_slots: dict[str, int] = {}


def slot_of(key: str) -> int:
    """The slot, 0 to 63, of an ordering key: murmur2 over its UTF-8 bytes, as a positive number, modulo 64.

    Of a key of more than 512 bytes, which only other programs send, it is the slot of what it orders by
    (:attr:`anybroker.Event.key`).
    """
    slot = _slots.get(key)
    return _slot_of_new(key) if slot is None else slot


def _slot_of_new(key: str) -> int:
    written = bounded_key(key).encode()
    slot = (murmur2(written) & 0x7FFFFFFF) % SLOTS
    if len(written) <= _LONGEST_REMEMBERED >= len(key):
        if len(_slots) >= _MOST_SLOTS:
            _slots.clear()
        _slots[key] = slot
    return slot


# --------------------------------------------------------------------------------------------------- configuration


@dataclass(frozen=True)
class BrokerUrl:
    """A broker's URL, taken apart. Its ``str`` and ``repr`` never show the password, nor the options: secrets too."""

    scheme: str
    hosts: tuple[tuple[str, int | None], ...]
    """Host and port of each server named (``scheme://a:9092,b:9092``)."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    path: str = ""
    """What follows the host, percent-decoded, with its leading slash: ``/vhost``, ``/shop.db`` (relative),
    ``//var/shop.db`` (absolute)."""
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The query, which becomes the adapter's Settings."""

    def __str__(self) -> str:
        user = f"{self.username}:***@" if self.password else f"{self.username}@" if self.username else ""
        hosts = ",".join(host if port is None else f"{host}:{port}" for host, port in self.hosts)
        return f"{self.scheme}://{user}{hosts}{self.path}"


class AdapterSettings(BaseModel):
    """The base of each adapter's ``Settings``: unknown options are refused, with the nearest name suggested.

    Filled from the URL's query and from the table of the scheme in ``anybroker.toml`` (the URL wins). Secrets are
    ``pydantic.SecretStr``. Those of a broker with TLS derive from :class:`anybroker.kit.tls.TlsSettings`.
    What could weaken TLS, lead to another server, or names credentials or files is marked, once, with
    ``Field(json_schema_extra=SECURITY)``: a file that another user may have put there does not set it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class AdapterContext:
    """What the core tells every adapter."""

    service: str
    """The service's name, the same in all its replicas: client ids, connection names."""
    instance: str
    """Unique to this Bus: member ids, owners of claims."""
    lease: float = 20.0
    """Seconds after which what a crashed member held goes to another."""
    publish_deadline: float = 30.0
    """Seconds after which the core gives up on a publish; an adapter sets its client's own time-out below it."""
    connect_timeout: float = 10.0
    """Seconds after which the core gives up on ``connect``."""
    drain: float = 25.0
    """Seconds that a revoked lane is given to finish what its handlers have begun."""
    deduplication_key: bytes = field(default=b"", repr=False)
    """Secret, at most 64 bytes: what an adapter gives to :meth:`Outbound.deduplication_id`."""


@dataclass(frozen=True)
class GroupSpec:
    """A group of a topic."""

    name: str
    ordered: bool = True
    start: Start = "new"


@dataclass(frozen=True)
class TopicSpec:
    """A topic and its groups, to be there after :meth:`Adapter.declare`."""

    name: str
    groups: tuple[GroupSpec, ...] = ()
    ordered: bool = True
    lanes: int = DEFAULT_LANES
    """In how many lanes the topic, or each group of it, is kept in order."""
    default_lanes: bool = False
    """Nobody asked for that number: it is what a new topic gets, and whatever an existing one has is right."""
    retention: float | None = None
    """Seconds for which events are kept; None: the broker's default; ``inf``: as long as the broker can."""


@dataclass(frozen=True)
class Topology:
    """All that a Bus needs to be there; dead-letter topics are topics like others, with the group ``dlq``."""

    topics: tuple[TopicSpec, ...]


@dataclass(frozen=True)
class SubscriptionSpec:
    """One receiver's place: which group of which topic, and how."""

    topic: str
    group: str
    ordered: bool
    lanes: int
    start: Start
    prefetch: int
    """The most events that the core asks for at once; a push client buffers no more than this."""


# --------------------------------------------------------------------------------------------------------- publish


class Foreign:
    """A message that is no CloudEvent, as it came: its body and headers byte for byte, and what is wrong with it.

    A header's value is None where the broker has headers without a value and this is one; a broker that has none writes
    it as an empty one.
    """

    __slots__ = ("body", "headers", "key", "reason")

    def __init__(
        self,
        body: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        key: str | None = None,
        reason: InvalidEvent | None = None,
    ) -> None:
        self.body = body
        self.headers = headers
        self.key = None if key is None else bounded_key(key)
        """What orders it: the broker's own key; its hash, as of an event, where that has more than 512 bytes."""
        self.reason = reason
        if reason is not None:  # with its frames, all that was read on the way would live until the garbage collector
            reason.__traceback__ = reason.__context__ = None

    def without_headers(self) -> Foreign:
        """Its body alone, where nothing more has room. A subclass that keeps more of how it came drops that too."""
        return Foreign(self.body, (), self.key, self.reason)

    def __repr__(self) -> str:
        size = "no body" if self.body is None else f"{len(self.body)} bytes"
        return f"Foreign({size}, {len(self.headers)} headers)"


class Outbound:
    """One event on its way to a topic, or to one group of it.

    Adapters read ``event`` to ``reserve``, and hand the object back to ``report``; ``token`` is the core's.
    """

    __slots__ = ("event", "group", "headers", "hop", "not_before", "reserve", "token", "topic")

    def __init__(
        self,
        event: Event[Any] | Foreign,
        topic: str,
        group: str | None = None,
        headers: Mapping[str, str] | None = None,
        not_before: float | None = None,
        hop: str = "",
        reserve: int = RESERVED_BYTES,
        token: Any = None,
    ) -> None:
        self.event = event
        self.topic = topic
        self.group = group
        """None: to all groups of the topic; else to the inlet of this one."""
        self.headers = headers
        """Transport headers to write beside the event, names lower-case; None: none."""
        self.not_before = not_before
        """Seconds since the epoch before which it must not be delivered; None: at once. An adapter that cannot hold it
        so long, or so exactly, carries it along and gives it back as ``Inbound.not_before``. At a group's inlet the
        core writes it into a header of its own, and holds the event after receipt."""
        self.hop = hop
        """Distinguishes a dead letter, a replay or a delayed copy from the original in native deduplication, and from
        that of another delivery."""
        self.reserve = reserve
        """Bytes of the broker's size limit that must stay free."""
        self.token = token

    @property
    def key(self) -> str | None:
        """The ordering key, at most 512 bytes of UTF-8: :attr:`anybroker.Event.key`."""
        return self.event.key

    @property
    def is_dead_letter(self) -> bool:
        """Whether it is one. A broker that closes a key while one event of it is out may keep these apart from each
        other: whoever looks at dead letters wants to see all of a key, and sorts them by time."""
        return self.hop.startswith("dead|")

    @property
    def is_copy(self) -> bool:
        """Whether the broker has stored it once already: a dead letter, a replay or a delayed copy. It is held to the
        broker's own limits only, never to a lower one that is set here."""
        return bool(self.hop)

    @property
    def may_change_mode(self) -> bool:
        """Whether it may be written in the other content mode where it is too large in the one that is set: a copy of
        an event, which may have come in that one. Escapes, base64 and percent signs make some larger than it came."""
        return bool(self.hop) and not isinstance(self.event, Foreign)

    def deduplication_id(self, key: bytes = b"") -> str:
        """A hash of source, id and hop, 32 hexadecimal digits, for brokers that drop copies by id.

        Not the id itself: such a broker remembers what was consumed, and would swallow the dead letter or the replay.
        ``key``: :attr:`AdapterContext.deduplication_key`, without which nobody can know the hash in advance.
        """
        event = self.event
        if isinstance(event, Foreign):
            text = f"\x00\x00{self.hop}"
            hop = blake2b(text.encode(), digest_size=32, key=key).digest()
            return blake2b(event.body or b"", digest_size=16, key=hop).hexdigest()
        text = f"{event.source}\x00{event.id}\x00{self.hop}"
        return blake2b(text.encode(), digest_size=16, key=key).hexdigest()


class Receipt:
    """The broker's word that an event is durably stored."""

    __slots__ = ("broker_id", "duplicate", "event", "topic")

    def __init__(self, topic: str, broker_id: str, event: Event[Any] | None = None, duplicate: bool = False) -> None:
        self.topic = topic
        self.broker_id = broker_id
        """The broker's own name for the stored event, such as partition and offset, or a sequence number."""
        self.event = event
        """The event as it was published; filled by the core."""
        self.duplicate = duplicate
        """Whether the broker says that it had the event already, and stored nothing."""

    def __repr__(self) -> str:
        return f"Receipt(topic={self.topic!r}, broker_id={self.broker_id!r}, duplicate={self.duplicate})"


Report = Callable[[Outbound, "Receipt | BrokerError"], None]
"""Synchronous, from the event loop's thread, exactly once for each event of a batch."""


def check_size(outbound: Outbound, size: int, limit: int, most: float | None = None) -> EventTooLarge | None:
    """The error to report if ``size`` bytes on the wire are over ``limit`` less the event's reserve, else None.

    ``most``: what the broker itself takes, where ``limit`` is a setting that may be lower (``inf`` where nobody can
    say); what it has stored once is held to this alone. The core trims a dead letter by ``size - limit`` of the error,
    so both must be exact.
    """
    if outbound.is_copy and most is not None:
        if size <= most:
            return None
        limit = int(most)
    free = limit - outbound.reserve
    if size <= free:
        return None
    if not outbound.reserve:
        return EventTooLarge(
            f"the event for topic {outbound.topic!r} takes {size} bytes and the broker's limit is {free}",
            size=size,
            limit=free,
        )
    return EventTooLarge(
        f"the event for topic {outbound.topic!r} takes {size} bytes and the broker's limit leaves {free} "
        f"({limit} less {outbound.reserve} kept free for a dead letter). Send less, or put the data elsewhere and "
        "its address into the 'dataref' extension",
        size=size,
        limit=free,
    )


def unwritable(outbound: Outbound, exc: Exception, what: str) -> Rejected:
    """The error to report for an event that could not be written as a ``what`` (``record``, ``message``): whatever its
    writing raised is its own failure, and not that of the others in its batch."""
    error = Rejected(f"an event for topic {outbound.topic!r} cannot be written as a {what}: {exc!r}")
    error.__cause__ = exc
    return error


class Sender(Protocol):
    """The way to the broker. The core calls ``submit`` one batch at a time and owns deadlines and retries."""

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """Hand the batch over, in its order for each key, and return; do not wait for the confirmations.

        Each event's result goes to ``report`` as soon as it is known, before or after this returns, so that one slow
        lane delays no other: a :class:`Receipt` only after durable acceptance, else :class:`Rejected` (not stored, do
        not retry), :class:`Unavailable` (not stored) or :class:`PublishOutcomeUnknown`. An event over the size limit
        is reported :class:`EventTooLarge` and not sent; it fails alone. If this raises a ``BrokerError``, the core
        takes it as the result of every event of the batch that was not reported. After a lost connection the sender
        connects again in the next ``submit``, or reports ``Unavailable``; the core waits between two tries.

        Never cancelled by the core but at close, after the drain time; then every event is unknown.
        """
        ...

    async def close(self) -> None:
        """Flush what was handed over, report it, and close. Idempotent. The core bounds its time."""
        ...


# --------------------------------------------------------------------------------------------------------- consume


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """What the broker keeps in order, held by one member: a partition, a queue, a pinned consumer.

    Compared by identity: a receiver makes one Lane each time it is assigned one, and names that object in every
    Inbound and Commit. The same lane taken again is another Lane, with a higher ``epoch``: what was received under
    the old one is stale.
    """

    name: str
    """Unique within the subscription, such as ``orders/3``."""
    epoch: int


class Inbound:
    """One delivery as the adapter received it. The core reads all fields and changes none."""

    __slots__ = (
        "attempts",
        "deliveries",
        "event",
        "headers",
        "inlet",
        "key",
        "lane",
        "not_before",
        "position",
        "raw",
        "token",
    )

    def __init__(
        self,
        event: Event[Any] | Foreign,
        lane: Lane,
        position: int,
        key: str | None,
        headers: Mapping[str, str],
        raw: Any,
        token: Any = None,
        attempts: int = 0,
        deliveries: int = 1,
        not_before: float | None = None,
        inlet: bool = False,
    ) -> None:
        self.event = event
        self.lane = lane
        self.position = position
        """Grows within the lane, in which no other delivery has the same; on a cumulative broker what :class:`Commit`
        counts in."""
        self.key = key
        """What orders it within the lane: the event's ``key``, else the broker's own key, else None. The core takes the
        hash of one that has more than 512 bytes of UTF-8."""
        self.headers = headers
        """Transport headers: those that are no CloudEvents attributes, names lower-case, as text. A header that the
        broker has without a value (null) is not among them."""
        self.raw = raw
        """The client's own record: ``delivery.raw``."""
        self.token = token
        """The adapter's own."""
        self.attempts = attempts
        """How often a handler of this group was started with it, as far as the broker keeps what :class:`Release`
        said; else 0 (the core reads its own header)."""
        self.deliveries = deliveries
        """The broker's own count of hand-overs, 1 for the first: a fuse only."""
        self.not_before = not_before
        """Seconds since the epoch before which it must not be handled; the core holds it until then."""
        self.inlet = inlet
        """Whether it came by the group's inlet (an :class:`Outbound` with a ``group``), where the library alone writes:
        only then does the core believe the headers of its own that stand beside it."""


class Ack:
    """This delivery is done: the broker forgets it for this group."""

    __slots__ = ("inbound",)

    def __init__(self, inbound: Inbound) -> None:
        self.inbound = inbound


class Release:
    """Give this delivery back: it is delivered again, to whichever member."""

    __slots__ = ("attempts", "delay", "failed", "inbound")

    def __init__(self, inbound: Inbound, attempts: int, delay: float = 0.0, failed: bool = False) -> None:
        self.inbound = inbound
        self.attempts = attempts
        """Handler starts so far; comes back as ``Inbound.attempts`` where ``release`` is native."""
        self.delay = delay
        """Seconds until it may be delivered again; more than 0 only where ``release`` is native."""
        self.failed = failed
        """True after a start that failed, False for one that was never started (shutdown, revoke).
        Several of one key given back together keep their order before what comes after them."""


class Commit:
    """For cumulative brokers: all of the lane below ``position`` is done; ``note`` is stored beside it."""

    __slots__ = ("lane", "note", "position")

    def __init__(self, lane: Lane, position: int, note: str) -> None:
        self.lane = lane
        self.position = position
        """The first position that is not done: where a new member begins."""
        self.note = note
        """At most 4,000 ASCII characters, given back in ``LaneListener.assigned``; may be empty."""


Settlement: TypeAlias = Ack | Release | Commit
"""PER_MESSAGE receivers are given Ack and Release; CUMULATIVE ones only Commit."""


class LaneListener(Protocol):
    """The core's ear for lanes. All calls come from the event loop's thread."""

    def assigned(self, lane: Lane, note: str = "") -> None:
        """The lane is this receiver's from now on. Called before the first event of it is received, and only once
        the order of what follows is certain (no older delivery of the lane is still out elsewhere). ``note`` is what
        the last commit stored."""
        ...

    async def revoked(self, lanes: Collection[Lane], /) -> None:
        """The lanes go to another member, which waits. The core starts nothing more from them, waits for the handlers
        in flight (at most ``context.drain`` seconds), settles through :meth:`Receiver.settle`, and forgets the rest.
        Returns when the adapter may let go. Raises nothing."""
        ...

    def lost(self, lanes: Collection[Lane], /) -> None:
        """The lanes are gone already: the core forgets them at once; settlements of them would be stale."""
        ...


class Receiver(Protocol):
    """A member of a group. Pull only: the core owns the only buffer and asks for what it has room for."""

    async def receive(self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float) -> Sequence[Inbound]:
        """Up to ``limit`` events (at least 1), in order within each lane, as soon as there is one.

        ``lanes``: only from these (the others are full); None: from all. Returns an empty sequence after ``timeout``
        seconds, or soon after :meth:`stop` (``capabilities.poll`` at most). What a lane's other events in the client's
        buffer are concerned, they stay there for a later call. Never cancelled by the core.

        A message that is no CloudEvent comes as an Inbound with a :class:`Foreign`, never as an exception. A raised
        ``BrokerError`` means that this receiver is dead: the core forgets its lanes, closes it and opens another
        after a back-off. What the client repairs by itself is not raised: return nothing meanwhile.
        """
        ...

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        """Settle, and return one result for each, in the same order: None, or :class:`LeaseLost` for what is not
        ours any more (a stale lane, a second settlement), or :class:`Unavailable`. Raises nothing.

        One call at a time, side by side with ``receive``; works after ``stop``. Not cancelled by the core but at the
        end of the drain time: what was in the call may then be delivered again.
        """
        ...

    async def give_back(self, lane: Lane, /) -> None:
        """Let another member have this lane, and queue up again for it behind the others. The core has drained and
        settled it. Adapters whose broker balances lanes by itself (``balance`` absent) do nothing."""
        ...

    async def stop(self) -> None:
        """Receive no more events, and let a ``receive`` under way return; lanes stay held and settling goes on.
        Idempotent."""
        ...

    async def close(self) -> None:
        """Leave the group. What was not settled goes back at once, in order, without counting as a failure.
        Idempotent; never raises for a connection that is gone already."""
        ...


# --------------------------------------------------------------------------------------------------------- adapter


class Adapter(Protocol):
    """The code that speaks one broker."""

    capabilities: Capabilities
    Settings: ClassVar[type[AdapterSettings]]

    @property
    def native(self) -> Any:
        """The client's own object: the way out. What it is stands in the adapter's README."""
        ...

    async def connect(self) -> None:
        """Reach the broker and authenticate; called once. ``Unavailable`` where it cannot be reached, ``ConfigError``
        where it refuses the name, the password or the certificate: within ``context.connect_timeout`` seconds.
        Cancellation leaves nothing open."""
        ...

    async def declare(self, topology: Topology, mode: Literal["create", "verify"], /) -> None:
        """Make each topic and group be there (``create``), or only check that they are (``verify``).

        Idempotent, safe from several processes at once, and never a silent change of what exists: another number of
        lanes, or another kind, is a ``ConfigError`` that names both and the recipe. A group that is made starts where
        its spec says, at this moment: what is published after this returned reaches it, consumer or not.
        ``verify`` raises ``ConfigError`` naming what is missing."""
        ...

    async def open_sender(self) -> Sender:
        """The way to the broker. The core opens one."""
        ...

    async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> Receiver:
        """Join the group. Fails with ``MissingGroup`` if the topic or group is not there."""
        ...

    async def close(self) -> None:
        """Close every connection; senders and receivers are closed already. Idempotent."""
        ...


@runtime_checkable
class TellsHindrance(Protocol):
    """A Sender that knows when the broker takes nothing from anybody: out of memory or disk."""

    @property
    def hindrance(self) -> str | None:
        """Why that is so now, in one sentence; None while it takes events. It goes into the errors of publishes whose
        deadline ends, and into ``bus.problems``."""
        ...


@runtime_checkable
class BoundsLanes(Protocol):
    """A Receiver whose broker hands over no more of a lane while so many of its events are out."""

    @property
    def window(self) -> int | None:
        """How many that are; None: as many as the core asks for. One key that fails stops its lane then: the core says
        so in ``bus.problems``."""
        ...


@runtime_checkable
class ExtendsLease(Protocol):
    """A Receiver whose deliveries have a lease (capability ``lease_extension``)."""

    async def extend(self, batch: Sequence[Inbound], /) -> Sequence[BrokerError | None]:
        """Extend the lease of each to ``context.lease`` seconds from now; called every third of it, from receipt to
        settlement, for queued deliveries too. ``LeaseLost`` for what is not ours any more."""
        ...


@dataclass(frozen=True)
class Backlog:
    """What waits for a group."""

    waiting: int
    """Events not yet delivered to any member."""
    in_flight: int
    """Events delivered and not settled; on cumulative brokers 0 (they count as waiting until committed)."""

    @property
    def lag(self) -> int:
        """All that is not done: waiting and in flight."""
        return self.waiting + self.in_flight


@runtime_checkable
class ReportsBacklog(Protocol):
    """An Adapter that can count (capability ``backlog``)."""

    async def backlog(self, topic: str, group: str, /) -> Backlog:
        """What waits for the group now, its inlet included. ``MissingGroup`` where there is none: a mistyped name must
        not read as "nothing waits"."""
        ...


@runtime_checkable
class Replays(Protocol):
    """An Adapter whose topics keep what was consumed (capability ``seek``)."""

    async def seek(self, topic: str, group: str, to: Start, /) -> None:
        """Move the group, which must have no members now, to the start, the end or a moment. ``ConfigError`` if it
        has members or the topic does not reach back that far, ``MissingGroup`` if it is not there."""
        ...


@runtime_checkable
class ListsGroups(Protocol):
    """An Adapter that can list what is there. No capability: it only makes the core's errors say more."""

    async def groups(self) -> Mapping[str, Collection[str]]:
        """The topics that the broker has, each with its groups; dead-letter topics are topics like others. What is not
        anybroker's is left out where that can be told. Asked only to name what is near a mistyped name."""
        ...


@runtime_checkable
class BalancesLanes(Protocol):
    """A Receiver whose broker leaves every lane with the first member (capability ``balance``)."""

    @property
    def lanes(self) -> int:
        """How many lanes the group has, whoever holds them."""
        ...

    async def members(self) -> int:
        """How many members the group has now, this one included."""
        ...

"""The interface between the core and a broker: the one file that the author of an adapter reads.

``docs/glossary.md`` defines the words used here: lane, slot, inlet, settle, lease, note, position, epoch, foreign.

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
from time import time
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
    "HistoryPage",
    "Inbound",
    "Inspects",
    "Lane",
    "LaneListener",
    "ListsGroups",
    "Outbound",
    "Peek",
    "Peeked",
    "ReadsHistory",
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
    "age_since",
    "bounded_key",
    "check_size",
    "count_of",
    "murmur2",
    "number_of",
    "slot_of",
    "unwritable",
]

DEFAULT_LANES = 4
"""Lanes of a new topic when no number is configured."""

SLOTS = 64
"""How many slots ordering keys map to, on every broker where the publisher must name one."""

RESERVED_BYTES = 8 * 1024
"""Bytes of the broker's size limit that an ordinary publish leaves free for what a dead letter adds."""

SECURITY: JsonDict = {"security": True}
"""Marks a setting: ``Field(json_schema_extra=SECURITY)``; see :class:`AdapterSettings`."""
_MOST = 1_000_000
"""Handler starts, or replays, of one event."""
_MOST_DIGITS = len(str(_MOST))

Start: TypeAlias = Literal["new", "earliest"] | datetime
"""Where a group that does not exist yet begins."""


def count_of(value: object) -> int:
    """The number of handler starts or replays in a header or a note, as text or as a number; 0 for a value that the
    library never writes, which another program may have put there."""
    if isinstance(value, str):
        value = number_of(value, _MOST_DIGITS)
    return value if type(value) is int and 0 < value <= _MOST else 0


def number_of(text: str, digits: int) -> int | None:
    """The number that a text of at most this many ASCII digits says; None for any other text. ``int`` takes more:
    signs, spaces, underscores, the digits of other scripts, and as many as there are."""
    return int(text) if len(text) <= digits and text.isascii() and text.isdigit() else None


def murmur2(data: bytes) -> int:
    """The 32-bit murmur2 hash that the most widely used Java client partitions by, as an unsigned number."""
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
"""Most UTF-8 bytes of a key whose slot is remembered: the whole memory takes 20 MB at most."""
_slots: dict[str, int] = {}


def slot_of(key: str) -> int:
    """The slot, 0 to 63, of an ordering key: murmur2 over its UTF-8 bytes, as a positive number, modulo 64.

    A key of more than 512 bytes, which only other programs send, has the slot of its hash
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
    """A broker's URL, taken apart. Its ``str`` and ``repr`` never show the password or the options, which may hold
    secrets."""

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
    A setting that could weaken TLS or lead to another server, or that names credentials or files, is marked with
    ``Field(json_schema_extra=SECURITY)``: a file that another user may have written cannot set it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class AdapterContext:
    """What the core tells every adapter."""

    service: str
    """The service's name, the same in all its replicas. For client ids and connection names."""
    instance: str
    """Unique to this Bus. For member ids and owners of claims."""
    lease: float = 20.0
    """Seconds after which the events of a crashed member go to another."""
    publish_deadline: float = 30.0
    """Seconds after which the core gives up on a publish; an adapter sets its client's own time-out below it."""
    connect_timeout: float = 10.0
    """Seconds after which the core gives up on ``connect``."""
    drain: float = 25.0
    """Seconds that the handlers of a revoked lane have to finish."""
    deduplication_key: bytes = field(default=b"", repr=False)
    """A secret of at most 64 bytes, which the adapter passes to :meth:`Outbound.deduplication_id`."""


@dataclass(frozen=True)
class GroupSpec:
    """A group of a topic."""

    name: str
    ordered: bool = True
    start: Start = "new"


@dataclass(frozen=True)
class TopicSpec:
    """A topic and its groups, which exist after :meth:`Adapter.declare`."""

    name: str
    groups: tuple[GroupSpec, ...] = ()
    ordered: bool = True
    lanes: int = DEFAULT_LANES
    """The number of lanes of the topic, or of each of its groups."""
    default_lanes: bool = False
    """Whether ``lanes`` is only the default: a new topic gets that number, and an existing topic keeps the one it
    has."""
    retention: float | None = None
    """Seconds for which events are kept; None: the broker's default; ``inf``: as long as the broker can."""


@dataclass(frozen=True)
class Topology:
    """Everything that a Bus needs to exist. Dead-letter topics are ordinary topics with the group ``dlq``."""

    topics: tuple[TopicSpec, ...]


@dataclass(frozen=True)
class SubscriptionSpec:
    """What one receiver joins: a group of a topic, with its options."""

    topic: str
    group: str
    ordered: bool
    lanes: int
    start: Start
    prefetch: int
    """The most events that the core asks for at once; a push client buffers no more than this."""


# --------------------------------------------------------------------------------------------------------- publish


class Foreign:
    """A message that is not a CloudEvent, as it arrived: its body and headers byte for byte, and what is wrong with it.

    A header's value is None where the broker has headers without a value (null). A broker without such headers writes
    it as an empty value.
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
        """The broker's own key, by which it is ordered; like an event's key, its hash if it has more than 512 bytes."""
        self.reason = reason
        if reason is not None:  # its frames would keep everything that was read alive until the garbage collector runs
            reason.__traceback__ = reason.__context__ = None

    def without_headers(self) -> Foreign:
        """Only its body, for when nothing else fits. A subclass that keeps more of the original drops that too."""
        return Foreign(self.body, (), self.key, self.reason)

    def __repr__(self) -> str:
        size = "no body" if self.body is None else f"{len(self.body)} bytes"
        return f"Foreign({size}, {len(self.headers)} headers)"


class Outbound:
    """One event on its way to a topic, or to one group of it.

    Adapters read the attributes from ``event`` to ``reserve``, and pass the object to ``report``. ``token`` is the
    core's.
    """

    __slots__ = ("event", "group", "headers", "hop", "not_before", "reserve", "stored", "token", "topic")

    stored: float
    """When an adapter that keeps this very object has stored it, in seconds since the epoch; only that adapter sets and
    reads it."""

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
        """The group to whose inlet it goes; None: to all groups of the topic."""
        self.headers = headers
        """Transport headers to send with the event, names in lower case; None: none."""
        self.not_before = not_before
        """Seconds since the epoch before which it must not be delivered; None: at once. An adapter that cannot hold it
        that long, or that exactly, sends the time along and gives it back as ``Inbound.not_before``. At a group's inlet
        the core writes it into its own header, and holds the event after receipt."""
        self.hop = hop
        """Distinguishes a dead letter, a replay or a delayed copy from the original, and from copies of other
        deliveries, in the broker's own deduplication."""
        self.reserve = reserve
        """Bytes of the broker's size limit that must stay free."""
        self.token = token

    @property
    def key(self) -> str | None:
        """The ordering key, at most 512 bytes of UTF-8: :attr:`anybroker.Event.key`."""
        return self.event.key

    @property
    def is_dead_letter(self) -> bool:
        """Whether it is a dead letter. A broker that blocks a key while one of its events is in flight need not do so
        here: a reader of dead letters wants to see all events of a key, and sorts them by time."""
        return self.hop.startswith("dead|")

    @property
    def is_copy(self) -> bool:
        """Whether the broker has stored it before: a dead letter, a replay or a delayed copy. Only the broker's own
        limits apply to it, never a lower one from the settings."""
        return bool(self.hop)

    @property
    def may_change_mode(self) -> bool:
        """Whether it may be written in the other content mode if it is too large in the configured one. True for a copy
        of an event, which may have arrived in that mode: escapes, base64 and percent encoding can make it larger."""
        return bool(self.hop) and not isinstance(self.event, Foreign)

    def deduplication_id(self, key: bytes = b"") -> str:
        """A hash of source, id and hop, 32 hexadecimal digits, for brokers that drop copies by id.

        The id itself will not do: such a broker remembers consumed ids, and would drop the dead letter or the replay.
        ``key``: :attr:`AdapterContext.deduplication_key`; nobody can compute the hash in advance without it.
        """
        event = self.event
        if isinstance(event, Foreign):
            text = f"\x00\x00{self.hop}"
            hop = blake2b(text.encode(), digest_size=32, key=key).digest()
            return blake2b(event.body or b"", digest_size=16, key=hop).hexdigest()
        text = f"{event.source}\x00{event.id}\x00{self.hop}"
        return blake2b(text.encode(), digest_size=16, key=key).hexdigest()


class Receipt:
    """The broker's confirmation that an event is durably stored."""

    __slots__ = ("broker_id", "duplicate", "event", "topic")

    def __init__(self, topic: str, broker_id: str, event: Event[Any] | None = None, duplicate: bool = False) -> None:
        self.topic = topic
        self.broker_id = broker_id
        """The broker's own name for the stored event, such as partition and offset, or a sequence number."""
        self.event = event
        """The event as it was published; filled by the core."""
        self.duplicate = duplicate
        """Whether the broker reports that it already had the event, and stored nothing."""

    def __repr__(self) -> str:
        return f"Receipt(topic={self.topic!r}, broker_id={self.broker_id!r}, duplicate={self.duplicate})"


Report = Callable[[Outbound, "Receipt | BrokerError"], None]
"""Synchronous, from the event loop's thread, exactly once for each event of a batch."""


def check_size(outbound: Outbound, size: int, limit: int, most: float | None = None) -> EventTooLarge | None:
    """The error to report if ``size`` bytes on the wire are over ``limit`` less the event's reserve, else None.

    ``most``: the broker's own limit, where ``limit`` is a setting that may be lower (``inf`` if it is unknown). Only
    this limit applies to an event that the broker has stored before. The core trims a dead letter by ``size - limit``
    of the error, so both must be exact.
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
    """The error to report for an event that could not be written as a ``what`` (``record``, ``message``). It fails
    alone, whatever was raised, and not the other events of its batch."""
    error = Rejected(f"an event for topic {outbound.topic!r} cannot be written as a {what}: {exc!r}")
    error.__cause__ = exc
    return error


class Sender(Protocol):
    """The way to the broker. The core calls ``submit`` one batch at a time and owns deadlines and retries."""

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """Hand the batch over, keeping its order for each key, and return without waiting for the confirmations.

        Each event's result goes to ``report`` as soon as it is known, before or after this returns, so that a slow
        lane does not delay the others: a :class:`Receipt` only after durable acceptance, else :class:`Rejected` (not
        stored, do not retry), :class:`Unavailable` (not stored) or :class:`PublishOutcomeUnknown`. An event over the
        size limit is reported as :class:`EventTooLarge` and not sent; it fails alone. If this raises a ``BrokerError``,
        that is the result of every event of the batch that was not reported. After a lost connection the sender
        reconnects in the next ``submit``, or reports ``Unavailable``; the core waits between attempts.

        The core cancels it only at close, after the drain time; the outcome of every event is then unknown.
        """
        ...

    async def close(self) -> None:
        """Flush what was handed over, report it, and close. Idempotent. The core limits how long it waits."""
        ...


# --------------------------------------------------------------------------------------------------------- consume


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """What the broker keeps in order, held by one member: a partition, a queue, a pinned consumer.

    Compared by identity: a receiver makes a new Lane for each assignment, and puts that object in every Inbound and
    Commit. The same lane assigned again is another Lane with a higher ``epoch``: what was received under the old one is
    stale.
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
        """Unique and increasing within the lane; on a cumulative broker the unit of :class:`Commit`."""
        self.key = key
        """The key that orders it within the lane: the event's ``key``, else the broker's own key, else None. The core
        uses the hash of a key with more than 512 bytes of UTF-8."""
        self.headers = headers
        """Transport headers as text, names in lower case, without the CloudEvents attributes and without headers that
        have no value (null)."""
        self.raw = raw
        """The client's own record: ``delivery.raw``."""
        self.token = token
        """For the adapter's own use."""
        self.attempts = attempts
        """How often a handler of this group was started with it, if the broker keeps the count that :class:`Release`
        gave; else 0 (the core reads its own header)."""
        self.deliveries = deliveries
        """The broker's own count of deliveries, 1 for the first. Used only to stop an event that kills the process."""
        self.not_before = not_before
        """Seconds since the epoch before which it must not be handled; the core holds it until then."""
        self.inlet = inlet
        """Whether it came through the group's inlet (an :class:`Outbound` with a ``group``), where only the library
        writes. Only then does the core trust the library's own headers on it."""


class Ack:
    """This delivery is done: the broker forgets it for this group."""

    __slots__ = ("inbound",)

    def __init__(self, inbound: Inbound) -> None:
        self.inbound = inbound


class Release:
    """Give this delivery back: it is delivered again, to any member."""

    __slots__ = ("attempts", "delay", "failed", "inbound")

    def __init__(self, inbound: Inbound, attempts: int, delay: float = 0.0, failed: bool = False) -> None:
        self.inbound = inbound
        self.attempts = attempts
        """Handler starts so far; returned as ``Inbound.attempts`` where ``release`` is native."""
        self.delay = delay
        """Seconds until it may be delivered again; more than 0 only where ``release`` is native."""
        self.failed = failed
        """True after a start that failed, False for one that was never started (shutdown, revoke).
        Several of one key given back together keep their order before what comes after them."""


class Commit:
    """For cumulative brokers: everything in the lane below ``position`` is done; ``note`` is stored with it."""

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
    """What the core wants to know about lanes. All calls come from the event loop's thread."""

    def assigned(self, lane: Lane, note: str = "") -> None:
        """The lane belongs to this receiver from now on. Called before its first event is received, and only once the
        order of what follows is certain (no member still has an older delivery of the lane). ``note`` is what the last
        commit stored."""
        ...

    async def revoked(self, lanes: Collection[Lane], /) -> None:
        """The lanes go to another member, which is waiting. The core starts nothing more from them, waits for the
        handlers in flight (at most ``context.drain`` seconds), settles through :meth:`Receiver.settle`, and forgets the
        rest. Returns when the adapter may release the lanes. Raises nothing."""
        ...

    def lost(self, lanes: Collection[Lane], /) -> None:
        """The lanes are gone already. The core forgets them at once; settling anything of theirs would be stale."""
        ...


class Receiver(Protocol):
    """A member of a group. Pull only: the core owns the only buffer and asks for what it has room for."""

    async def receive(self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float) -> Sequence[Inbound]:
        """Up to ``limit`` events (at least 1), in order within each lane, as soon as there is one.

        ``lanes``: only from these (the others are full); None: from all. Returns an empty sequence after ``timeout``
        seconds, or soon after :meth:`stop` (within ``capabilities.poll``). Events of other lanes stay in the client's
        buffer for a later call. Never cancelled by the core.

        A message that is not a CloudEvent is returned as an Inbound with a :class:`Foreign`, never as an exception. A
        raised ``BrokerError`` means that this receiver is dead: the core forgets its lanes, closes it, and opens
        another after a backoff. Do not raise for what the client repairs by itself: return nothing until it has.
        """
        ...

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        """Settle, and return one result for each, in the same order: None, :class:`LeaseLost` for a delivery that this
        member no longer has (a stale lane, a second settlement), or :class:`Unavailable`. Raises nothing.

        One call at a time, concurrent with ``receive``; works after ``stop``. The core cancels it only at the end of
        the drain time: its deliveries may then come again.
        """
        ...

    async def give_back(self, lane: Lane, /) -> None:
        """Let another member have this lane, and queue for it again behind the others. The core has drained and settled
        it. Adapters whose broker balances lanes by itself (``balance`` absent) do nothing."""
        ...

    async def stop(self) -> None:
        """Receive no more events, and let a ``receive`` in progress return. The lanes stay assigned, and settling still
        works. Idempotent."""
        ...

    async def close(self) -> None:
        """Leave the group. Unsettled deliveries go back at once, in order, without counting as failures. Idempotent;
        never raises for a connection that is already gone."""
        ...


# --------------------------------------------------------------------------------------------------------- adapter


class Adapter(Protocol):
    """The code that speaks one broker."""

    capabilities: Capabilities
    Settings: ClassVar[type[AdapterSettings]]

    @property
    def native(self) -> Any:
        """The client's own object, for what this interface does not cover. The adapter's README says what it is."""
        ...

    async def connect(self) -> None:
        """Connect and authenticate, within ``context.connect_timeout`` seconds; called once. ``Unavailable`` if the
        broker cannot be reached, ``ConfigError`` if it refuses the name, the password or the certificate. Cancellation
        leaves nothing open."""
        ...

    async def declare(self, topology: Topology, mode: Literal["create", "verify"], /) -> None:
        """Create each topic and group that is missing (``create``), or only check that they exist (``verify``).

        Idempotent, and safe from several processes at once. Never changes what exists: a different number of lanes, or
        a different kind, is a ``ConfigError`` that names both and says what to do. A new group starts where its spec
        says, at this moment: what is published after this returns reaches it, even before it has a consumer.
        ``verify`` raises a ``ConfigError`` that names what is missing."""
        ...

    async def open_sender(self) -> Sender:
        """The way to the broker. The core opens one."""
        ...

    async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> Receiver:
        """Join the group. Raises ``MissingGroup`` if the topic or group does not exist."""
        ...

    async def close(self) -> None:
        """Close every connection; senders and receivers are closed already. Idempotent."""
        ...


@runtime_checkable
class TellsHindrance(Protocol):
    """A Sender or Receiver that knows when the broker accepts, or hands over, nothing: it is out of memory or disk, or
    the connection is lost, and this object goes on once the client has made it again."""

    @property
    def hindrance(self) -> str | None:
        """Why nothing is accepted, or handed over, now, in one sentence; None while it is. Shown in ``bus.problems``,
        and in the errors of publishes that miss their deadline. Meanwhile the Bus is not ready."""
        ...


@runtime_checkable
class BoundsLanes(Protocol):
    """A Receiver whose broker hands over no more of a lane once a number of its events is unsettled."""

    @property
    def window(self) -> int | None:
        """That number; None: as many as the core asks for. A single failing key can then stop its lane, and the core
        says so in ``bus.problems``."""
        ...


@runtime_checkable
class ExtendsLease(Protocol):
    """A Receiver whose deliveries have a lease (capability ``lease_extension``)."""

    async def extend(self, batch: Sequence[Inbound], /) -> Sequence[BrokerError | None]:
        """Extend the lease of each to ``context.lease`` seconds from now. Called every third of that time, from receipt
        to settlement, also for queued deliveries. ``LeaseLost`` for a delivery that this member no longer has."""
        ...


@dataclass(frozen=True)
class Backlog:
    """What waits for a group."""

    waiting: int
    """Events not yet delivered to any member."""
    in_flight: int
    """Events delivered and not settled; on cumulative brokers 0 (they count as waiting until committed)."""
    age: float | None = None
    """Seconds since the broker stored the oldest event that the group has not finished, its inlet included; 0.0 where
    nothing waits; None where the broker cannot say (capability ``backlog_age``).

    It is the moment that the broker keeps (Kafka: the record's timestamp, which the publishing client or the server
    sets), never the event's own ``time``, against this machine's clock, and never negative. An event that was published
    with a delay counts from the end of the delay on. One that was given back for a later try counts from when it was
    first stored; or, where the library sends a copy to the inlet (capability ``release`` is emulated), from when the
    broker stored the copy."""

    exact: bool = True
    """False: the broker's counts may be behind what was just stored or settled, so that 0 need not mean that nothing is
    there."""

    @property
    def lag(self) -> int:
        """Everything that is not done: waiting and in flight."""
        return self.waiting + self.in_flight


def age_since(stored: float | None) -> float:
    """:attr:`Backlog.age` of what was stored at that moment, in seconds since the epoch; None: nothing waits."""
    return 0.0 if stored is None else max(0.0, time() - stored)


@runtime_checkable
class ReportsBacklog(Protocol):
    """An Adapter that can count (capability ``backlog``), and tell the age (capability ``backlog_age``)."""

    async def backlog(self, topic: str, group: str, /) -> Backlog:
        """What waits for the group now, including its inlet. ``MissingGroup`` if it does not exist: a mistyped name
        must not look like an empty backlog. Asked every few seconds: it takes, moves and locks nothing."""
        ...


@runtime_checkable
class Replays(Protocol):
    """An Adapter whose topics keep what was consumed (capability ``seek``)."""

    async def seek(self, topic: str, group: str, to: Start, /) -> None:
        """Move the group, which must have no members now, to the start, the end or a point in time. ``ConfigError`` if
        it has members or the topic does not reach back that far, ``MissingGroup`` if it does not exist."""
        ...


@runtime_checkable
class ListsGroups(Protocol):
    """An Adapter that can list its topics and groups. Not a capability: it only makes the core's errors more
    helpful."""

    async def groups(self) -> Mapping[str, Collection[str]]:
        """The broker's topics with their groups, dead-letter topics included. Topics that are not anybroker's are left
        out where they can be recognised. Called only to suggest names when one is mistyped."""
        ...


@dataclass(frozen=True, slots=True)
class Peeked:
    """One stored event, as :class:`Inspects` shows it. Nobody has received it by that."""

    event: Event[Any] | Foreign
    lane: str
    """Part of the topic in which positions are in order, such as ``orders/3``."""
    position: int
    """Grows within the lane, in which no other event has the same."""
    key: str | None
    """As ``Inbound.key``."""
    headers: Mapping[str, str]
    """As ``Inbound.headers``."""
    stored: float | None = None
    """When the broker stored it, in seconds since the epoch; None where it does not say."""
    raw: Any = field(default=None, repr=False)
    """The client's own record, as ``delivery.raw``."""


@dataclass(frozen=True, slots=True)
class Peek:
    """What one call of :meth:`Inspects.peek` found."""

    events: Sequence[Peeked]
    exact: bool = True
    """False: the broker cannot tell which of these the group has settled already, so some of them may be."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """On a cumulative broker, for each lane of a group, the note of its last commit: the core leaves out what it names
    as finished. Elsewhere empty."""


@runtime_checkable
class Inspects(ListsGroups, Protocol):
    """An Adapter that can look without touching (capability ``inspect``).

    Nothing is joined, settled, locked or moved: positions, leases, delivery counts, backlog and members of every group
    are the same afterwards, and no delivery that is in flight is disturbed."""

    async def members(self, topic: str, group: str, /) -> int | None:
        """How many members the group has now; None where the broker cannot tell. ``MissingGroup`` if it is not
        there."""
        ...

    async def peek(
        self, topic: str, /, *, group: str | None, limit: int, newest: bool, beyond: Mapping[str, int]
    ) -> Peek:
        """Up to ``limit`` stored events (at least 1): oldest first, or newest first, in the order of positions within
        each lane and, where the broker says when it stored them, of time between lanes.

        ``group`` None: the events of the topic, without those for one group only; of a broker that keeps nothing once
        it is consumed, those that some group has not settled. Else what this group has not settled, waiting or in
        flight, its inlet included. Events that are held back until a later time may be left out.

        ``beyond``: by lane, the position of the last event that was seen; only what comes after it in the order asked
        for is returned. ``MissingGroup`` if the topic or the group is not there.
        """
        ...


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """What one call of :meth:`ReadsHistory.read_history` found."""

    events: Sequence[Peeked]
    following: int
    """The position where the next page begins."""


@runtime_checkable
class ReadsHistory(Protocol):
    """An Adapter that can read again what a topic keeps, whether it was consumed or not (capability ``history``).

    As with :class:`Inspects`, nothing is joined, settled, locked or moved. Events for one group only (its inlet) are
    not part of a topic's history."""

    async def history_extent(
        self, topic: str, /, *, since: datetime | None, until: datetime | None
    ) -> Mapping[str, tuple[int, int]]:
        """For each lane of the topic, the positions from the first to read up to, and not including, the second.

        The first is that of the first event stored at ``since`` or later, None: of the first one that is kept. The
        second is that of the first event stored at ``until`` or later; None, or a moment that nothing was stored after:
        that of the next event to be stored. Both are the same where there is nothing between. Moments are those that
        the broker keeps, as for :attr:`Backlog.age`. ``MissingGroup`` if the topic is not there.
        """
        ...

    async def read_history(self, topic: str, lane: str, begin: int, end: int, limit: int, /) -> HistoryPage:
        """The events of one lane from position ``begin`` on, before ``end``, in order: about ``limit`` (at least 1), or
        more where they have been read anyway.

        A page may have fewer events, or none, although more follow: ``following`` says where to go on, and is ``end``
        or more when nothing is left. Positions without an event, such as what was deleted, are passed over. Reading a
        lane page by page takes time in proportion to its length."""
        ...


@runtime_checkable
class BalancesLanes(Protocol):
    """A Receiver whose broker leaves every lane with the first member (capability ``balance``)."""

    @property
    def lanes(self) -> int:
        """The group's number of lanes, whichever members hold them."""
        ...

    async def members(self) -> int:
        """How many members the group has now, this one included."""
        ...

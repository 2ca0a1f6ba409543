"""Every error that anybroker raises, as one tree::

    AnybrokerError
    ├── ConfigError                 a setting, a handler's signature or a name is wrong; raised before anything is sent
    │   ├── CapabilityError         the broker cannot do what was asked for
    │   └── MissingGroup            the group or the topic does not exist
    ├── EventError                  (also a ValueError) the event itself is wrong
    │   ├── InvalidEvent            an attribute or the wire form breaks CloudEvents 1.0
    │   ├── EncodeError             the payload cannot be serialised
    │   └── DecodeError             the data cannot be decoded or validated; never retried
    ├── StateError                  the Bus is not started, or is closed already
    ├── BrokerError                 the broker, or the way to it, failed
    │   ├── Rejected                not stored, and sending it again will not help
    │   │   └── EventTooLarge       over the broker's size limit (raised before sending)
    │   ├── Unavailable             not stored, may be sent again
    │   │   ├── StoreUnavailable    the idempotency store cannot be reached or written (anybroker.idempotency)
    │   │   ├── TransactionConflict the database undid a handler's transaction: it runs again (anybroker.idempotency)
    │   │   └── OutboxUnavailable   the outbox's table cannot be reached or written (anybroker.outbox)
    │   ├── PublishOutcomeUnknown   may be stored: publish it again under the same id
    │   └── LeaseLost               a settlement came too late: another member has the event
    │       └── ClaimLost           another owner has the event's claim (anybroker.idempotency)
    └── DeliveryError               why an event was dead-lettered, if its handler raised no exception that says so
        ├── AttemptsExhausted       the handler asked for another attempt, and none is left
        ├── ExpiredError            its expirytime has passed
        ├── TooManyHops             too many handlers stand between it and what started it (max_hops)
        ├── UnhandledError          no handler takes events of its type
        ├── ParkedError             an earlier event of its key is set aside, and it waits behind that one
        ├── PoisonedError           the broker delivered it so often that it may be what kills the process
        └── HandlerExit             the handler raised what ends a program, a task or a generator

Three more are not failures of the library. A handler raises them to say what should happen::

    Reject          dead-letter this event now, with this reason
    Retry           deliver it again, after this many seconds
    BatchFailed     these items of the batch failed
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, TypeAlias

__all__ = [
    "AnybrokerError",
    "AttemptsExhausted",
    "BatchFailed",
    "BrokerError",
    "CapabilityError",
    "ConfigError",
    "DecodeError",
    "DeliveryError",
    "EncodeError",
    "EventError",
    "EventTooLarge",
    "ExpiredError",
    "HandlerExit",
    "InvalidEvent",
    "LeaseLost",
    "MissingGroup",
    "ParkedError",
    "PoisonedError",
    "PublishOutcomeUnknown",
    "Reject",
    "Rejected",
    "Retry",
    "StateError",
    "TooManyHops",
    "Unavailable",
    "UnhandledError",
]


class AnybrokerError(Exception):
    """The root of the tree: catch it to catch everything that the library raises."""


class ConfigError(AnybrokerError):
    """A setting, a name or a signature is wrong.

    Raised before anything is sent. ``setting`` names the setting, ``problem`` says what is wrong with it, and
    ``remedy`` says how to fix it; the text has all three.
    """

    def __init__(self, setting: str, problem: str, remedy: str = "") -> None:
        self.setting = setting
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{setting}: {problem}" + (f". {remedy}" if remedy else ""))


class CapabilityError(ConfigError):
    """A setting asks for a capability that the adapter declares absent; ``capability`` is its name."""

    def __init__(self, adapter: str, capability: str, setting: str, remedy: str) -> None:
        self.adapter = adapter
        self.capability = capability
        super().__init__(setting, f"the {adapter} adapter has no {capability!r}", remedy)


class MissingGroup(ConfigError):
    """The broker has no such group, or no such topic."""


class EventError(AnybrokerError, ValueError):
    """The event is wrong, whatever the broker."""


class InvalidEvent(EventError):
    """An attribute, or the form of a message, breaks CloudEvents 1.0. ``attribute`` names the attribute, if any."""

    def __init__(self, message: str, *, attribute: str | None = None) -> None:
        self.attribute = attribute
        super().__init__(message)


class EncodeError(EventError):
    """The payload cannot be turned into bytes; nothing was sent."""


class DecodeError(EventError):
    """The event's data cannot be decoded, or does not validate. It is dead-lettered at once and never retried."""


class StateError(AnybrokerError, RuntimeError):
    """The Bus is in the wrong state for this call: not started, or closed."""


class BrokerError(AnybrokerError):
    """The broker, or the way to it, failed; the client's exception is the ``__cause__``."""


class Rejected(BrokerError):
    """The broker refused the event: it is not stored, and sending it again will not help."""


class EventTooLarge(Rejected):
    """The event is larger than the broker's limit, less the 8 KiB that are kept free for a dead letter.

    Raised before anything is sent. ``size`` and ``limit`` are in bytes.
    """

    def __init__(self, message: str, *, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(message)


class Unavailable(BrokerError):
    """The broker could not be reached, or could not accept the event now: not stored, may be sent again."""


class UnconfirmedEvent(Protocol):
    """The event of a :class:`PublishOutcomeUnknown`, an :class:`anybroker.Event`: what identifies it."""

    @property
    def id(self) -> str:
        """Its CloudEvents ``id``."""
        ...

    @property
    def source(self) -> str:
        """Its CloudEvents ``source``."""
        ...

    @property
    def type(self) -> str:
        """Its CloudEvents ``type``."""
        ...

    @property
    def key(self) -> str | None:
        """Its ordering key."""
        ...


class PublishOutcomeUnknown(BrokerError):
    """The event may or may not be stored: a time-out, or a connection lost before the confirmation.

    ``event`` is the event, if it is known. Publish it again, under the same id: the consumer's idempotency, or the
    broker's own deduplication, then drops the copy.
    """

    def __init__(self, message: str, *, event: UnconfirmedEvent | None = None) -> None:
        self.event = event
        super().__init__(message)


class LeaseLost(BrokerError):
    """A settlement came after the lease ran out, or the lane went to another member. Counted, never fatal."""


class DeliveryError(AnybrokerError):
    """Why an event was dead-lettered, if its handler raised no exception that says so. Seen in a dead letter's
    reason."""


class AttemptsExhausted(DeliveryError):
    """The handler asked for another attempt, and none is left: of a number, or ``within`` so many seconds."""

    def __init__(self, attempts: int | None, reason: str, *, within: float | None = None) -> None:
        left = f"of {attempts}" if within is None else f"within {within:g} s of the first failure"
        super().__init__(f"no attempt left {left}: {reason}")


class ExpiredError(DeliveryError):
    """The event's ``expirytime`` has passed, or passes before its next start."""

    def __init__(self, moment: str, *, wait: float | None = None) -> None:
        """``wait``: seconds until that start."""
        super().__init__(
            f"the event expired at {moment}"
            if wait is None
            else f"the event expires at {moment}, before its next start in {wait:.1f} s"
        )


class TooManyHops(DeliveryError):
    """The event goes back to more handlers than ``max_hops``: services probably answer each other for ever."""

    def __init__(self, hops: int, limit: int, correlation: object, cause: object, path: object) -> None:
        way = f", by way of {path}" if path else ""
        super().__init__(
            f"{hops} handlers in a row led to this event, more than max_hops={limit}: correlationid {correlation!r}, "
            f"causationid {cause!r}{way}"
        )


class UnhandledError(DeliveryError):
    """No handler takes events of this type."""

    def __init__(self, type_: str) -> None:
        super().__init__(f"no handler of the subscription takes events of type {type_!r}")


class ParkedError(DeliveryError):
    """The event's key is parked (``dead_letter(then="park")``): an earlier one was dead-lettered, and this one was set
    aside behind it, without a start."""

    def __init__(self, first: str) -> None:
        super().__init__(f"parked behind {first}")


class PoisonedError(DeliveryError):
    """The broker delivered the event so often that it probably kills the process."""

    def __init__(self, deliveries: int) -> None:
        super().__init__(f"delivered {deliveries} times without being finished: it may be what kills the process")


def text_of(error: object) -> str:
    """The text of an exception or another object, even if its own ``__str__`` fails: that error must not replace the
    original one."""
    try:
        return str(error)
    except KeyboardInterrupt:  # a signal came just now
        raise
    except BaseException as exc:  # noqa: BLE001 - it is the user's class
        return f"(its text cannot be made: {type(exc).__name__})"


_CAUSE: Any = vars(BaseException)["__cause__"]
_TRACEBACK: Any = vars(BaseException)["__traceback__"]
_CONTEXT: Any = vars(BaseException)["__context__"]
_SUPPRESSED: Any = vars(BaseException)["__suppress_context__"]


ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]


def exc_info_of(error: BaseException) -> ExcInfo:
    """For ``exc_info=`` of a log call, which asks an exception whether it is true and leaves out one that is not."""
    return type(error), error, _TRACEBACK.__get__(error)


def cause_of(error: BaseException) -> BaseException | None:
    """What it was raised from, whatever its own class makes of that name, and also where that counts as false."""
    cause: BaseException | None = _CAUSE.__get__(error)
    return cause


def origin_of(error: BaseException) -> BaseException | None:
    """What a traceback shows before it: its cause, or else what was being handled when it was raised."""
    cause = cause_of(error)
    if cause is None and not _SUPPRESSED.__get__(error):
        cause = _CONTEXT.__get__(error)
    return cause


class HandlerExit(DeliveryError):
    """The handler raised something that is not an ``Exception``, such as ``SystemExit`` or a ``CancelledError`` that
    the engine did not request, or something that a coroutine cannot raise, such as ``StopIteration``. That is the
    ``__cause__``. The start counts as failed, and the program continues."""

    def __init__(self, where: str, raised: BaseException) -> None:
        text = text_of(raised)
        super().__init__(f"{where} raised {type(raised).__name__}" + (f": {text}" if text else ""))
        self.__cause__ = raised


class Reject(Exception):
    """Raised by a handler: dead-letter this event now, for this reason; do not retry it."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Retry(Exception):
    """Raised by a handler or a middleware: this start did not succeed, run it again.

    ``after`` is the wait in seconds; None leaves it to the retry middleware's backoff. The start counts as an attempt.
    """

    counted = True
    """Whether the start counts as an attempt; False only if the library put the event off."""

    def __init__(self, after: float | None = None, reason: str = "asked for by the handler") -> None:
        if after is not None and not 0 <= after < float("inf"):
            raise ConfigError("Retry(after=)", f"{after!r} is not a number of seconds of 0 or more")
        self.after = after
        self.reason = reason
        super().__init__(reason)


class BatchFailed(Exception):
    """Raised by a batch handler: the items at these indexes failed, each with its exception; the others are done."""

    def __init__(self, failures: Mapping[int, Exception]) -> None:
        if not failures:
            raise ConfigError("BatchFailed(failures)", "is empty", "Return from the handler when nothing failed.")
        self.failures = dict(failures)
        super().__init__(f"{len(self.failures)} of the batch failed")

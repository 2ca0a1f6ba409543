"""Every error that anybroker raises, as one tree::

    AnybrokerError
    ├── ConfigError                 a setting, a handler's signature or a name is wrong; raised before anything is sent
    │   ├── CapabilityError         the broker cannot do what was asked for
    │   └── MissingGroup            there is no such group, or no such topic
    ├── EventError                  (also a ValueError) the event itself is wrong
    │   ├── InvalidEvent            an attribute or the wire form breaks CloudEvents 1.0
    │   ├── EncodeError             the payload cannot be serialised
    │   └── DecodeError             the data cannot be decoded or validated; never retried
    ├── StateError                  the Bus is not started, or is closed already
    ├── BrokerError                 the broker, or the way to it, failed
    │   ├── Rejected                not stored, and sending it again will not help
    │   │   └── EventTooLarge       over the broker's size limit (raised before sending)
    │   ├── Unavailable             not stored, may be tried again
    │   │   └── StoreUnavailable    the idempotency store cannot be reached or written (anybroker.idempotency)
    │   ├── PublishOutcomeUnknown   may be stored: publish it again under the same id
    │   └── LeaseLost               a settlement came too late: another member has the event
    │       └── ClaimLost           another owner has the event's claim (anybroker.idempotency)
    └── DeliveryError               why an event was dead-lettered, where its handler raised nothing that says it
        ├── AttemptsExhausted       the handler asked for another start, and there is none left
        ├── ExpiredError            its expirytime has passed
        ├── UnhandledError          no handler takes events of its type
        ├── PoisonedError           the broker handed it over so often that it may be what kills the process
        └── HandlerExit             the handler raised what ends a program, a task or a generator

Three more are not failures of the library; a handler raises them to say what is to happen::

    Reject          dead-letter this event now, with this reason
    Retry           deliver it again, after so many seconds
    BatchFailed     of this batch, these failed
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cloudevents.event import Event

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
    "PoisonedError",
    "PublishOutcomeUnknown",
    "Reject",
    "Rejected",
    "Retry",
    "StateError",
    "Unavailable",
    "UnhandledError",
]


class AnybrokerError(Exception):
    """The root of the tree: catch it to catch all that the library raises."""


class ConfigError(AnybrokerError):
    """A setting, a name or a signature is wrong.

    Raised before anything is sent. ``setting`` names what is wrong, ``problem`` says what is wrong with it and
    ``remedy`` how to mend it; the text is all three.
    """

    def __init__(self, setting: str, problem: str, remedy: str = "") -> None:
        self.setting = setting
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{setting}: {problem}" + (f". {remedy}" if remedy else ""))


class CapabilityError(ConfigError):
    """The adapter declares as absent what a setting asks for; ``capability`` is its name."""

    def __init__(self, adapter: str, capability: str, setting: str, remedy: str) -> None:
        self.adapter = adapter
        self.capability = capability
        super().__init__(setting, f"the {adapter} adapter has no {capability!r}", remedy)


class MissingGroup(ConfigError):
    """The broker has no such group, or no such topic."""


class EventError(AnybrokerError, ValueError):
    """The event is wrong, whatever the broker."""


class InvalidEvent(EventError):
    """An attribute, or the form of a message, breaks CloudEvents 1.0. ``attribute`` names it where there is one."""

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
    """The event is over the size that the broker takes, less the 8 KiB that are kept free for a dead letter.

    Raised before anything is sent. ``size`` and ``limit`` are in bytes.
    """

    def __init__(self, message: str, *, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(message)


class Unavailable(BrokerError):
    """The broker could not be reached, or could not take the event now: not stored, may be tried again."""


class PublishOutcomeUnknown(BrokerError):
    """The event may or may not be stored: a time-out, or a connection lost before the confirmation.

    ``event`` is the event, when it is known: publish it again (the same id) and the consumer's idempotency, or the
    broker's own deduplication, keeps it single.
    """

    def __init__(self, message: str, *, event: Event[Any] | None = None) -> None:
        self.event = event
        super().__init__(message)


class LeaseLost(BrokerError):
    """A settlement came after the lease ran out, or the lane went to another member. Counted, never fatal."""


class DeliveryError(AnybrokerError):
    """Why an event was dead-lettered, where its handler raised nothing that says it. Seen in a dead letter's reason."""


class AttemptsExhausted(DeliveryError):
    """The handler asked for another start, and there is none left."""

    def __init__(self, attempts: int, reason: str) -> None:
        super().__init__(f"no attempt left of {attempts}: {reason}")


class ExpiredError(DeliveryError):
    """The event's ``expirytime`` has passed."""

    def __init__(self, moment: str) -> None:
        super().__init__(f"the event expired at {moment}")


class UnhandledError(DeliveryError):
    """No handler takes events of this type."""

    def __init__(self, type_: str) -> None:
        super().__init__(f"no handler of the subscription takes events of type {type_!r}")


class PoisonedError(DeliveryError):
    """The broker handed the event over so often that it probably kills the process."""

    def __init__(self, deliveries: int) -> None:
        super().__init__(f"handed over {deliveries} times without being finished: it may be what kills the process")


def text_of(error: object) -> str:
    """What an exception, or another object, says, also where its own ``__str__`` fails: that must not take the place of
    the failure."""
    try:
        return str(error)
    except Exception as exc:  # noqa: BLE001 - it is the user's class
        return f"(its text cannot be made: {type(exc).__name__})"


class HandlerExit(DeliveryError):
    """The handler raised what is not an ``Exception``, such as ``SystemExit`` or a ``CancelledError`` that the engine
    has not asked for, or what a coroutine cannot raise, as ``StopIteration`` is. It is the ``__cause__``; the start
    counts as failed, and the program goes on."""

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
    """Whether the start counts as an attempt; False only where the library put the event off."""

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

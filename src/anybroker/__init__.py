"""One publish/subscribe API with CloudEvents envelopes, and the same promises on every broker.

Start with :class:`Bus` and :func:`event_type`; behaviour around handlers is in :mod:`anybroker.middleware`.
"""

from .adapter import Backlog, Receipt
from .bus import Bus
from .capabilities import Capabilities, Support
from .cloudevents.event import ABSENT, Event, event_type
from .config.settings import TopicSettings
from .deadletters.letter import DeadLetter
from .delivery import Attempt, Delivery
from .engine.observing import Observer
from .engine.parts import Part
from .engine.sinks import PutsMany, Sink
from .errors import (
    AnybrokerError,
    BatchFailed,
    BrokerError,
    CapabilityError,
    ConfigError,
    DecodeError,
    EncodeError,
    EventError,
    EventTooLarge,
    InvalidEvent,
    LeaseLost,
    PublishOutcomeUnknown,
    Reject,
    Rejected,
    Retry,
    StateError,
    Unavailable,
)
from .memory import MemoryBroker
from .subscription import Subscription
from .topic import Topic

__all__ = [
    "ABSENT",
    "AnybrokerError",
    "Attempt",
    "Backlog",
    "BatchFailed",
    "BrokerError",
    "Bus",
    "Capabilities",
    "CapabilityError",
    "ConfigError",
    "DeadLetter",
    "DecodeError",
    "Delivery",
    "EncodeError",
    "Event",
    "EventError",
    "EventTooLarge",
    "InvalidEvent",
    "LeaseLost",
    "MemoryBroker",
    "Observer",
    "Part",
    "PublishOutcomeUnknown",
    "PutsMany",
    "Receipt",
    "Reject",
    "Rejected",
    "Retry",
    "Sink",
    "StateError",
    "Subscription",
    "Support",
    "Topic",
    "TopicSettings",
    "Unavailable",
    "event_type",
]

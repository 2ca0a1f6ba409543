"""What topics, groups and lanes are called in JetStream.

Names of topics and groups do not contain ``@``, ``~`` or ``_``, so these never collide. Names of streams and consumers
must not contain dots.
"""

from __future__ import annotations

__all__ = [
    "PRIORITY_GROUP",
    "consumer_name",
    "inlet",
    "lane_numbers",
    "members_consumer",
    "members_subject",
    "note_subject",
    "schedule_subject",
    "stream_name",
    "stream_subjects",
]

PRIORITY_GROUP = "lane"
"""The one priority group of each lane's consumer."""


def stream_name(topic: str) -> str:
    """The stream of a topic."""
    return topic.replace(".", "_")


def stream_subjects(topic: str) -> list[str]:
    """What the stream takes: the topic's slots, and what is only for one group, notes and schedules."""
    return [f"{topic}.*", f"{topic}.@.>"]


def inlet(topic: str, group: str) -> str:
    """The group's inlet; a slot follows."""
    return f"{topic}.@.{group}"


def note_subject(topic: str, group: str) -> str:
    """Where a member that leaves notes what it has started; stream sequence and handler starts follow."""
    return f"{topic}.@.{group}.~"


def schedule_subject(topic: str) -> str:
    """Where delayed events wait; a unique token follows."""
    return f"{topic}.@.~at"


def consumer_name(group: str, lane: int | None) -> str:
    """The consumer of one lane of an ordered group, or of an unordered group."""
    name = group.replace(".", "_")
    return name if lane is None else f"{name}@{lane}"


def lane_numbers(lanes: int) -> list[int | None]:
    """The ``lane`` of each consumer of a group with this many lanes; 0 lanes: an unordered group, whose one is None."""
    return list(range(lanes)) or [None]


def members_consumer(group: str) -> str:
    """The consumer at which each member of an ordered group keeps a pull waiting."""
    return f"{group.replace('.', '_')}@members"


def members_subject(topic: str, group: str) -> str:
    """What that consumer filters: nothing is ever published there."""
    return f"{topic}.@.{group}.~members"

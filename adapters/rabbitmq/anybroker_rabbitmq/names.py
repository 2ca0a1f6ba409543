"""What topics, groups and lanes are called in RabbitMQ. Topic and group names have no colon, so none can collide."""

from __future__ import annotations

__all__ = ["group_exchange", "lane_queue", "marker_exchange", "members_queue", "notes_queue"]


def group_exchange(topic: str, group: str) -> str:
    """The exchange that routes slots to the group's queues: what the topic is bound to, and the group's inlet."""
    return f"{topic}:{group}"


def lane_queue(topic: str, group: str, lane: int) -> str:
    """The queue of one lane; an unordered group has only lane 0."""
    return f"{topic}:{group}:{lane}"


def notes_queue(topic: str, group: str, lane: int) -> str:
    """Where a leaving member notes handler starts."""
    return f"{topic}:{group}:{lane}:notes"


def members_queue(topic: str, group: str) -> str:
    """Never gets a message: its consumers are the group's members. Made last, so it says that the group is whole."""
    return f"{topic}:{group}:members"


def marker_exchange(topic: str, group: str, ordered: bool, lanes: int) -> str:
    """Takes messages whose routing key is not a slot. Its name says what kind of group this is."""
    return f"{topic}:{group}:lanes-{lanes}" if ordered else f"{topic}:{group}:unordered"

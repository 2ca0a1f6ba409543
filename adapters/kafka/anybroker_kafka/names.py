"""What topics, groups, inlets and lanes are called in Kafka."""

from __future__ import annotations

from aiokafka.structs import TopicPartition

__all__ = ["group_id", "inlet", "inlet_of", "lane_name"]


def group_id(topic: str, group: str) -> str:
    """The name of the group's consumer group."""
    return f"{topic}.{group}"


def inlet(topic: str, group: str) -> str:
    """The topic that only this group reads, beside its topic: replays and delayed releases."""
    return inlet_of(group_id(topic, group))


def inlet_of(group: str) -> str:
    """The inlet of a consumer group."""
    return f"{group}.retry"


def lane_name(tp: TopicPartition) -> str:
    """A lane's name: topic/partition."""
    return f"{tp.topic}/{tp.partition}"

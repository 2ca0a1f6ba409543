"""What our words are called in Kafka."""

from __future__ import annotations

from aiokafka.structs import TopicPartition

__all__ = ["group_id", "inlet", "lane_name"]


def group_id(topic: str, group: str) -> str:
    """The consumer group of a group."""
    return f"{topic}.{group}"


def inlet(topic: str, group: str) -> str:
    """The topic that only this group reads, beside its topic: replays and delayed releases."""
    return f"{topic}.{group}.retry"


def lane_name(tp: TopicPartition) -> str:
    """A lane's name: topic/partition."""
    return f"{tp.topic}/{tp.partition}"

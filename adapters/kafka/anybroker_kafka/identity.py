"""Which topic a name means now: a topic that was deleted and made again has another identity, and other offsets.

aiokafka's metadata requests end before the version that tells a topic's identity (10, Kafka 2.8), so here is that one.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import (
    MetadataRequest_v4,
    MetadataRequest_v5,
)
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

__all__ = ["TopicInfo", "TopicsRequest", "mark", "unmark"]

_NONE = bytes(16)


class _Uuid(AbstractType[bytes]):  # type: ignore[misc] # aiokafka has no types
    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value


class _Response(Response):  # type: ignore[misc] # aiokafka has no types
    # Properties in the base class, numbers in its subclasses: so does aiokafka itself.
    API_KEY = 3  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    API_VERSION = 10  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("topic_authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _Request(RequestStruct):  # type: ignore[misc] # aiokafka has no types
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _Response
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class TopicsRequest(Request[MetadataRequest_v4 | MetadataRequest_v5 | _Request]):  # type: ignore[misc] # aiokafka has no types
    """Metadata of some topics, which are not made by asking; with their identities from Kafka 2.8 on."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: Any) -> Any:
        """For aiokafka: the request of that version."""
        if request_struct_class is _Request:
            return _Request([(_NONE, topic, {}) for topic in self._topics], False, False, False, {})
        return request_struct_class(self._topics, False)


class TopicInfo(NamedTuple):
    """One topic as it is now."""

    partitions: int
    identity: str
    """22 characters; empty where the broker does not tell (before Kafka 2.8)."""

    def replaces(self, other: TopicInfo | None) -> bool:
        """Whether it is another topic of the same name, as far as the broker tells."""
        return other is not None and bool(other.identity and self.identity) and other.identity != self.identity

    @classmethod
    def read(cls, topic: dict[str, Any]) -> TopicInfo:
        """Of one topic in the response."""
        identity = topic.get("topic_id", _NONE)
        text = "" if identity == _NONE else urlsafe_b64encode(identity)[:22].decode()
        return cls(len(topic["partitions"]), text)


_MARK = "t="


def mark(note: str, identity: str) -> str:
    """A commit's metadata: the note, and which topic the position is of."""
    return f"{_MARK}{identity};{note}" if identity else note


def unmark(metadata: str) -> tuple[str, str]:
    """The identity (empty: not said) and the note of :func:`mark`."""
    if metadata.startswith(_MARK):
        identity, _, note = metadata[len(_MARK) :].partition(";")
        return identity, note
    return "", metadata

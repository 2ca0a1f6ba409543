"""A topic's partitions and its identity: one that was deleted and made again has another identity, and other offsets.

The version of the metadata request that returns the identity (10, Kafka 2.8) is missing from aiokafka, so it is here.
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

__all__ = ["TopicInfo", "TopicsRequest"]

_NONE = bytes(16)


class _Uuid(AbstractType[bytes]):  # type: ignore[misc] # aiokafka has no types
    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value


def _struct(**fields: Any) -> list[tuple[str, Any]]:
    """In this version every structure ends with tags."""
    return [*fields.items(), ("tags", TaggedFields)]


_TEXT = CompactString("utf-8")
_BROKER = _struct(node_id=Int32, host=_TEXT, port=Int32, rack=_TEXT)
_PARTITION = _struct(
    error_code=Int16,
    partition=Int32,
    leader=Int32,
    leader_epoch=Int32,
    replicas=CompactArray(Int32),
    isr=CompactArray(Int32),
    offline_replicas=CompactArray(Int32),
)
_TOPIC = _struct(
    error_code=Int16,
    topic=_TEXT,
    topic_id=_Uuid,
    is_internal=Boolean,
    partitions=CompactArray(*_PARTITION),
    topic_authorized_operations=Int32,
)
_METADATA = _struct(
    throttle_time_ms=Int32,
    brokers=CompactArray(*_BROKER),
    cluster_id=_TEXT,
    controller_id=Int32,
    topics=CompactArray(*_TOPIC),
    cluster_authorized_operations=Int32,
)
_QUESTION = _struct(
    topics=CompactArray(*_struct(topic_id=_Uuid, topic=_TEXT)),
    allow_auto_topic_creation=Boolean,
    include_cluster_authorized_operations=Boolean,
    include_topic_authorized_operations=Boolean,
)


class _Response(Response):  # type: ignore[misc] # aiokafka has no types
    # Properties in the base class, numbers in its subclasses, as in aiokafka itself.
    API_KEY = 3  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    API_VERSION = 10  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    SCHEMA = Schema(*_METADATA)


class _Request(RequestStruct):  # type: ignore[misc] # aiokafka has no types
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _Response
    SCHEMA = Schema(*_QUESTION)


class TopicsRequest(Request[MetadataRequest_v4 | MetadataRequest_v5 | _Request]):  # type: ignore[misc] # aiokafka has no types
    """Metadata of some topics, without creating any; with their identities from Kafka 2.8 on."""

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
    """22 characters; empty where the broker does not return it (before Kafka 2.8)."""

    def replaces(self, other: TopicInfo | None) -> bool:
        """Whether it is another topic of the same name; False where the broker returns no identity."""
        return other is not None and bool(other.identity and self.identity) and other.identity != self.identity

    @classmethod
    def read(cls, topic: dict[str, Any]) -> TopicInfo:
        """From one topic of the response."""
        identity = topic.get("topic_id", _NONE)
        text = "" if identity == _NONE else urlsafe_b64encode(identity)[:22].decode()
        return cls(len(topic["partitions"]), text)

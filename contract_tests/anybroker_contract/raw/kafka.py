"""Kafka, by aiokafka and the SDK's Kafka binding."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any, ClassVar, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat

from .._kit import TYPE
from .._waiting import eventually
from .api import MINIMAL, Mode, Quirk, RawClient, RawMessage

__all__ = ["KafkaClient"]

_CRC = 17
"""Where a batch has its checksum, which covers everything behind it."""
_ZEROS = 65 * 1_048_576
"""More than the adapter decompresses by default."""


_GZIP, _LZ4, _ZSTD = 1, 3, 4
"""Kafka's codec numbers."""


class _Record(NamedTuple):
    """What a record has beside its value and headers, where that is not a text and the moment of sending."""

    key: bytes | None = None
    timestamp: int | None = None


class KafkaClient(RawClient):
    """Record headers are bytes."""

    prefix: ClassVar[str] = "ce_"
    blanks: ClassVar[tuple[str | None, ...]] = ("", None)
    largest: ClassVar[int] = 1_048_516

    def __init__(self, url: str) -> None:
        self._servers = url.removeprefix("kafka://")
        self._producer: Any = None
        self._consumer: Any = None

    async def __aenter__(self) -> KafkaClient:
        self._producer = AIOKafkaProducer(bootstrap_servers=self._servers, max_request_size=2_000_000)
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()
        if self._consumer is not None:
            await self._consumer.stop()

    async def listen(self, topic: str, group: str) -> None:
        """Reads all partitions, from their beginning, without a group."""
        self._consumer = AIOKafkaConsumer(topic, bootstrap_servers=self._servers, auto_offset_reset="earliest")
        await self._consumer.start()

    async def receive(self) -> RawMessage:
        """The next record."""
        record = await self._consumer.getone()
        key = None if record.key is None else record.key.decode()
        return RawMessage(record.value, dict(record.headers), key=key)

    async def send(self, topic: str, group: str, message: RawMessage) -> None:
        """With acks=1, as most programs do."""
        key = None if message.key is None else message.key.encode()
        if message.past_the_topic:
            topic = f"{topic}.{group}.retry"
        if isinstance(message.native, bytes):
            await self._send_named(topic, message, message.native)
            return
        if isinstance(message.native, int):
            await self._send_compressed(topic, message.native, message.body or bytes(_ZEROS))
            return
        headers, time = list(message.headers.items()), None
        if isinstance(message.native, _Record):
            key, time = message.native
        await self._producer.send_and_wait(topic, message.body, key, timestamp_ms=time, headers=headers)

    async def _send_named(self, topic: str, message: RawMessage, name: bytes) -> None:
        """In a separate batch, with a header of that name among others: no client for Python writes one."""
        stand_in = "~" * len(name)
        headers = [*message.headers.items(), (stand_in, b"1"), ("x-last", b"2")]
        batch = self._producer.create_batch()
        batch.append(timestamp=None, key=None, value=message.body, headers=headers)
        batch._build()
        written = batch._buffer
        at = written.index(stand_in.encode())
        written[at : at + len(name)] = name
        struct.pack_into(">I", written, _CRC, calc_crc32c(bytes(written[_CRC + 4 :])))
        partitions = await self._producer.partitions_for(topic)
        await (await self._producer.send_batch(batch, topic, partition=min(partitions)))

    async def _send_compressed(self, topic: str, codec: int, body: bytes) -> None:
        """In a separate batch, which does not say how large it is when it is decompressed."""
        batch = BatchBuilder(2 * _ZEROS, codec)
        batch.append(timestamp=None, key=None, value=body, headers=[])
        partitions = await self._producer.partitions_for(topic)
        await (await self._producer.send_batch(batch, topic, partition=min(partitions)))

    def oversized(self) -> Mapping[str, RawMessage]:
        """With each codec that compresses that much (snappy makes only twenty bytes of one)."""
        return {
            name: RawMessage(None, {}, native=codec)
            for name, codec in (("gzip", _GZIP), ("lz4", _LZ4), ("zstd", _ZSTD))
        }

    def unreadable(self) -> Mapping[str, RawMessage]:
        """A header's name is bytes to the broker, and has to be UTF-8 to clients."""
        names = [b"caf\xe9", b"\xff", b"\xc3(", b"ce_\xe9", b"\xed\xa0\x80"]
        return {
            f"a header named {name!r}": RawMessage(f"unreadable {number}".encode(), {"x-legacy": b"yes"}, native=name)
            for number, name in enumerate(names)
        }

    def own_hostile(self) -> Mapping[str, RawMessage]:
        """Keys and times that the adapter never writes."""
        event = {**MINIMAL, "type": TYPE, "source": "/hostile", "partitionkey": "k"}
        records = {
            "a key that is not UTF-8": _Record(b"\xff\xfe"),
            "a huge key": _Record(b"k" * 900_000),
            "an empty key": _Record(b""),
            "the first of all times": _Record(timestamp=0),
            "the last of all times": _Record(timestamp=2**63 - 1),
        }
        found = {name: replace(self.build(b"1", None, event), native=record) for name, record in records.items()}
        foreign = {f"{name}, no event": replace(self.build(b"1"), native=record) for name, record in records.items()}
        noise = Random(1).randbytes(1_000_000)
        foreign["as no dead letter can be compressed"] = RawMessage(3 * noise, {}, native=_ZSTD)
        tombstones = {"a tombstone of nothing": RawMessage(None, {}), "a tombstone": RawMessage(None, {}, key="k")}
        return {**found, **foreign, **tombstones}

    async def clutter(self, topic: str) -> None:
        """A transaction in each of the first partitions, aborted: its records and its markers have offsets."""
        producer = AIOKafkaProducer(bootstrap_servers=self._servers, transactional_id=f"clutter {topic}")
        await producer.start()
        try:
            for partition in sorted(await producer.partitions_for(topic)):
                await producer.begin_transaction()
                await producer.send_and_wait(topic, b"never read", partition=partition)
                await producer.abort_transaction()
        finally:
            await producer.stop()

    async def delete(self, topic: str, group: str) -> None:
        """The topic; its positions go with it."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._servers)
        await admin.start()
        try:
            await admin.delete_topics([topic])

            async def gone() -> bool:
                return topic not in await admin.list_topics()

            await eventually(gone, 30.0, f"Kafka still has the topic {topic!r}")
        finally:
            await admin.close()

    async def configure(self, topic: str, configs: dict[str, str]) -> None:
        """Change the topic's configuration."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._servers)
        await admin.start()
        try:
            replies: list[Any] = await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
            for reply in replies:
                for code, text, *_ in reply.resources:
                    assert code == 0, text
        finally:
            await admin.close()

    async def grow(self, topic: str, partitions: int) -> None:
        """Give the topic this many partitions; return when they have leaders."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._servers)
        await admin.start()
        try:
            await admin.create_partitions({topic: NewPartitions(partitions)})

            async def there() -> bool:
                (found,) = await admin.describe_topics([topic])
                return len([each for each in found["partitions"] if each["leader"] >= 0]) == partitions

            await eventually(there, 30.0, f"Kafka does not have {partitions} partitions of {topic!r}")
        finally:
            await admin.close()

    async def replicas_in_sync(self, topic: str) -> int:
        """Of the partition that has the fewest."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._servers)
        await admin.start()
        try:
            (found,) = await admin.describe_topics([topic])
        except KafkaError:
            return 0
        else:
            return min((len(each["isr"]) for each in found["partitions"]), default=0)
        finally:
            await admin.close()

    def read(self, message: RawMessage) -> BaseCloudEvent:
        """By the SDK, which does not accept a null value: an empty one means no data."""
        return from_kafka(KafkaMessage(dict(message.headers), message.key, message.body or b""), JSONFormat())

    def write(self, event: BaseCloudEvent, mode: Mode) -> RawMessage:
        """By the SDK; its key is the extension ``partitionkey``."""
        made = (to_binary if mode == "binary" else to_structured)(event, JSONFormat())
        key = made.key.decode() if isinstance(made.key, bytes) else made.key
        return RawMessage(made.value, made.headers, key=key)

    def value(self, value: Any) -> bytes | None:
        """In UTF-8; None is a header without a value."""
        return value if value is None or isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")

    def without_content_type(self) -> Mapping[str, RawMessage]:
        """The attribute under its own name."""
        return {
            "an empty ce_datacontenttype": self.build(b"1", None, {**MINIMAL, "datacontenttype": ""}),
            "a null ce_datacontenttype": self.build(b"1", None, {**MINIMAL, "datacontenttype": None}),
        }

    def own_quirks(self) -> Mapping[str, Quirk]:
        """Of the Kafka binding: section 3.2, and what writers do with the content type."""
        both = self.build(b"<a/>", "application/xml", {**MINIMAL, "datacontenttype": "text/plain"})
        return {
            "content-type beside ce_datacontenttype": Quirk(
                both,
                {**MINIMAL, "datacontenttype": "application/xml"},
                b"<a/>",
            ),
            "a tombstone": Quirk(self.build(None, None, MINIMAL, key="k"), MINIMAL, None),
            "a record key without partitionkey": Quirk(self.build(b"{}", None, MINIMAL, key="k"), MINIMAL, b"{}"),
            "values in UTF-8": Quirk(
                self.build(b"", None, {**MINIMAL, "subject": "ä 100%"}),
                {**MINIMAL, "subject": "ä 100%"},
                b"",
            ),
            "header names in upper case": Quirk(
                RawMessage(b"1", {f"CE_{name.upper()}": value.encode() for name, value in MINIMAL.items()}),
                MINIMAL,
                b"1",
            ),
        }

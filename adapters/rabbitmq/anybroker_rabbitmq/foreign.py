"""Messages that are not CloudEvents, with their AMQP properties, so that their dead letters have them too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.encode import by_type

from anybroker.adapter import Foreign
from anybroker.errors import InvalidEvent

from .frames import LENGTH, PERSISTENT, field_name, moment, native_value, short

__all__ = ["BROKERS", "KEPT", "ROUTING", "AmqpForeign", "DecodedForeign", "bytes_of", "is_own", "write_again"]

ROUTING: Final[Mapping[str, str]] = {"CC": "anybroker-foreign-cc", "BCC": "anybroker-foreign-bcc"}
"""Headers by which RabbitMQ routes, and for which it closes the channel where their values are not lists. A dead letter
keeps them under these other names, and they are shown under their own."""
KEPT: Final[Mapping[str, str]] = {kept: name for name, kept in ROUTING.items()}
BROKERS: Final = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")
"""Headers that RabbitMQ adds. They would be wrong on another message."""
_NOT_OWN: Final = ("anybroker-", *BROKERS)
_LEFT_OUT: Final = ("expiration", "user_id", "cluster_id")
"""RabbitMQ would drop the message for the first, and refuses the others from other users."""


class AmqpForeign(Foreign):
    """A message that is not a CloudEvent, with its AMQP properties."""

    __slots__ = ()

    def properties(self) -> dict[str, bytes]:
        """Its properties but for the headers, by name, as AMQP writes them."""
        raise NotImplementedError

    def entries(self) -> Iterable[tuple[str, bytes, bytes]]:
        """Its headers: name, value, and both, the latter two as AMQP writes them."""
        raise NotImplementedError


class DecodedForeign(AmqpForeign):
    """One that aiormq has decoded."""

    __slots__ = ("_properties",)

    def __init__(self, message: DeliveredMessage, reason: InvalidEvent) -> None:
        self._properties: Basic.Properties = message.header.properties
        headers = [
            (KEPT.get(name, name), None if value is None else bytes_of(value))
            for name, value in self._headers().items()
            if is_own(name)
        ]
        if self._properties.content_type is not None:
            headers.append(("content-type", self._properties.content_type.encode()))
        super().__init__(message.body, headers, None, reason)

    def _headers(self) -> Mapping[str, Any]:
        return self._properties.headers or {}

    def properties(self) -> dict[str, bytes]:
        """See :meth:`AmqpForeign.properties`."""
        values = {name: getattr(self._properties, name) for name in Basic.Properties.flags if name != "headers"}
        return {
            name: moment(value) if name == "timestamp" else by_type(value, Basic.Properties.amqp_type(name))
            for name, value in values.items()
            if value is not None
        }

    def entries(self) -> Iterable[tuple[str, bytes, bytes]]:
        """See :meth:`AmqpForeign.entries`."""
        for name, native in self._headers().items():
            value = native_value(native)
            yield name, value, field_name(name) + value


def write_again(foreign: AmqpForeign, added: Mapping[str, str], message_id: str) -> tuple[int, bytes]:
    """Flags and properties of the same message once more: persistent, under this id, with these headers beside its own
    ones. An added header gives way to one of the same name."""
    own: set[str] = set()
    headers: list[bytes] = []
    for name, value, entry in foreign.entries():
        if is_own(name):
            kept = ROUTING.get(name)
            own.add((kept or name).lower())
            headers.append(entry if kept is None else field_name(kept) + value)
    headers += [field_name(name) + native_value(text) for name, text in added.items() if name not in own]
    table = b"".join(headers)
    parts = foreign.properties() | {
        "headers": LENGTH.pack(len(table)) + table,
        "delivery_mode": PERSISTENT,
        "message_id": short(message_id),
    }
    flags = {name: flag for name, flag in Basic.Properties.flags.items() if name in parts and name not in _LEFT_OUT}
    return sum(flags.values()), b"".join([parts[name] for name in flags])


def is_own(name: str) -> bool:
    """Whether a header is the message's own: neither written by this library nor by the broker."""
    return name in KEPT or not name.lower().startswith(_NOT_OWN)


def bytes_of(value: Any) -> bytes:
    """A header's value as bytes: as they came, or the text of a value that has another type in AMQP."""
    return bytes(value) if isinstance(value, bytes | bytearray) else str(value).encode()

"""The port: what turns payloads into bytes and back."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from ..cloudevents.event import Event

__all__ = ["Codec", "Decode"]

Decode = Callable[[Event], object]
"""From an event to its payload."""


class Codec(Protocol):
    """How payloads become bytes and back. :class:`~anybroker.codec.PydanticJson` is one.

    Which codec writes is the topic's setting (``topics={"orders": {"codec": "avro"}}``), or the publisher's
    ``datacontenttype=``. Which one reads is what the event says: its ``datacontenttype``, whatever the topic's setting
    is now, so that a topic may change its codec while older events are in it. The built-in one writes and reads
    everything else.

    A package names its codec in the entry-point group ``anybroker.codecs``, as a class or a function without
    arguments. One with settings is given as an object: ``Bus(codecs=[AvroCodec(registry="https://…")])``.
    """

    @property
    def name(self) -> str:
        """What the setting ``codec`` of a topic calls it, such as ``avro``."""
        ...

    @property
    def content_types(self) -> Collection[str]:
        """The content types whose data it reads, in lower case and without parameters: ``application/avro``."""
        ...

    def encode(self, payload: object, topic: str, type: str, /) -> tuple[bytes, str, str | None]:
        """The bytes of a payload, their content type, and the URI of their schema where there is one.

        Called on the event loop for each event published, so it must not wait. ``type`` is the event's. Not called for
        bytes, which are encoded already, nor for events without data.

        Raises :class:`~anybroker.errors.EncodeError` for a payload that cannot be written; nothing is sent then.
        """
        ...

    def decoder(self, annotation: object, topic: str, /) -> Decode:
        """A function from an event of one of the :attr:`content_types` to a payload of this annotation.

        Called when a handler is subscribed and when its subscription starts; what it returns is called on the event
        loop for each event, and never for one without data. The annotation is what the handler's parameter has: a class
        of any kind, or what pydantic validates (:func:`~anybroker.codec.validator` does that for decoded data). Of a
        union of classes with declared event types, each is asked for by itself.

        Raises ConfigError for an annotation that it cannot decode into. The function raises
        :class:`~anybroker.errors.DecodeError`, whose text shows no data, for what is wrong with the event: it is dead-
        lettered and not retried. Anything else that it raises is a failed start of the handler.
        """
        ...

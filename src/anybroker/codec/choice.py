"""Which codec of a Bus writes to a topic, and which one reads an event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import entry_points
from typing import Any

from ..cloudevents.event import ABSENT, BYTES, Event
from ..cloudevents.media_type import media_type
from ..config.registry import load_entry
from ..config.settings import TopicSettings, nearest
from ..errors import ConfigError, DecodeError, InvalidEvent
from .annotations import declared_type, members, show
from .port import Codec, Decode
from .pydantic_json import PydanticJson, no_data

__all__ = ["Codecs"]

GROUP = "anybroker.codecs"
"""Entry points of codecs, by name: classes, or functions without arguments."""
_BUILT_IN = PydanticJson()


class Codecs:
    """The codecs of one Bus: those that it was given, those that its topics name, and the built-in one."""

    def __init__(self, given: Iterable[str | Codec], topics: Mapping[str, TopicSettings]) -> None:
        """Raises ConfigError for what is not a codec, and for a name of none."""
        by_name: dict[str, Codec] = {}
        for item in given:
            codec = _installed("Bus(codecs=)", item) if isinstance(item, str) else _checked("Bus(codecs=)", item)
            if codec.name in by_name:
                raise ConfigError("Bus(codecs=)", f"has two codecs of the name {codec.name!r}", "Keep one of them.")
            by_name[codec.name] = codec
        self._writers: dict[str, Codec] = {}
        for topic, settings in topics.items():
            name = settings.codec
            if name is None or (name == _BUILT_IN.name and name not in by_name):
                continue
            if name not in by_name:
                by_name[name] = _installed(f"topics.{topic}.codec", name)
            self._writers[topic] = by_name[name]
        self._all = tuple(by_name.values())

    def __bool__(self) -> bool:
        """Whether there is any but the built-in one."""
        return bool(self._all)

    def writer(self, topic: str, data: object, content_type: str | None) -> Codec | None:
        """The codec that writes to the topic, or the one for this content type; None: as :meth:`Event.create` does,
        such as of bytes, which are encoded already."""
        if data is ABSENT or isinstance(data, BYTES):
            return None
        if content_type is None:
            return self._writers.get(topic)
        try:
            return self._readers(topic).get(media_type(content_type).essence)
        except InvalidEvent:
            return None  # which the event itself says, in its own words

    def check(self, annotation: object, topic: str) -> None:
        """ConfigError for a payload's annotation that the topic's codec cannot decode into."""
        if annotation is not bytes:
            for each in _by_type(annotation).values() or (annotation,):
                self._writers.get(topic, _BUILT_IN).decoder(each, topic)

    def decoder(self, annotation: object, topic: str) -> Decode:
        """A function from an event to its payload; it raises DecodeError, whose text shows no data."""
        if annotation is bytes:
            return _body
        if by_type := _by_type(annotation):
            decoders = {name: self._decoder(member, topic) for name, member in by_type.items()}
            whole = _later(partial(self._decoder, annotation, topic))
            return lambda event: decoders.get(event.type, whole)(event)
        return self._decoder(annotation, topic)

    def _decoder(self, annotation: object, topic: str) -> Decode:
        if not self._all:
            return _BUILT_IN.decoder(annotation, topic)
        own = self._writers.get(topic, _BUILT_IN)
        made = own.decoder(annotation, topic)  # its ConfigError is one at the start
        readers = {
            content_type: made if codec is own else _later(partial(codec.decoder, annotation, topic))
            for content_type, codec in self._readers(topic).items()
        }
        otherwise = made if own is _BUILT_IN else _later(partial(_BUILT_IN.decoder, annotation, topic))
        shown = show(annotation)

        def decode(event: Event[Any]) -> object:
            if event.body is None:
                raise no_data(shown)
            content_type = event.datacontenttype
            if content_type is None:
                return otherwise(event)
            read = readers.get(content_type) or readers.get(media_type(content_type).essence, otherwise)
            return read(event)

        return decode

    def _readers(self, topic: str) -> dict[str, Codec]:
        """By content type: the topic's own codec before the others, and those in the order in which they were given."""
        readers: dict[str, Codec] = {}
        for codec in (*filter(None, (self._writers.get(topic),)), *self._all):
            for content_type in codec.content_types:
                readers.setdefault(content_type, codec)
        return readers


def _body(event: Event[Any]) -> bytes:
    if event.body is None:
        raise no_data("bytes")
    return event.body


def _by_type(annotation: object) -> dict[str, Any]:
    """The classes of a union of several that declare event types, by event type; empty for anything else."""
    found = {name: member for member in members(annotation) if (name := declared_type(member))}
    return found if len(found) > 1 else {}


def _later(make: Callable[[], Decode]) -> Decode:
    """A decoder that is made for its first event: where none comes, the annotation need not suit it."""
    made: Decode | None = None

    def decode(event: Event[Any]) -> object:
        nonlocal made
        if made is None:
            try:
                made = make()
            except ConfigError as exc:
                raise DecodeError(f"the data is {event.datacontenttype}: {exc}") from exc
        return made(event)

    return decode


def _installed(setting: str, name: str) -> Codec:
    """The codec of an installed package. Raises ConfigError."""
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        raise ConfigError(setting, f"there is no codec {name!r}", nearest(name, {*known, _BUILT_IN.name}))
    return _checked(setting, load_entry(known[name], setting, f"the codec {name!r}")())


def _checked(setting: str, codec: Any) -> Codec:
    """What is given as one. Raises ConfigError."""
    if isinstance(codec, type) or not all(
        hasattr(codec, part) for part in ("name", "content_types", "encode", "decoder")
    ):
        raise ConfigError(
            setting, f"{codec!r} is not a codec", "Give an object with the methods of anybroker.codec.Codec."
        )
    found: Codec = codec
    for content_type in found.content_types:
        try:
            right = media_type(content_type).essence
        except InvalidEvent as exc:
            raise ConfigError(f"codec {found.name}", f"content_types: {exc}") from None
        if right != content_type:
            raise ConfigError(f"codec {found.name}", f"content_types: {content_type!r}", f"Write {right!r}.")
    return found

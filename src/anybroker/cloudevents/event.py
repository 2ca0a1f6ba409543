"""The event: an immutable CloudEvents 1.0 envelope, with its data as bytes that are decoded on access."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from random import Random
from types import MappingProxyType
from typing import Any, Final, Generic, NoReturn, cast, final, overload

from typing_extensions import TypeVar

from ..errors import InvalidEvent
from ..names import SHORT_KEY, bounded_key
from .attributes import (
    CORE,
    REQUIRED,
    SPECVERSION,
    AttributeValue,
    canonical,
    check_attributes,
    check_name,
    known_sources,
    known_types,
    write_extension,
    write_string,
    write_type,
    write_uri,
    write_uri_reference,
)
from .declared import declared_key, declared_type, event_type, key_text
from .media_type import JSON, media_type
from .payload import ABSENT, Absent, decode, encode, encode_model, plan_for, plans
from .sdk import installed_factory, make_with, parts_of
from .timestamps import check_timestamp, format_timestamp, now, parse_timestamp

__all__ = [
    "ABSENT",
    "BYTES",
    "Event",
    "create_encoded",
    "declared_key",
    "declared_type",
    "event_type",
    "from_cloudevent",
    "new_id",
    "to_cloudevent",
    "trusted_event",
]

T_co = TypeVar("T_co", covariant=True, default=Any)
_D = TypeVar("_D")

# A separate generator, seeded by the system: random.seed(0) in a program must not give all its replicas the same
# ids, which would be treated as duplicates.
_random: Final = Random()
_getrandbits: Final = _random.getrandbits
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


class _Keep(Enum):
    KEEP = "KEEP"


_KEEP: Final = _Keep.KEEP
BYTES: Final = (bytes, bytearray, memoryview)


def new_id() -> str:
    """A new event id: 128 random bits as 32 hexadecimal digits."""
    return _getrandbits(128).to_bytes(16, "big").hex()


class _Slots(Generic[T_co]):
    """The same slots without the lock. It is made, filled, and then turned into an :class:`Event`.

    This takes half the time of filling a locked object through its slots' descriptors, and every event needs it.
    """

    __slots__ = ("_attributes", "_body", "_data", "_time")

    _attributes: dict[str, AttributeValue]
    _body: bytes | None
    _data: Any
    _time: datetime | None


@final
class Event(_Slots[T_co]):
    """An immutable CloudEvents 1.0 envelope: context attributes, and data as bytes plus content type.

    :meth:`create` makes a new event and fills in ``id``, ``time`` and ``specversion``. The readers in
    :mod:`anybroker.cloudevents` make one from what arrived and add nothing. ``Event(attributes, data)``
    adds nothing either. It has the signature of the Python SDK's constructor, so that the SDK's bindings
    accept ``Event`` as their factory; as there, None means no data.

    Absent data, JSON ``null``, ``""`` and ``b""`` are four different things, and :attr:`body` is then
    ``None``, ``b"null"``, ``b'""'`` and ``b""``.

    Two events are equal when the canonical strings of their attributes and the bytes of their data are. An
    event can be hashed, copied and pickled; a pickle holds the bytes, not the decoded :attr:`data`.
    """

    __slots__ = ()

    def __init__(self, attributes: Mapping[str, object], data: object = None) -> None:
        """Make an event with exactly these attributes; ``None`` as the data means no data.

        Attributes may be strings, 32-bit integers, booleans, bytes and aware datetimes; ``None`` is unset.

        Raises :class:`~anybroker.errors.InvalidEvent` (a ``ValueError``) when an attribute is missing or
        wrong, :class:`~anybroker.errors.EncodeError` when the data cannot be serialised.
        """
        checked: dict[str, Any] = dict(attributes)
        check_attributes(checked)
        body: bytes | None = None
        if data is not None and data is not ABSENT:
            content_type = checked.get("datacontenttype")
            if isinstance(data, BYTES):
                body = bytes(data)
            else:
                body, checked["datacontenttype"] = encode(data, content_type)
        object.__setattr__(self, "_attributes", checked)
        object.__setattr__(self, "_body", body)

    # -- making events -----------------------------------------------------------------------------------

    @overload
    @staticmethod
    def create(
        data: Absent = ...,
        *,
        source: str,
        type: str,
        id: str | None = ...,
        time: datetime | str | None = ...,
        subject: str | None = ...,
        key: object = ...,
        datacontenttype: str | None = ...,
        dataschema: str | None = ...,
        extensions: Mapping[str, AttributeValue | datetime] | None = ...,
    ) -> Event[None]: ...

    @overload
    @staticmethod
    def create(
        data: _D,
        *,
        source: str,
        type: str | None = ...,
        id: str | None = ...,
        time: datetime | str | None = ...,
        subject: str | None = ...,
        key: object = ...,
        datacontenttype: str | None = ...,
        dataschema: str | None = ...,
        extensions: Mapping[str, AttributeValue | datetime] | None = ...,
    ) -> Event[_D]: ...

    @staticmethod
    def create(
        data: Any = ABSENT,
        *,
        source: str,
        type: str | None = None,
        id: str | None = None,
        time: datetime | str | None = None,
        subject: str | None = None,
        key: object = None,
        datacontenttype: str | None = None,
        dataschema: str | None = None,
        extensions: Mapping[str, AttributeValue | datetime] | None = None,
    ) -> Event[Any]:
        """Make a new event; ``id`` is random and ``time`` is now, unless they are given.

        ``data``: a pydantic model, a dataclass, or anything pydantic can serialise becomes JSON (None is JSON
        null); bytes are data that is already encoded, with any content type; a string is a JSON string, or
        text with a ``datacontenttype`` that is not JSON. Without it the event has no data. The data is
        encoded now, and :attr:`data` of the new event is the object itself (decoded, if that was bytes).

        ``type``: by default the type that :func:`event_type` declared on the payload's class. ``key``: the
        ordering key, kept as the extension ``partitionkey``: a string, an integer, a UUID or an enum of
        those; by default the one that the class declares. ``time``: aware, or an RFC 3339 string.
        ``extensions``: by their CloudEvents names.

        Raises :class:`~anybroker.errors.InvalidEvent` naming the attribute that breaks the specification
        ("Context Attributes"), :class:`~anybroker.errors.EncodeError` when the data cannot be serialised,
        or holds NaN.
        """
        declared, key_of, is_model, floats = plans.get(data.__class__) or plan_for(data.__class__)
        if type is None:
            if declared is None:
                _undeclared(data)
            type = declared
        elif type.__class__ is not str or type not in known_types:
            type = write_type(type)
        if source.__class__ is not str or source not in known_sources:
            source = write_uri_reference("source", source)
        if datacontenttype is not None:
            datacontenttype = _write_media_type("datacontenttype", datacontenttype)
        body: bytes | None = None
        attach = is_model
        if is_model and datacontenttype is None:
            body, datacontenttype = encode_model(data, floats), JSON
        elif data is not ABSENT:
            body, datacontenttype = encode(data, datacontenttype)
            attach = not isinstance(data, BYTES)
        attributes: dict[str, Any] = {  # all six at once: the dict then has room for more without growing
            "specversion": SPECVERSION,
            "id": _getrandbits(128).to_bytes(16, "big").hex() if id is None else write_string("id", id),
            "source": source,
            "type": type,
            "time": now() if time is None else _write_time("time", time),
            "datacontenttype": datacontenttype,
        }
        if datacontenttype is None:
            del attributes["datacontenttype"]
        if subject is not None:
            attributes["subject"] = write_string("subject", subject)
        if dataschema is not None:
            attributes["dataschema"] = write_uri("dataschema", dataschema)
        if extensions:
            for name, value in extensions.items():
                attributes[name] = write_extension(name, value)
        if key is not None:
            _set_key(attributes, key)
        elif key_of is not None and "partitionkey" not in attributes:
            key = _declared_key(key_of, data)
            if key is not None:
                attributes["partitionkey"] = key_text(key)
        event: _Slots[Any] = _Slots()
        event._attributes = attributes
        event._body = body
        if attach:
            event._data = data
        event.__class__ = Event
        return event  # type: ignore[return-value]  # it is one now

    def replace(
        self,
        *,
        data: object = _KEEP,
        key: object = _KEEP,
        extensions: Mapping[str, AttributeValue | datetime | None] | None = None,
        **attributes: AttributeValue | datetime | None,
    ) -> Event[Any]:
        """A new event with some attributes changed; those are validated as in :meth:`create`, the others stay.

        Attributes and extensions go by their CloudEvents names (``event.replace(subject="s", traceparent=None)``);
        None removes an optional one. ``data`` is encoded again, with the content type that :meth:`create` would
        choose unless ``datacontenttype`` is given too; :data:`ABSENT` removes it.

        Raises what :meth:`create` raises.
        """
        changed = dict(self._attributes)
        body = self._body
        if extensions:
            attributes = {**extensions, **attributes}
        if key is not _KEEP:
            attributes["partitionkey"] = None if key is None else key_text(key)
        for name, value in attributes.items():
            if value is not None:
                changed[name] = _WRITERS.get(name, write_extension)(name, value)
            elif name in REQUIRED:
                raise InvalidEvent(f"attribute {name!r} cannot be removed. Every event has it.", attribute=name)
            else:
                changed.pop(check_name(name), None)
        if data is ABSENT:
            body = None
        elif data is not _KEEP:
            content_type = cast("str | None", changed["datacontenttype"]) if attributes.get("datacontenttype") else None
            body, changed["datacontenttype"] = encode(data, content_type)
        if data is _KEEP or body is None or isinstance(data, BYTES):
            return trusted_event(changed, body)
        return _event_with_data(changed, body, data)

    def _with_data(self, data: _D) -> Event[_D]:
        """The same event with this decoded payload as its :attr:`data`; nothing is checked.

        For the engine: attributes and bytes are shared.
        """
        return _event_with_data(self._attributes, self._body, data)

    def _without_data(self) -> Event[Any]:
        """The same event without decoded data, for a transport that passes the object instead of bytes."""
        return trusted_event(self._attributes, self._body)

    # -- reading events ----------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Unique among the events of one :attr:`source`."""
        return self._attributes["id"]  # type: ignore[return-value]  # core attributes are strings

    @property
    def source(self) -> str:
        """The context in which the event happened: a URI-reference."""
        return self._attributes["source"]  # type: ignore[return-value]

    @property
    def type(self) -> str:
        """The kind of event."""
        return self._attributes["type"]  # type: ignore[return-value]

    @property
    def specversion(self) -> str:
        """Always ``1.0``."""
        return self._attributes["specversion"]  # type: ignore[return-value]

    @property
    def subject(self) -> str | None:
        """What the event is about, within its source."""
        return self._attributes.get("subject")  # type: ignore[return-value]

    @property
    def datacontenttype(self) -> str | None:
        """The media type of the data, as it was written."""
        return self._attributes.get("datacontenttype")  # type: ignore[return-value]

    @property
    def dataschema(self) -> str | None:
        """The URI of the schema that the data follows."""
        return self._attributes.get("dataschema")  # type: ignore[return-value]

    @property
    def time(self) -> datetime | None:
        """When it happened: aware, in the offset it was written in, cut to microseconds; None if the event has no time.

        A leap second (``:60``) is the first instant of the next minute. :attr:`time_raw` is the string.
        """
        try:
            return self._time
        except AttributeError:  # an unset slot: not parsed yet
            raw = self._attributes.get("time")
            moment = None if raw is None else parse_timestamp(cast("str", raw))
            object.__setattr__(self, "_time", moment)
            return moment

    @property
    def time_raw(self) -> str | None:
        """The time as it was written, with every digit."""
        return self._attributes.get("time")  # type: ignore[return-value]

    @property
    def key(self) -> str | None:
        """The ordering key: the extension ``partitionkey`` as a string; None where it is absent or empty.

        A key of more than 512 bytes of UTF-8, which ``publish`` refuses but other programs may send, is replaced by its
        hash: ``hash:`` and 40 hexadecimal digits. The attribute itself is unchanged.
        """
        key = self._attributes.get("partitionkey")
        if key is None or (type(key) is str and 0 < len(key) <= SHORT_KEY):
            return key
        return bounded_key(canonical(key)) or None

    @property
    def extensions(self) -> Mapping[str, AttributeValue]:
        """The attributes that CloudEvents does not define itself: a read-only copy."""
        return MappingProxyType({name: value for name, value in self._attributes.items() if name not in CORE})

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        """All attributes by their CloudEvents names: a read-only view."""
        return MappingProxyType(self._attributes)

    @property
    def body(self) -> bytes | None:
        """The data as bytes; None when there is none."""
        return self._body

    @property
    def has_data(self) -> bool:
        """Whether there is data; JSON null and empty bytes count as data."""
        return self._body is not None

    @property
    def data(self) -> T_co:
        """The data: JSON as Python values, ``text/*`` as a string, anything else as bytes; None when there
        is none.

        Decoded on first access and kept. A handler's event, and a new event, return the payload object
        itself. It may be mutable; changing it does not change the event's bytes.

        Raises :class:`~anybroker.errors.DecodeError` when the bytes are not what the content type says.
        """
        try:
            return self._data  # type: ignore[no-any-return]
        except AttributeError:  # an unset slot: not decoded yet
            data = None if self._body is None else decode(self._body, self.datacontenttype)
            object.__setattr__(self, "_data", data)
            return cast("T_co", data)

    def __getitem__(self, name: str) -> AttributeValue:
        """The value of an attribute, by its CloudEvents name; ``KeyError`` when it is not set."""
        return self._attributes[name]

    def __contains__(self, name: object) -> bool:
        """Whether the attribute is set."""
        return name in self._attributes

    @overload
    def get(self, name: str, default: None = None) -> AttributeValue | None: ...

    @overload
    def get(self, name: str, default: _D) -> AttributeValue | _D: ...

    def get(self, name: str, default: object = None) -> object:
        """The value of an attribute, by its CloudEvents name, or the default when it is not set."""
        return self._attributes.get(name, default)

    # -- the protocol of the CloudEvents SDK -------------------------------------------------------------

    def to_cloudevent(self, factory: Callable[[dict[str, Any], Any], Any] | None = None) -> Any:
        """This event as one of the CloudEvents Python SDK, with the same attributes and data.

        ``factory`` is a class of the SDK, or any function of attributes and data; by default the installed SDK, 2.x
        before 1.x. The 2.x classes get the time as a datetime; the 1.x classes (recognised by their method
        ``create``) get every attribute as a string.

        The data is what :attr:`data` gives, with one exception: the SDK 2.x takes None for no data, and
        writes only dicts as JSON, so any other JSON value reaches it as bytes.

        Raises :class:`~anybroker.errors.ConfigError` when no SDK is installed,
        :class:`~anybroker.errors.DecodeError` when the data is not what its content type says.
        """
        if factory is None:
            factory = installed_factory()
        if factory is Event:
            return self
        return make_with(factory, self._attributes, self.get_attributes(), self.data, self._body)

    @staticmethod
    def from_cloudevent(event: object) -> Event[Any]:
        """An event of the CloudEvents Python SDK, 1.x or 2.x, as an :class:`Event`; nothing is added.

        Accepts any object with ``get_attributes()`` and ``get_data()``. None means no data, as in the SDK; a string
        with a JSON content type, or without a content type, is a JSON string.

        Raises :class:`~anybroker.errors.InvalidEvent` when an attribute is missing or wrong, or the object is
        not an event.
        """
        return event if isinstance(event, Event) else Event(*parts_of(event))

    def get_id(self) -> str:
        """:attr:`id`, for the SDK's protocol."""
        return self.id

    def get_source(self) -> str:
        """:attr:`source`, for the SDK's protocol."""
        return self.source

    def get_type(self) -> str:
        """:attr:`type`, for the SDK's protocol."""
        return self.type

    def get_specversion(self) -> str:
        """:attr:`specversion`, for the SDK's protocol."""
        return self.specversion

    def get_datacontenttype(self) -> str | None:
        """:attr:`datacontenttype`, for the SDK's protocol."""
        return self.datacontenttype

    def get_dataschema(self) -> str | None:
        """:attr:`dataschema`, for the SDK's protocol."""
        return self.dataschema

    def get_subject(self) -> str | None:
        """:attr:`subject`, for the SDK's protocol."""
        return self.subject

    def get_time(self) -> datetime | None:
        """:attr:`time`, for the SDK's protocol."""
        return self.time

    def get_extension(self, extension_name: str) -> AttributeValue | None:
        """The value of an extension, or None, for the SDK's protocol."""
        return self._attributes.get(extension_name)

    def get_data(self) -> Any:
        """:attr:`data`, for the SDK's protocol."""
        return self.data

    def get_attributes(self) -> dict[str, Any]:
        """All attributes in a new dict, for the SDK's protocol.

        The time is a datetime; booleans and bytes are their canonical strings, because the SDK's bindings would
        write ``True`` and ``b'...'``.
        """
        attributes: dict[str, Any] = {
            name: canonical(value) if isinstance(value, bool | bytes) else value
            for name, value in self._attributes.items()
        }
        if "time" in attributes:
            attributes["time"] = self.time
        return attributes

    # -- being a value -----------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return self is other or (
            self._body == other._body and _canonical_map(self._attributes) == _canonical_map(other._attributes)
        )

    def __hash__(self) -> int:
        return hash((self._attributes["id"], self._attributes["source"], self._body))

    def __repr__(self) -> str:
        size = "no data" if self._body is None else f"{len(self._body)} bytes of {self.datacontenttype or 'data'}"
        return f"<Event {self.type!r} id={self.id!r} source={self.source!r}, {size}>"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an Event cannot be changed: event.replace({name}=...) makes a new one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"an Event cannot be changed: event.replace({name}=None) makes a new one")

    def __copy__(self) -> Event[T_co]:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Event[Any]:
        return trusted_event(self._attributes, self._body)

    def __reduce__(self) -> tuple[Callable[..., Event[Any]], tuple[dict[str, AttributeValue], bytes | None]]:
        return trusted_event, (self._attributes, self._body)


to_cloudevent = Event.to_cloudevent
from_cloudevent = Event.from_cloudevent


def create_encoded(
    data: _D,
    encode: Callable[[str], tuple[bytes, str, str | None]],
    *,
    source: str,
    type: str | None,
    id: str | None,
    time: datetime | str | None,
    subject: str | None,
    key: object,
    dataschema: str | None,
    extensions: Mapping[str, AttributeValue | datetime] | None,
) -> Event[_D]:
    """As :meth:`Event.create`, of a payload that a codec encodes: a function from the event's type to the bytes, their
    content type and the URI of their schema, over which ``dataschema`` goes."""
    declared, key_of, _, _ = plan_for(data.__class__)
    if type is None:
        if declared is None:
            _undeclared(data)
        type = declared
    else:
        type = write_type(type)
    body, content_type, schema = encode(type)
    if body.__class__ is not bytes or content_type.__class__ is not str:
        raise TypeError("the codec returned something other than (bytes, content type, schema or None)")
    if key is None and key_of is not None and "partitionkey" not in (extensions or ()):
        key = _declared_key(key_of, data)
    return Event.create(
        body,
        source=source,
        type=type,
        id=id,
        time=time,
        subject=subject,
        key=key,
        datacontenttype=content_type,
        dataschema=schema if dataschema is None else dataschema,
        extensions=extensions,
    )._with_data(data)


def trusted_event(attributes: dict[str, AttributeValue], body: bytes | None) -> Event[Any]:
    """An event with attributes that are already checked and that nobody will change; for the readers."""
    event: _Slots[Any] = _Slots()
    event._attributes = attributes
    event._body = body
    event.__class__ = Event
    return event  # type: ignore[return-value]  # it is one now


def _event_with_data(attributes: dict[str, AttributeValue], body: bytes | None, data: Any) -> Event[Any]:
    event: _Slots[Any] = _Slots()
    event._attributes = attributes
    event._body = body
    event._data = data
    event.__class__ = Event
    return event  # type: ignore[return-value]  # it is one now


def _canonical_map(attributes: dict[str, AttributeValue]) -> dict[str, str]:
    """What equality compares: 10 arrives as "10" over a transport of strings, and is still the same event."""
    return {name: canonical(value) for name, value in attributes.items()}


def _undeclared(data: object) -> NoReturn:
    cls = type(data)
    bases = [base for base in cls.__mro__[1:] if declared_type(base) is not None]
    if bases:
        problem = f"is declared on {bases[0].__qualname__} but not on its subclass {cls.__qualname__}"
    else:
        declares = "there is no data to declare it" if data is ABSENT else f"{cls.__qualname__} declares none"
        problem = f"is not given, and {declares}"
    raise InvalidEvent(
        f"attribute 'type' {problem}. "
        'Pass type=, or put @event_type("com.example.thing.happened.v1") above the class.',
        attribute="type",
    )


def _write_media_type(name: str, value: object) -> str:
    text = write_string(name, value)
    media_type(text)
    return text


def _write_time(name: str, value: object) -> str:
    if isinstance(value, datetime):
        return format_timestamp(name, value)
    text = write_string(name, value)
    check_timestamp(name, text)
    return text


def _declared_key(key_of: Callable[[Any], object], data: object) -> object:
    try:
        return key_of(data)
    except Exception as error:
        raise InvalidEvent(
            f"the ordering key declared by {type(data).__qualname__} cannot be read ({type(error).__name__}). "
            "Fix the key= of its @event_type, or pass key=.",
            attribute="partitionkey",
        ) from error


def _set_key(attributes: dict[str, AttributeValue], key: object) -> None:
    text = key_text(key)
    if attributes.setdefault("partitionkey", text) != text:
        raise InvalidEvent(
            "attribute 'partitionkey' is given twice, as key= and as an extension, with different values. Give one.",
            attribute="partitionkey",
        )


def _write_specversion(name: str, value: object) -> str:
    if value != SPECVERSION:
        raise InvalidEvent(f"attribute {name!r} cannot be changed: it is {SPECVERSION!r}.", attribute=name)
    return SPECVERSION


_WRITERS: Final[dict[str, Callable[[str, Any], AttributeValue]]] = {
    "specversion": _write_specversion,
    "id": write_string,
    "source": write_uri_reference,
    "type": write_string,
    "subject": write_string,
    "datacontenttype": _write_media_type,
    "dataschema": write_uri,
    "time": _write_time,
}

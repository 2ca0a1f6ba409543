"""What a payload class declares about its events: their type, and the field that orders them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from operator import attrgetter
from typing import Any, Final, TypeVar
from uuid import UUID

from typing_extensions import is_typeddict  # knows both kinds of TypedDict

from ..errors import ConfigError, InvalidEvent
from .attributes import write_string

__all__ = ["KeyOf", "declared_key", "declared_key_name", "declared_type", "event_type", "key_text", "on_declaration"]

KeyOf = Callable[[Any], object]
"""Gets the ordering key of a payload: a string, an integer, a UUID, an enum of those, or None for no order."""

_C = TypeVar("_C", bound=type)

_TYPE: Final = "__anybroker_event_type__"
_KEY: Final = "__anybroker_key__"
_KEY_NAME: Final = "__anybroker_key_name__"
_PATH: Final = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")

on_declaration: list[Callable[[], None]] = []
"""Called when a class is declared, to forget what was remembered about classes."""


def event_type(name: str, *, key: str | Callable[[Any], str | None] | None = None) -> Callable[[_C], _C]:
    """Declare the CloudEvents ``type`` of the events that carry this class, and the field that orders them.

    Works on pydantic models, dataclasses and every other class that takes attributes; put it outermost::

        @event_type("com.example.order.placed.v1", key="customer")
        class OrderPlaced(BaseModel): ...

    ``name`` is any non-empty string, by convention reverse DNS with a version at the end. ``key`` is a
    field, a dotted path of fields (None anywhere on the path means no key), or a function from the payload
    to the key.

    The type belongs to this class alone: a subclass is another kind of event and declares its own, because
    a consumer that filters by the base's type would otherwise receive payloads that it does not know. The
    key is inherited and can be declared again. A parametrised generic model (``Page[Order]``) counts as its
    generic class.

    Raises :class:`~anybroker.errors.ConfigError` when the name is not a valid type, or the class has no such
    field.
    """
    try:
        checked = write_string("type", name)
    except InvalidEvent as error:
        raise ConfigError("event_type(name)", str(error)) from None

    def declare(cls: _C) -> _C:
        if not isinstance(cls, type):
            raise ConfigError("event_type", f"decorates a {type(cls).__name__}", "Put it above a class.")
        setattr(cls, _TYPE, checked)
        if key is not None:
            setattr(cls, _KEY, key if callable(key) else _by_path(cls, key))
            setattr(cls, _KEY_NAME, getattr(key, "__name__", type(key).__name__) if callable(key) else key)
        for forget in on_declaration:
            forget()
        return cls

    return declare


def declared_type(cls: type) -> str | None:
    """The event type declared on this class itself (not on a base), or None."""
    return vars(_generic(cls)).get(_TYPE)


def declared_key(cls: type) -> KeyOf | None:
    """The function that gets the ordering key of a payload, declared on this class or on a base; or None."""
    for base in _generic(cls).__mro__:
        if _KEY in vars(base):
            key_of: KeyOf = vars(base)[_KEY]
            return key_of
    return None


def declared_key_name(cls: type) -> str | None:
    """What finds the ordering key, for people: the path of fields, or the function's name; None without one."""
    name: str | None = getattr(_generic(cls), _KEY_NAME, None)
    return name


def key_text(key: object) -> str:
    """The ordering key as the non-empty string that is sent. Raises :class:`~anybroker.errors.InvalidEvent`."""
    if type(key) is str and key.isascii() and key.isprintable() and key:
        return key
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, UUID) or (isinstance(key, int) and not isinstance(key, bool)):
        return str(key)
    if not isinstance(key, str):
        raise InvalidEvent(
            f"the ordering key (attribute 'partitionkey') is a {type(key).__name__}. "
            "Use a string, an integer, a UUID or an enum of those; None means no order.",
            attribute="partitionkey",
        )
    return write_string("partitionkey", key)


def _generic(cls: type) -> type:
    metadata = vars(cls).get("__pydantic_generic_metadata__")
    origin = metadata.get("origin") if isinstance(metadata, dict) else None
    return origin if isinstance(origin, type) else cls


def _fields(cls: type) -> list[str] | None:
    """The names of the fields, where the class tells them."""
    for attribute in ("__pydantic_fields__", "__dataclass_fields__"):
        fields = getattr(cls, attribute, None)
        if isinstance(fields, dict):
            return list(fields)
    if is_typeddict(cls):
        # Not __annotations__: since Python 3.14 reading it evaluates them, and a name may be undefined.
        keys: frozenset[str] = cls.__required_keys__ | cls.__optional_keys__  # type: ignore[attr-defined]
        return sorted(keys)
    return None


def _by_path(cls: type, path: str) -> KeyOf:
    if _PATH.fullmatch(path) is None:
        raise ConfigError(
            "event_type(key=)",
            f"{path!r} is not a field path",
            "Write field, or field.field, or pass a function.",
        )
    names = path.split(".")
    fields = _fields(cls)
    if fields is not None and names[0] not in fields and not hasattr(cls, names[0]):  # a property will do
        raise ConfigError(
            "event_type(key=)",
            f"{cls.__name__} has no field {names[0]!r}",
            f"It has {', '.join(fields) or 'none'}.",
        )
    if len(names) == 1 and not is_typeddict(cls):
        return attrgetter(path)

    def walk(payload: Any) -> object:
        for name in names:
            if payload is None:
                return None
            payload = payload[name] if isinstance(payload, Mapping) else getattr(payload, name)
        return payload

    return walk

"""From a payload to bytes and back: pydantic's own JSON, text in its character set, bytes as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from ..errors import DecodeError, EncodeError
from .declared import KeyOf, declared_key, declared_type, on_declaration
from .media_type import JSON, OCTETS, media_type

__all__ = ["ABSENT", "Absent", "Plan", "decode", "encode", "encode_model", "is_json", "plan_for", "plans"]


class Absent(Enum):
    """The type of :data:`ABSENT`."""

    ABSENT = "ABSENT"

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent.ABSENT
"""No data, which is neither JSON null (None) nor empty bytes."""


Plan = tuple[str | None, KeyOf | None, bool, bool]
"""What is remembered about a payload's class: the event type and the ordering key that it declares, whether it has its
own pydantic serializer, and whether such a model can hold a float, and so a NaN."""

_MAX_PLANS: Final = 4096  # bounded, because classes can be made at run time
plans: dict[type, Plan] = {}  # read by Event.create, which saves a call
on_declaration.append(plans.clear)


def plan_for(cls: type) -> Plan:
    """The plan of a class, made at its first use."""
    plan = plans.get(cls)
    if plan is None:
        is_model = issubclass(cls, BaseModel) or hasattr(cls, "__pydantic_serializer__")
        plan = (declared_type(cls), declared_key(cls), is_model, is_model and _may_hold_floats(cls))
        if len(plans) >= _MAX_PLANS:
            plans.clear()
        plans[cls] = plan
    return plan


def _may_hold_floats(cls: type) -> bool:
    """Whether a model's schema has a float, or does not say what it holds."""
    pending: list[object] = [getattr(cls, "__pydantic_core_schema__", None)]
    if not isinstance(pending[0], dict):  # not built yet: forward references
        return True
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            if part.get("type") in ("float", "any", "is-instance", "callable", "custom-error"):
                return True
            pending.extend(value for name, value in part.items() if name not in ("metadata", "cls", "config"))
        elif isinstance(part, list | tuple):
            pending.extend(part)
    return False


def encode_model(model: Any, floats: bool) -> bytes:
    """The JSON bytes of a pydantic model, by its own serializer.

    A NaN or an infinity is refused: JSON has none, and pydantic would write ``null`` for it. A model that was
    configured with ``ser_json_inf_nan="strings"`` may hold them.
    """
    try:
        body: bytes = model.__pydantic_serializer__.to_json(model)
    except Exception as error:
        raise _unserialisable(model, error) from error
    if floats and (b"null" in body or b"NaN" in body or b"Infinity" in body):
        config = getattr(type(model), "model_config", {})
        if config.get("ser_json_inf_nan") != "strings":
            _refuse_nan(model.__pydantic_serializer__.to_python(model))
    return body


def encode(data: object, content_type: str | None) -> tuple[bytes, str]:
    """A payload as bytes, and its content type.

    bytes stay as they are, under ``application/octet-stream`` unless said otherwise. A string under a
    content type that is not JSON is text in that type's character set. Everything else is JSON.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        if content_type is not None:
            media_type(content_type)
        return bytes(data), OCTETS if content_type is None else content_type
    if content_type is None:
        return _encode_json(data), JSON
    kind = media_type(content_type)
    if kind.charset is None:
        raise EncodeError(f"the character set of {content_type!r} is unknown. Pass the data as bytes, already encoded.")
    if not kind.json:
        if not isinstance(data, str):
            raise EncodeError(
                f"a {type(data).__name__} can only be written as JSON, but the type is {content_type!r}. "
                "Pass bytes or a string, or leave datacontenttype out."
            )
        return _in_charset(data, kind.charset), content_type
    body = _encode_json(data)
    return (body if kind.charset == "utf-8" else _in_charset(body.decode(), kind.charset)), content_type


def _in_charset(text: str, charset: str) -> bytes:
    try:
        return text.encode(charset)
    except UnicodeError as error:
        raise EncodeError(f"the text cannot be written in {charset}: {_reason(error)}") from error


def _reason(error: UnicodeError) -> str:
    """What is wrong, without showing the text, which may be secret."""
    if isinstance(error, UnicodeEncodeError | UnicodeDecodeError):
        return f"{error.reason} at position {error.start}"
    return type(error).__name__


def _encode_json(data: object) -> bytes:
    _, _, is_model, floats = plan_for(type(data))
    if is_model:
        return encode_model(data, floats)
    try:
        body = to_json(data, inf_nan_mode="constants")
    except Exception as error:
        raise _unserialisable(data, error) from error
    if b"null" in body:  # which is what a model further inside writes for NaN
        _refuse_nan(data)
    if (b"NaN" in body or b"Infinity" in body) and not is_json(body):
        _refuse_nan(data)
        raise EncodeError("the data holds NaN or an infinity, which JSON does not have. Use None, or a string.")
    return body


def is_json(body: bytes) -> bool:
    """Whether the bytes are one JSON value in UTF-8, NaN and infinities excluded."""
    try:
        from_json(body, allow_inf_nan=False, cache_strings=False)
    except ValueError:
        return False
    return True


def _children(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        yield from ((f"{path}[{_shown(name)}]", child) for name, child in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"{path}[{index}]", child) for index, child in enumerate(value))
    elif isinstance(value, BaseModel):
        yield from ((f"{path}.{name}", child) for name, child in value)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((f"{path}.{field.name}", getattr(value, field.name)) for field in fields(value))


def _shown(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 40 else text[:37] + "..."


def _refuse_nan(value: object) -> None:
    """Raise for the first NaN or infinity, with its path; a value without one passes."""
    pending = [("data", value)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, float) and not math.isfinite(value):
            raise EncodeError(f"{path} is {value}, which JSON does not have. Use None, or a string.")
        if not (isinstance(value, BaseModel) and value.model_config.get("ser_json_inf_nan") == "strings"):
            pending.extend(_children(value, path))


def _unserialisable(value: object, cause: Exception) -> EncodeError:
    """The error for a payload that pydantic refused, with the path and the type of the offending part."""
    path = "data"
    for _ in range(100):  # deeper is a cycle, or as good as one
        for child_path, child in _children(value, path):
            if not _serialisable(child):
                path, value = child_path, child
                break
        else:
            break
    reason = str(cause).removeprefix("Error serializing to JSON: ").splitlines()[:1]
    return EncodeError(
        f"{path} is a {type(value).__module__}.{type(value).__qualname__} that cannot be written as JSON "
        f"({(reason or ['no reason given'])[0]}). Use a pydantic model, a dataclass, JSON types, or bytes."
    )


def _serialisable(value: object) -> bool:
    try:
        to_json(value)
    except Exception:  # noqa: BLE001 - the caller raises the first failure with its path
        return False
    return True


def decode(body: bytes, content_type: str | None) -> Any:
    """The data of an event: JSON as Python values, ``text/*`` as a string, everything else as the bytes.

    Raises :class:`~anybroker.errors.DecodeError` when the bytes are not what the content type says.
    """
    if content_type is None:  # no assumption may be made (JSON format, section 3.1.2)
        return body
    kind = media_type(content_type)
    if not (kind.json or kind.text):
        return body
    if kind.charset is None:
        raise DecodeError(f"the character set of {content_type!r} is unknown; event.body has the bytes")
    try:
        if kind.json and kind.charset in ("utf-8", "ascii"):
            return from_json(body, allow_inf_nan=False)
        text = body.decode(kind.charset)
        return from_json(text, allow_inf_nan=False) if kind.json else text
    except UnicodeError as error:
        raise DecodeError(f"the data is not {kind.charset} text: {_reason(error)}") from error
    except ValueError as error:
        raise DecodeError(f"the data is not JSON, though its content type is {content_type!r}: {error}") from error

"""The payload types that an annotation names."""

from __future__ import annotations

import types
from typing import Annotated, Union, get_args, get_origin

from ..cloudevents.event import declared_type as _declared

__all__ = ["declared_type", "members", "show"]


def declared_type(annotation: object) -> str | None:
    """The event type declared on a payload annotation, where it is a class that has one."""
    return _declared(annotation) if isinstance(annotation, type) else None


def members(annotation: object) -> list[object]:
    """The payload types that an annotation names: a union's members, without Annotated."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [annotation]


def show(annotation: object) -> str:
    """An annotation in errors."""
    return getattr(annotation, "__name__", None) or str(annotation)

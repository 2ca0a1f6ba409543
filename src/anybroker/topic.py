"""A typed view of one topic: ``orders = bus.topic("orders", OrderPlaced | OrderCancelled)``."""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Generic, TypeVar, Union, Unpack, get_args, get_origin

from .adapter import Receipt
from .engine.publishes import Publishes, PublishOptions
from .errors import BrokerError, ConfigError

__all__ = ["PublishOptions", "Topic", "payload_classes"]

_T_contra = TypeVar("_T_contra", contravariant=True)


class Topic(Generic[_T_contra]):
    """Publishes payloads of the declared types to one topic; a type checker refuses others, and so does this.

    Made by :meth:`Bus.topic`.
    """

    def __init__(self, bus: Publishes, name: str, types: tuple[type, ...]) -> None:
        self._bus = bus
        self.name = name
        self._types = types

    async def publish(self, data: _T_contra, /, **options: Unpack[PublishOptions]) -> Receipt:
        """As :meth:`Bus.publish`. ``TypeError`` for a payload of another type."""
        self._check(data)
        return await self._bus.publish(self.name, data, **options)

    async def publish_many(
        self, items: Iterable[_T_contra], /, *, deadline: float | None = None, within: object = None
    ) -> list[Receipt | BrokerError]:
        """As :meth:`Bus.publish_many`. ``TypeError`` for a payload of another type; then nothing is sent."""
        listed = list(items)
        for item in listed:
            self._check(item)
        return await self._bus.publish_many(self.name, listed, deadline=deadline, within=within)

    def _check(self, data: object) -> None:
        if self._types and not isinstance(data, self._types):
            names = " | ".join(kind.__name__ for kind in self._types)
            raise TypeError(f"topic {self.name!r} takes {names}, not {type(data).__name__}")


def payload_classes(payload: object) -> tuple[type, ...]:
    """The classes of a payload type: of a union, those of its members; of ``list[int]``, ``list``.

    Raises ConfigError for a type whose values cannot be told by their class, such as ``Literal["a"]``.
    """
    origin = get_origin(payload)
    if origin in (Union, UnionType):
        return tuple(found for member in get_args(payload) for found in payload_classes(member))
    if origin is Annotated:
        return payload_classes(get_args(payload)[0])
    found = NoneType if payload is None else origin or payload
    if not isinstance(found, type):
        raise ConfigError("topic(payload=)", f"{payload!r} is not a class", "Give a class or a union of classes.")
    return (found,)

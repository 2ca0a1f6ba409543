"""The two calls that publish, and their options, for what publishes through a Bus."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol, TypedDict

from ..adapter import Receipt
from ..cloudevents.attributes import AttributeValue
from ..errors import BrokerError

__all__ = ["PublishOptions", "Publishes"]


class PublishOptions(TypedDict, total=False):
    """The keyword arguments of :meth:`anybroker.Bus.publish`, which says what they mean."""

    key: object
    type: str | None
    id: str | None
    source: str | None
    subject: str | None
    time: datetime | str | None
    datacontenttype: str | None
    dataschema: str | None
    extensions: Mapping[str, AttributeValue | datetime] | None
    headers: Mapping[str, str] | None
    delay: float | None
    expires_in: float | None
    deadline: float | None
    within: object


class Publishes(Protocol):
    """The two calls that publish: see :class:`anybroker.Bus`."""

    @property
    def publish(self) -> Callable[..., Coroutine[Any, Any, Receipt]]:
        """One event: topic, data, and :class:`PublishOptions`."""
        ...

    def publish_many(
        self, topic: str, items: Iterable[object], /, *, deadline: float | None = None, within: object = None
    ) -> Coroutine[Any, Any, list[Receipt | BrokerError]]:
        """Several."""
        ...

"""To and from the events of the CloudEvents Python SDK, by their shape: versions 1.x and 2.x."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from ..errors import ConfigError, InvalidEvent
from .attributes import canonical
from .event import Event
from .media_type import media_type

__all__ = ["from_cloudevent", "to_cloudevent"]


def to_cloudevent(event: Event[Any], factory: Callable[[dict[str, Any], Any], Any] | None = None) -> Any:
    """An event of the SDK with the same attributes and data.

    ``factory`` is a class of the SDK, or any function of attributes and data; without one the SDK that is
    installed is used, 2.x before 1.x. The 2.x classes are given the time as a datetime, the 1.x classes
    (known by their method ``create``) get every attribute as a string.

    The data is what :attr:`Event.data` gives, with one exception: the SDK 2.x takes None for no data, and
    writes only dicts as JSON, so any other JSON value reaches it as bytes.

    Raises :class:`~anybroker.errors.ConfigError` when no SDK is installed,
    :class:`~anybroker.errors.DecodeError` when the data is not what its content type says.
    """
    if factory is None:
        factory = _installed()
    if factory is Event:
        return event
    create: Callable[[dict[str, Any], Any], Any] | None = getattr(factory, "create", None)
    if create is not None:
        return create({name: canonical(value) for name, value in event.attributes.items()}, event.data)
    data = event.data
    content_type = event.datacontenttype
    if content_type is not None and media_type(content_type).json and not isinstance(data, dict):
        data = event.body
    return factory(event.get_attributes(), data)


def _installed() -> Callable[[dict[str, Any], Any], Any]:
    for module in ("cloudevents.core.v1.event", "cloudevents.http"):  # 2.x, 1.x
        try:
            found: Callable[[dict[str, Any], Any], Any] = import_module(module).CloudEvent
        except ModuleNotFoundError:
            continue
        return found
    raise ConfigError("to_cloudevent", "the CloudEvents SDK is not installed", "pip install 'anybroker[cloudevents]'")


def from_cloudevent(event: Any) -> Event[Any]:
    """The same event as one of ours; nothing is invented.

    Takes whatever has ``get_attributes()`` and ``get_data()``. Data of None is no data, as the SDK has it;
    a string under a JSON content type, or under none, is a JSON string.

    Raises :class:`~anybroker.errors.InvalidEvent` when an attribute is missing or wrong, or the object is
    no event.
    """
    if isinstance(event, Event):
        return event
    get_attributes, get_data = getattr(event, "get_attributes", None), getattr(event, "get_data", None)
    if get_attributes is None or get_data is None:
        raise InvalidEvent(
            f"a {type(event).__qualname__} is no CloudEvent: it lacks get_attributes() or get_data(). "
            "Pass an event of the SDK."
        )
    attributes: Mapping[str, Any] = get_attributes()
    key = attributes.get("partitionkey")
    if isinstance(key, bytes):  # the 1.x binding of a log with record keys puts the key there as it is
        attributes = {**attributes, "partitionkey": key.decode("utf-8", "replace")}
    return Event(attributes, get_data())

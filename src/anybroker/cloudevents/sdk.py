"""Converting to and from events of the CloudEvents Python SDK, recognised by their shape: versions 1.x and 2.x."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from ..errors import ConfigError, InvalidEvent
from .attributes import AttributeValue, canonical
from .media_type import media_type

__all__ = ["installed_factory", "make_with", "parts_of"]


def make_with(
    factory: Callable[[dict[str, Any], Any], Any],
    attributes: Mapping[str, AttributeValue],
    for_sdk: dict[str, Any],
    data: Any,
    body: bytes | None,
) -> Any:
    """An event of the SDK, made by one of its classes or by another function of attributes and data.

    The 2.x classes get the attributes ``for_sdk``, with the time as a datetime; the 1.x classes (recognised by their
    method ``create``) get every attribute as a string. The SDK 2.x takes None for no data, and writes only dicts as
    JSON, so any other JSON value reaches it as bytes.
    """
    create: Callable[[dict[str, Any], Any], Any] | None = getattr(factory, "create", None)
    if create is not None:
        return create({name: canonical(value) for name, value in attributes.items()}, data)
    content_type = for_sdk.get("datacontenttype")
    if content_type is not None and media_type(content_type).json and not isinstance(data, dict):
        data = body
    return factory(for_sdk, data)


def installed_factory() -> Callable[[dict[str, Any], Any], Any]:
    """The class of the SDK that is installed, 2.x before 1.x. Raises ConfigError when there is none."""
    for module in ("cloudevents.core.v1.event", "cloudevents.http"):  # 2.x, 1.x
        try:
            factory: Callable[[dict[str, Any], Any], Any] = import_module(module).CloudEvent
        except ModuleNotFoundError:
            continue
        return factory
    raise ConfigError("to_cloudevent", "the CloudEvents SDK is not installed", "pip install 'anybroker[cloudevents]'")


def parts_of(event: object) -> tuple[Mapping[str, Any], Any]:
    """Attributes and data of an object with ``get_attributes()`` and ``get_data()``. Raises InvalidEvent for others."""
    get_attributes, get_data = getattr(event, "get_attributes", None), getattr(event, "get_data", None)
    if get_attributes is None or get_data is None:
        raise InvalidEvent(
            f"a {type(event).__qualname__} is not a CloudEvent: it lacks get_attributes() or get_data(). "
            "Pass an event of the SDK."
        )
    attributes: Mapping[str, Any] = get_attributes()
    key = attributes.get("partitionkey")
    if isinstance(key, bytes):  # the SDK's 1.x binding for Kafka keeps the record's key as bytes
        attributes = {**attributes, "partitionkey": key.decode("utf-8", "replace")}
    return attributes, get_data()

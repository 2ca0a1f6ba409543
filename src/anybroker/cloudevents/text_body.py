"""Structured events as text, for transports that carry characters instead of bytes and have no CloudEvents binding.

The event is JSON in the message's body. A few attributes are repeated in the message's attributes, for filters. A
notification service may have wrapped the body in its own envelope on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic_core import from_json

from ..errors import InvalidEvent
from .attributes import canonical
from .event import Event
from .headers import HeaderBinding
from .json_format import format_xml_safe_json, parse_json
from .media_type import STRUCTURED, is_structured

__all__ = ["filter_attributes", "format_text", "parse_text"]

_BINARY: Final = HeaderBinding(str, prefix="ce-", also_read=("ce_",), content_type="header")


def format_text(event: Event[Any]) -> str:
    """The event as structured JSON in characters that XML 1.0 allows. Never fails, and is never empty.

    Every body comes back byte for byte; a body that JSON text cannot carry is sent as ``data_base64``.
    """
    return format_xml_safe_json(event).decode()


def filter_attributes(event: Event[Any], names: Iterable[str] = ("type", "source", "subject")) -> dict[str, str]:
    """The message attributes for filter policies: ``content-type``, and ``ce-…`` of those that are set.

    Empty values are left out, because such transports refuse them; the body has them.
    """
    attributes = {"content-type": STRUCTURED}
    for name in names:
        value = event.get(name)
        if value is not None and (text := canonical(value)):
            attributes[f"ce-{name}"] = text
    return attributes


def parse_text(body: str | bytes, attributes: Mapping[str, Any]) -> Event[Any]:
    """Read an event by the shape of the message.

    In this order: ``content-type`` says it is structured; ``ce-specversion`` says it is in binary mode,
    with the body as the data; the body is a notification envelope (``Type``, ``Message``,
    ``MessageAttributes``), and its message is read the same way; the body is an event in JSON. The
    attributes map names to strings or bytes.

    Raises :class:`~anybroker.errors.InvalidEvent` for a message that is not a valid event, and nothing else.
    """
    return _parse(_bytes(body), attributes, enveloped=False)


def _parse(body: bytes, attributes: Mapping[str, Any], *, enveloped: bool) -> Event[Any]:
    content_type = attributes.get("content-type")
    if isinstance(content_type, str) and is_structured(content_type):
        return _BINARY.parse((), body, content_type=content_type)
    if "ce-specversion" in attributes or "ce_specversion" in attributes:
        return _BINARY.parse(list(attributes.items()), body)
    envelope = None if enveloped else _envelope(body)
    if envelope is None:
        return parse_json(body)
    message, inner = envelope
    return _parse(message, inner, enveloped=True)


def _bytes(body: str | bytes) -> bytes:
    if isinstance(body, bytes):
        return body
    try:
        return body.encode()
    except UnicodeEncodeError:
        raise InvalidEvent("the message's body holds unpaired surrogates. Send valid Unicode.") from None


def _envelope(body: bytes) -> tuple[bytes, dict[str, str]] | None:
    """The message and the attributes inside a notification envelope; None if the body is not one."""
    if b'"Message"' not in body:
        return None
    try:
        envelope = from_json(body)
    except ValueError:  # not JSON: the caller reports it with the position
        return None
    if not isinstance(envelope, dict) or envelope.get("Type") != "Notification" or "specversion" in envelope:
        return None
    message = envelope.get("Message")
    if not isinstance(message, str):
        return None
    attributes: dict[str, str] = {}
    given = envelope.get("MessageAttributes")
    if isinstance(given, dict):
        for name, attribute in given.items():
            value = attribute.get("Value") if isinstance(attribute, dict) else None
            if isinstance(value, str):
                attributes[name] = value
    return _bytes(message), attributes

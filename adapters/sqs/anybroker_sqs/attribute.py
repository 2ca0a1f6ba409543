"""Our message attribute, ``anybroker``: transport headers as JSON, because a message may have ten attributes at most.

A copy of a message that has ten already (a dead letter) takes those in here too that make room for it.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import from_json

from anybroker.adapter import Outbound
from anybroker.errors import Rejected

from .foreign import Attribute, value_of

__all__ = ["MOST_ATTRIBUTES", "NOT_XML", "OURS", "add_headers", "take_headers", "too_many"]

OURS: Final = "anybroker"
MOST_ATTRIBUTES: Final = 10
NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that SQS takes neither in a body nor in an attribute [SendMessage, "MessageBody"]."""
_REQUIRED: Final = frozenset(("content-type", "ce-specversion", "ce-id", "ce-source", "ce-type"))
"""Attributes that stay where they are."""
_MOVED: Final = "anybroker-attributes"
"""Beside the transport headers: attributes that had to make room, as ``{name: [type, value]}``."""
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def too_many(count: int, topic: str) -> Rejected:
    """The event has more attributes than SQS takes."""
    return Rejected(
        f"an event for topic {topic!r} needs {count} message attributes in binary mode, and SQS takes "
        f"{MOST_ATTRIBUTES}. Use content_mode=structured"
    )


def add_headers(outbound: Outbound, attributes: dict[str, Attribute], headers: Mapping[str, Any]) -> None:
    """Add transport headers to a message's attributes. Raises Rejected for a header that is not Unicode, and where
    there is no room for one more attribute: only copies make room."""
    moved = {} if OURS not in attributes else {OURS: _moved(attributes.pop(OURS))}  # another program's
    if len(attributes) >= MOST_ATTRIBUTES:
        if not outbound.is_copy:
            raise too_many(len(attributes) + 1, outbound.topic)
        moved |= _make_room(attributes)
    if moved:
        headers = {**headers, _MOVED: moved}
    # Not as ASCII: six bytes for each letter of an error in Russian are more than a dead letter has room for.
    text = json.dumps(dict(headers), separators=(",", ":"), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise Rejected(f"an event for topic {outbound.topic!r} has a header that is not Unicode") from exc
    text = NOT_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    attributes[OURS] = {"DataType": "String", "StringValue": text}


def _make_room(attributes: dict[str, Attribute]) -> dict[str, list[str]]:
    """Take out the last ones that may go, until there is room for ours."""
    moved: dict[str, list[str]] = {}
    optional = [name for name in attributes if name not in _REQUIRED]
    while len(attributes) >= MOST_ATTRIBUTES and optional:
        name = optional.pop()
        moved[name] = _moved(attributes.pop(name))
    return moved


def _moved(attribute: Attribute) -> list[str]:
    value = value_of(attribute)
    return [attribute["DataType"], value if isinstance(value, str) else b64encode(value).decode()]


def take_headers(attributes: Mapping[str, Attribute]) -> tuple[dict[str, str], Mapping[str, Attribute]]:
    """The transport headers in our attribute, and the message's other attributes, those that were moved included. An
    attribute of our name that another program wrote is one of the others."""
    if OURS not in attributes:
        return {}, attributes
    value = value_of(attributes[OURS])
    try:
        headers = from_json(value)
    except ValueError:
        headers = _with_surrogates(value)
    if not isinstance(headers, dict):
        return {}, attributes
    moved: dict[str, Attribute] = {}
    try:
        for name, (kind, text) in headers.pop(_MOVED, {}).items():
            if kind.startswith("Binary"):
                moved[name] = {"DataType": kind, "BinaryValue": b64decode(text, validate=True)}
            elif isinstance(text, str):
                moved[name] = {"DataType": kind, "StringValue": text}
    except (ValueError, TypeError, AttributeError):
        return {}, attributes
    if not all(isinstance(text, str) for text in headers.values()):
        return {}, attributes
    return headers, {**{name: attribute for name, attribute in attributes.items() if name != OURS}, **moved}


def _with_surrogates(value: str | bytes) -> Any:
    """The JSON of an earlier release, which wrote unpaired surrogates: replaced. None where it is not JSON."""
    try:
        headers = json.loads(value)
    except (ValueError, RecursionError):  # not JSON, or nested more deeply than our headers
        return None
    if not isinstance(headers, dict):
        return None
    clean = {_SURROGATES.sub("\ufffd", name): text for name, text in headers.items()}
    return {name: _SURROGATES.sub("\ufffd", text) if isinstance(text, str) else text for name, text in clean.items()}

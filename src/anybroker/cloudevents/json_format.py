"""The JSON event format and the JSON batch format (CloudEvents 1.0, "JSON Event Format").

The data of an event is kept as the exact text it has in the document, so reading and writing it again preserves
every digit and the order of members; only blanks around the value are dropped.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn

from pydantic_core import from_json, to_json

from ..errors import InvalidEvent
from .attributes import canonical, check_attributes
from .event import Event, trusted_event
from .media_type import JSON, media_type
from .payload import is_json

__all__ = ["format_json", "format_json_batch", "format_xml_safe_json", "parse_json", "parse_json_batch"]

_BLANKS: Final = b" \t\r\n"
_BOM: Final = b"\xef\xbb\xbf"
_DATA: Final = b'"data":'


# -- reading ---------------------------------------------------------------------------------------------


def parse_json(document: bytes | str) -> Event[Any]:
    """Read one event from ``application/cloudevents+json``.

    Adds nothing, with one exception that the specification requires (section 3.1.2): the data of a ``data`` member
    without ``datacontenttype`` is JSON, and the event says so, because it would lose its meaning in another mode.
    ``null`` means unset for an attribute, and is a value for ``data``. If a member occurs twice, the last one counts.

    Raises :class:`~anybroker.errors.InvalidEvent` for everything that is not an event, and nothing else.
    """
    raw = _utf8(document) if isinstance(document, str) else bytes(document)
    # The usual case: `data` comes last. The text before it, once closed with a brace, is then an object, and the text
    # after it is one value: each is parsed once, and the value's text is kept. The first `"data":` must be the member,
    # because the text before one inside a string or a nested value would not parse.
    at = raw.find(_DATA)
    try:
        if at < 0:
            members = from_json(raw, allow_inf_nan=False)
            if isinstance(members, dict) and "data" not in members:
                return _event(members, None)
        else:
            head = raw[:at].rstrip(_BLANKS)
            tail = raw[at + 7 :].rstrip(_BLANKS)
            if head[-1:] == b"," and tail[-1:] == b"}":
                members = from_json(head[:-1] + b"}", allow_inf_nan=False)
                body = tail[:-1].strip(_BLANKS)
                members["data"] = from_json(body, allow_inf_nan=False)
                return _event(members, body)
    except InvalidEvent:
        raise
    except ValueError:  # another order, or JSON that pydantic does not read: the slow path decides
        pass
    text = _text(raw)
    try:
        members, exact, at = _members(text, _skip(text, 0))
        _end(text, at)
    except (IndexError, RecursionError) as error:
        _no_event(_why(error))
    return _event(members, exact)


def parse_json_batch(document: bytes | str) -> list[Event[Any]]:
    """Read the events of ``application/cloudevents-batch+json``, in order; ``[]`` is a batch.

    Raises :class:`~anybroker.errors.InvalidEvent` when the document is not an array, or one of its events is
    wrong.
    """
    raw = _utf8(document) if isinstance(document, str) else bytes(document)
    text = _text(raw)
    events: list[Event[Any]] = []
    try:
        at = _skip(text, 0)
        if text[at] != "[":
            _no_event("a batch is a JSON array, and this is not one")
        at = _skip(text, at + 1)
        if text[at] == "]":
            at += 1
        else:
            while True:
                members, body, at = _members(text, at)
                events.append(_event(members, body))
                at = _skip(text, at)
                if text[at] == "]":
                    at += 1
                    break
                if text[at] != ",":
                    _no_event(f"expected a comma or a bracket at character {at}")
                at = _skip(text, at + 1)
        _end(text, at)
    except (IndexError, RecursionError) as error:
        _no_event(_why(error))
    return events


def _no_event(problem: str) -> NoReturn:
    raise InvalidEvent(
        f"not a CloudEvent in JSON: {problem}. Send application/cloudevents+json, version 1.0."
    ) from None


def _why(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else "the text ends early"


def _utf8(document: str) -> bytes:
    try:
        return document.encode()
    except UnicodeEncodeError:
        _no_event("it holds unpaired surrogates")


def _text(raw: bytes) -> str:
    try:
        return raw.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        _no_event(f"it is not UTF-8 at byte {error.start}")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_skip_blanks: Final = re.compile(r"[ \t\r\n]*").match
_DECODER: Final = json.JSONDecoder(parse_constant=_constant)
_scan: Final[Callable[[str, int], tuple[Any, int]]] = vars(_DECODER)["scan_once"]  # typeshed lacks it


def _skip(text: str, at: int) -> int:
    return _skip_blanks(text, at).end()  # type: ignore[union-attr]  # an empty match is a match


def _end(text: str, at: int) -> None:
    if _skip(text, at) != len(text):
        _no_event(f"there is more text after its end, at character {at}")


def _members(text: str, at: int) -> tuple[dict[str, Any], bytes | None, int]:
    """The members of the object that starts at ``at``, the exact text of its ``data``, and where it ends.

    Raises ``IndexError`` where the text ends early.
    """
    if text[at] != "{":
        _no_event("an event is a JSON object, and this is not one")
    members: dict[str, Any] = {}
    body: bytes | None = None
    at = _skip(text, at + 1)
    if text[at] == "}":
        return members, body, at + 1
    while True:
        if text[at] != '"':
            _no_event(f"expected a member's name at character {at}")
        try:
            name, at = _scan(text, at)
            at = _skip(text, at)
            if text[at] != ":":
                _no_event(f"expected a colon at character {at}")
            start = _skip(text, at + 1)
            value, at = _scan(text, start)
        except StopIteration as error:  # no value begins there
            _no_event(
                "the text ends early" if error.value == len(text) else f"expected a value at character {error.value}"
            )
        except json.JSONDecodeError as error:
            _no_event(f"{error.msg} at character {error.pos}")
        except InvalidEvent:
            raise
        except ValueError as error:  # a number with more digits than Python converts, NaN, Infinity
            _no_event(str(error).partition(";")[0])
        members[name] = value
        if name == "data":
            body = text[start:at].encode()
        at = _skip(text, at)
        if text[at] == "}":
            return members, body, at + 1
        if text[at] != ",":
            _no_event(f"expected a comma or a brace at character {at}")
        at = _skip(text, at + 1)


def _event(members: dict[str, Any], body: bytes | None) -> Event[Any]:
    """The event with these members; ``body`` is the text of ``data``, if there is any."""
    encoded = members.pop("data_base64", None) if "data_base64" in members else None
    if body is None:
        check_attributes(members)
        return trusted_event(members, None if encoded is None else _from_base64(encoded))
    if encoded is not None:
        raise InvalidEvent("the event has both 'data' and 'data_base64'. Send one of them.", attribute="data")
    value = members.pop("data")
    check_attributes(members)
    content_type = members.get("datacontenttype")
    if content_type is None:
        members["datacontenttype"] = JSON
        return trusted_event(members, body)
    if content_type == JSON:
        return trusted_event(members, body)
    kind = media_type(str(content_type))
    if kind.charset is None:
        raise InvalidEvent(
            f"the data is text in the character set of {content_type!r}, which is unknown. Send data_base64.",
            attribute="datacontenttype",
        )
    if kind.json:
        return trusted_event(members, body if kind.charset == "utf-8" else _encoded(body.decode(), kind.charset))
    if not isinstance(value, str):
        raise InvalidEvent(
            f"the data is not a string, though its content type {content_type!r} is not JSON. "
            "Send a string, or data_base64, or a JSON content type.",
            attribute="data",
        )
    return trusted_event(members, _encoded(value, kind.charset))


def _encoded(text: str, charset: str) -> bytes:
    try:
        return text.encode(charset)
    except UnicodeError:
        raise InvalidEvent(
            f"the data holds characters that {charset} does not have. Send data_base64, or UTF-8.", attribute="data"
        ) from None


def _from_base64(encoded: object) -> bytes:
    if not isinstance(encoded, str):
        raise InvalidEvent("'data_base64' is not a string. Send Base64 (RFC 4648).", attribute="data_base64")
    try:
        return binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError as error:
        raise InvalidEvent(
            f"'data_base64' is not Base64 ({error}). Use the standard alphabet, padded (RFC 4648, 4).",
            attribute="data_base64",
        ) from None


# -- writing ---------------------------------------------------------------------------------------------


def format_json(event: Event[Any]) -> bytes:
    """Write one event as ``application/cloudevents+json``, ``data`` last. Never fails.

    JSON data becomes the value of ``data`` as it is; text becomes a string; everything else, and JSON or
    text that is not what its content type says, becomes ``data_base64``, so that every body comes back byte
    for byte.
    """
    return _format(event, xml=False)


def format_xml_safe_json(event: Event[Any]) -> bytes:
    """The same, in characters that XML 1.0 allows: data with U+FFFE or U+FFFF is sent as ``data_base64``."""
    return _format(event, xml=True)


def format_json_batch(events: Iterable[Event[Any]]) -> bytes:
    """Write events as ``application/cloudevents-batch+json``; none is ``[]``."""
    return b"[" + b",".join([_format(event, xml=False) for event in events]) + b"]"


def _format(event: Event[Any], xml: bool) -> bytes:
    attributes = event._attributes
    body = event._body
    for value in attributes.values():
        if type(value) is bytes:
            attributes = {name: canonical(v) if type(v) is bytes else v for name, v in attributes.items()}
            break
    head = to_json(attributes)[:-1]
    if body is None:
        return head + b"}"
    content_type = attributes.get("datacontenttype")
    if content_type is not None and not (xml and (b"\xef\xbf\xbe" in body or b"\xef\xbf\xbf" in body)):
        kind = media_type(str(content_type))
        if kind.json and kind.charset == "utf-8" and is_json(body):
            return b'%b,"data":%b}' % (head, body.strip(_BLANKS))
        if kind.text and kind.charset is not None:
            try:
                text = body.decode(kind.charset)
                if text.encode(kind.charset) == body:  # UTF-16 may have come in another byte order
                    return b'%b,"data":%b}' % (head, to_json(text))
            except UnicodeError:  # not text in the character set it claims
                pass
    return b'%b,"data_base64":"%b"}' % (head, base64.b64encode(body))

"""Events and NATS messages: the CloudEvents NATS protocol binding, with our transport headers beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from nats.aio.msg import Msg

from anybroker.adapter import Foreign, Inbound, Lane, Outbound
from anybroker.cloudevents import HeaderBinding, TransportNames, percent_decode
from anybroker.errors import InvalidEvent

from .unreadable import Fields, read_odd_block

__all__ = ["Wire"]

_LINE: Final = b"NATS/1.0\r\n"
_OURS: Final = "anybroker-"
_PREFIX: Final = "ce-"
_NATS: Final = "nats-"
"""Headers that instruct the server, or that it adds. Sent again they would do it again, or be refused."""
_INLET: Final = b".@."
"""In the subject of what was sent to one group; no name of a topic or group contains it."""
_UNSAFE: Final = re.compile(r'[\x00-\x1f\x7f%"]|^ | $')
"""What clients cut off a header's value, and what :func:`percent_decode` would decode."""
_find_fields: Final = re.compile(r"(?<=\r\n)([!-9;-~]+): ?([^\r\n]*)\r\n").findall


class Wire:
    """Both directions. One for each adapter: it remembers the names of headers, a bounded number of them."""

    def __init__(self, content_mode: Literal["binary", "structured"] = "binary") -> None:
        self._binding = HeaderBinding(
            str, prefix=_PREFIX, content_type="attribute", percent=True, null_body=False, headerless=True
        )
        self._structured = content_mode == "structured"
        self._names = TransportNames((_PREFIX, _NATS), ("anybroker-data",))

    def write(self, outbound: Outbound, control: str, other: bool = False) -> tuple[bytes, bytes]:
        """The block of headers and the body. ``control``: lines of NATS's own headers, each with its line break. They
        come first, because the server takes the first of a name. ``other``: in the content mode that is not set.

        Header values of an event are percent-encoded, and so are our own transport headers; others are not. A foreign
        message keeps its headers byte for byte, and a transport header of the same name is left out. Without transport
        headers it gets none of NATS's either, and no block where it has no headers. Raises ValueError for a header that
        NATS cannot carry.
        """
        event = outbound.event
        extra = outbound.headers
        if isinstance(event, Foreign):
            return self._write_foreign(event, extra, control)
        if self._structured is not other:
            headers, body = self._binding.structured(event)
        else:
            headers, body = self._binding.binary_headers(event), event.body or b""
        lines = [f"{name}: {value}\r\n" for name, value in headers]
        if extra:
            lines += [_line(name, text) for name, text in extra.items()]
        return _LINE + f"{control}{''.join(lines)}\r\n".encode(), body

    def _write_foreign(self, event: Foreign, extra: Mapping[str, str] | None, control: str) -> tuple[bytes, bytes]:
        own = [(name, value or b"") for name, value in event.headers if not name.lower().startswith((_NATS, _OURS))]
        for name, value in own:
            _check(name, value)
        taken = {name.lower() for name, _ in own}
        if extra is None:  # it was too large with anything beside it: not a byte may be added
            lines = [b"%b:%b%b\r\n" % (name.encode(), b" " * value.startswith(b" "), value) for name, value in own]
            return _LINE + b"".join(lines) + b"\r\n" if lines else b"", event.body or b""
        lines = [b"%b: %b\r\n" % (name.encode(), value) for name, value in own]
        lines += [_line(name, text).encode() for name, text in extra.items() if name not in taken]
        return _LINE + control.encode() + b"".join(lines) + b"\r\n", event.body or b""

    def read(
        self, client: Any, subject: bytes, reply: bytes, body: bytes, block: bytes | None, lane: Lane, position: int
    ) -> Inbound:
        """One delivery; ``raw`` is nats-py's ``Msg``. What is not a CloudEvent is read as a Foreign. Raises nothing."""
        headers, text = _fields(block)
        inlet = _INLET in subject
        raw = Msg(client, subject.decode(errors="replace"), reply.decode(), body, dict(text))
        try:
            event = self._binding.parse(headers, body)
        except InvalidEvent as exc:
            own = [(name, _bytes(value)) for name, value in headers if not name.lower().startswith((_NATS, _OURS))]
            foreign = Foreign(body, own, None, exc)
            return Inbound(foreign, lane, position, None, self._extra(text), raw, inlet=inlet)
        return Inbound(event, lane, position, event.key, self._extra(text), raw, inlet=inlet)

    def _extra(self, headers: list[tuple[str, str]]) -> dict[str, str]:
        """The transport headers: those that are neither attributes nor the server's."""
        names = self._names
        return {
            header: _decoded(value) if "%" in value and header.startswith(_OURS) else value
            for name, value in headers
            if (header := names[name])
        }


def _fields(block: bytes | None) -> tuple[Fields, list[tuple[str, str]]]:
    """Names and values of a block of headers, in order: as they are, and as text."""
    if not block:
        return [], []
    try:
        text = block.decode()
    except UnicodeDecodeError:
        return read_odd_block(block)
    fields = _find_fields(text)
    if len(fields) != text.count("\r\n") - 2 or not text.startswith("NATS/1.0"):
        return read_odd_block(block)
    return fields, fields


def _line(name: str, text: str) -> str:
    if name.startswith(_OURS):
        # As little as possible: an error in Russian with three bytes for each one does not fit beside a large event.
        text = _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", text)
    _check(name, text)
    return f"{name}: {text}\r\n"


def _check(name: str, value: str | bytes) -> None:
    """ValueError for what would end the line, or the name before its colon."""
    lines = isinstance(value, str) and ("\r" in value or "\n" in value)
    lines = lines or (isinstance(value, bytes) and (b"\r" in value or b"\n" in value))
    if lines or not name or not name.isascii() or not name.isprintable() or ":" in name or " " in name:
        raise ValueError(f"the header {name!r} has a line break, or a name that is not printable ASCII")


def _decoded(text: str) -> str:
    try:
        return percent_decode("", text)
    except InvalidEvent:
        return text  # not written by us


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()

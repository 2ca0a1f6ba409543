"""Events and NATS messages: the CloudEvents NATS protocol binding, with our transport headers beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from nats.aio.msg import Msg

from anybroker.adapter import Foreign, Inbound, Lane, Outbound
from anybroker.cloudevents import HeaderBinding, TransportNames
from anybroker.cloudevents.percent import percent_decode
from anybroker.errors import InvalidEvent

__all__ = ["Wire"]

_LINE: Final = b"NATS/1.0\r\n"
_OURS: Final = "anybroker-"
_PREFIX: Final = "ce-"
_NATS: Final = "nats-"
"""Headers that instruct the server, or that it adds. Sent again they would do it again, or be refused."""
_INLET: Final = b".@."
"""In the subject of what was sent to one group; no topic's or group's name has it."""
_UNSAFE: Final = re.compile(r'[\x00-\x1f\x7f%"]|^ | $')
"""What clients cut off a header's value, and what :func:`percent_decode` would take for its own."""
_find: Final = re.compile(r"(?<=\r\n)([!-9;-~]+): ?([^\r\n]*)\r\n").findall
_escape_name: Final = re.compile(rb"[^!-9;-~]").sub
_escape_value: Final = re.compile(rb"[\r\n]").sub
_UNNAMED: Final = "x-unnamed"
"""What a line is called that has no name, or no colon."""


class Wire:
    """Both directions. One for each adapter: it keeps what it has learned of header names, bounded."""

    def __init__(self, content_mode: Literal["binary", "structured"] = "binary") -> None:
        self._binding = HeaderBinding(
            str, prefix=_PREFIX, content_type="attribute", percent=True, null_body=False, headerless=True
        )
        self._structured = content_mode == "structured"
        self._names = TransportNames((_PREFIX, _NATS), ("anybroker-data",))

    def write(self, outbound: Outbound, control: str, other: bool = False) -> tuple[bytes, bytes]:
        """The block of headers and the body; ``control`` is lines of NATS's own headers, each with its line's end. They
        come first, and the server takes the first of a name. ``other``: in the content mode that is not set.

        Header values of an event are percent-encoded, our own transport headers too; others go as they are. A foreign
        message keeps its headers byte for byte; a transport header of the same name gives way. One without transport
        headers has none of NATS's either, and an empty block if it has no headers at all. Raises ValueError for a
        header that NATS cannot carry.
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
        there = {name.lower() for name, _ in own}
        if extra is None:  # it was too large with anything beside it: not a byte more than it came with
            lines = [b"%b:%b%b\r\n" % (name.encode(), b" " * value.startswith(b" "), value) for name, value in own]
            return _LINE + b"".join(lines) + b"\r\n" if lines else b"", event.body or b""
        lines = [b"%b: %b\r\n" % (name.encode(), value) for name, value in own]
        lines += [_line(name, text).encode() for name, text in extra.items() if name not in there]
        return _LINE + control.encode() + b"".join(lines) + b"\r\n", event.body or b""

    def read(
        self, client: Any, subject: bytes, reply: bytes, body: bytes, block: bytes | None, lane: Lane, position: int
    ) -> Inbound:
        """One delivery; ``raw`` is nats-py's ``Msg``. What is no CloudEvent comes as a Foreign; nothing is raised."""
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
        """The transport headers: those that are no attributes and not the server's."""
        names = self._names
        return {
            known: _decoded(value) if "%" in value and known.startswith(_OURS) else value
            for name, value in headers
            if (known := names[name])
        }


def _fields(block: bytes | None) -> tuple[list[tuple[str, Any]], list[tuple[str, str]]]:
    """Names and values of a block of headers, in order: as they are (bytes, where one is not UTF-8), and as text."""
    if not block:
        return [], []
    try:
        text = block.decode()
    except UnicodeDecodeError:
        return _odd_fields(block)
    found = _find(text)
    if len(found) != text.count("\r\n") - 2 or not text.startswith("NATS/1.0"):
        return _odd_fields(block)
    return found, found


def _odd_fields(block: bytes) -> tuple[list[tuple[str, Any]], list[tuple[str, str]]]:
    """The same of a block with lines that no client writes; the server looks at none of it. Nothing is left out: what
    may not stand in a name, or would end a line, is percent-encoded."""
    first, *lines = block.split(b"\r\n")
    if not first.startswith(b"NATS/1.0"):
        lines.insert(0, first)
    found: list[tuple[str, Any]] = []
    for line in filter(None, lines):
        name, colon, value = line.partition(b":")
        if not colon:
            name, value = b"", line
        known = _escape_name(_percent, name).decode() or _UNNAMED
        value = _escape_value(_percent, value.removeprefix(b" "))
        try:
            found.append((known, value.decode()))
        except UnicodeDecodeError:
            found.append((known, value))
    return found, [(name, value if isinstance(value, str) else value.decode(errors="replace")) for name, value in found]


def _percent(found: re.Match[bytes]) -> bytes:
    return b"%%%02X" % ord(found[0])


def _line(name: str, text: str) -> str:
    if name.startswith(_OURS):
        # No more than has to be: three bytes for each one of an error in Russian do not fit beside a large event.
        text = _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", text)
    _check(name, text)
    return f"{name}: {text}\r\n"


def _check(name: str, value: str | bytes) -> None:
    """The two characters that end a line; and a name ends at its colon."""
    lines = isinstance(value, str) and ("\r" in value or "\n" in value)
    lines = lines or (isinstance(value, bytes) and (b"\r" in value or b"\n" in value))
    if lines or not name or not name.isascii() or not name.isprintable() or ":" in name or " " in name:
        raise ValueError(f"the header {name!r} has a line's end, or a name that is not in printable ASCII")


def _decoded(text: str) -> str:
    try:
        return percent_decode("", text)
    except InvalidEvent:
        return text  # not written by us


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()

"""Binary and structured mode on transports with headers (CloudEvents 1.0, the protocol bindings).

In every binding an attribute is a header whose name has a prefix, and the data is the body. Bindings differ in the
prefix, the encoding and the place of the content type. Those differences are the parameters of
:class:`HeaderBinding`; each adapter makes its own once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, Generic, Literal, NoReturn, TypeVar, cast

from ..errors import InvalidEvent
from .attributes import (
    FEW_VALUES,
    LONGEST_NAME,
    LONGEST_VALUE,
    MAY_BE_EMPTY,
    MOST_REMEMBERED,
    NOT_EMPTY,
    ROLES,
    TIME,
    AttributeValue,
    canonical,
    check_name,
    check_text,
    read_attribute,
    require,
    shown,
    takes,
)
from .event import Event, trusted_event
from .json_format import format_json, parse_json
from .media_type import JSON, STRUCTURED, STRUCTURED_BATCH, is_structured, media_type
from .percent import percent_decode, percent_encode
from .timestamps import check_timestamp, format_timestamp

__all__ = ["DATA_HEADER", "HeaderBinding"]

V = TypeVar("V", bytes, str)

DATA_HEADER: Final = "anybroker-data"
"""The library's header for transports that cannot tell an absent body from an empty one: ``absent`` or ``empty``."""

_SEQUENCES: Final = frozenset((list, tuple))

# The roles of headers that are not attributes, for the reader. Roles of attributes are smaller numbers.
_IGNORED: Final = 10
_CONTENT_TYPE: Final = 11
_DATA_MARK: Final = 12

_Entry = tuple[int, str, dict[Any, str]]
"""The role, the attribute, and its values so far if it has few. All spellings of a header share one set of values."""


class TransportNames(dict[str, str]):
    """Maps a header to its name as a transport header: in lower case, or "" if it belongs to the event or to the
    broker. Used as a dict; remembers a bounded number of short names.

    ``prefixes`` and ``names``, in lower case, are those of the event and the broker; ``content-type`` is the event's.
    """

    def __init__(self, prefixes: tuple[str, ...], names: Iterable[str] = ()) -> None:
        super().__init__()
        self._prefixes = prefixes
        self._names = frozenset(("content-type", *names))

    def __missing__(self, header: str) -> str:
        lower = header.lower()
        name = "" if lower in self._names or lower.startswith(self._prefixes) else lower
        if takes(self, header, LONGEST_NAME):
            self[header] = name
        return name


class HeaderBinding(Generic[V]):
    """How one kind of message carries a CloudEvent in its headers and its body.

    ``values``: the type of header values to write, ``bytes`` (UTF-8) or ``str``; both are read, and so are
    the numbers, booleans and times of transports that type their headers.
    ``prefix``: the prefix of the attributes' headers. Names are compared in lower case.
    ``also_read``: more prefixes that are read.
    ``content_type``: where ``datacontenttype`` goes. ``"header"``: the header ``content-type``;
    ``"property"``: a field of the message, not a header; ``"attribute"``: a header with the prefix like every
    other attribute. The first two take precedence over a prefixed header when reading; with the third the
    prefixed header does.
    ``percent``: percent-encode values when writing (spaces, quotes, ``%`` and everything outside U+0021-7E),
    and decode them when reading.
    ``null_body``: whether the transport can tell an absent body from an empty one. If it cannot, an empty body
    counts as data if the message has a content type and as no data otherwise; the two kinds of events for which
    that is wrong carry ``anybroker-data``.
    ``headerless``: whether a message without a ``specversion`` header may be a structured event.

    An instance remembers names and values it has seen, at most 1,024 names of 64 characters, and for each attribute
    1,024 values of 256. It may be used from several threads.
    """

    def __init__(
        self,
        values: type[V],
        *,
        prefix: str,
        also_read: tuple[str, ...] = (),
        content_type: Literal["header", "property", "attribute"] = "header",
        percent: bool = False,
        null_body: bool = True,
        headerless: bool = False,
    ) -> None:
        self.prefix = prefix
        self._prefixes = tuple(each.lower() for each in (prefix, *also_read))
        self._content_type = content_type
        self._percent = percent
        self._null_body = null_body
        self._headerless = headerless
        self._plain: Callable[[str], V] = _encoder(values, percent=False)
        self._encode: Callable[[str], V] = _encoder(values, percent)
        self._plain_bytes = values is bytes and not percent and content_type != "property" and null_body
        self._learned: dict[str, _Entry] = {}
        self._usual: dict[str, _Entry] = {}
        self._values: dict[str, dict[Any, str]] = {}
        self._content_types: dict[Any, str] = {}
        self._written_names: dict[str, str] = {}
        self._written_values: dict[AttributeValue, V] = {}

    # -- writing ---------------------------------------------------------------------------------------

    def binary_headers(self, event: Event[Any]) -> list[tuple[str, V]]:
        """The headers of an event in binary mode, if that :meth:`carries` it. The body is ``event.body``. Never
        fails."""
        attributes = event._attributes
        if self._plain_bytes:
            names = self._written_names
            try:
                return [(names[name], value.encode()) for name, value in attributes.items()]  # type: ignore[union-attr,misc]  # caught below
            except (KeyError, AttributeError):  # a new name, or a value that is not a string: the slow path
                pass
        encode = self._encode
        names = self._written_names
        written = self._written_values
        headers: list[tuple[str, V]] = []
        for name, value in attributes.items():
            if name == "datacontenttype" and self._content_type != "attribute":
                if self._content_type == "property":
                    continue
                encoded = self._plain(canonical(value))  # the transport's own header, not an attribute's
            elif ROLES.get(name) == FEW_VALUES:
                remembered = written.get(value)
                if remembered is None:
                    remembered = encode(canonical(value))
                    _remember(written, value, remembered)
                encoded = remembered
            else:
                encoded = encode(value if type(value) is str else canonical(value))
            headers.append((names.get(name) or self._name(name), encoded))
        if not self._null_body and not event._body:
            labelled = "datacontenttype" in attributes
            if labelled and event._body is None:
                headers.append((DATA_HEADER, encode("absent")))
            elif not labelled and event._body is not None:
                headers.append((DATA_HEADER, encode("empty")))
        return headers

    def carries(self, event: Event[Any]) -> bool:
        """Whether binary mode can carry the event. It cannot if the content type of the data says "structured event" in
        the place where readers look for that: they would take the data for the event."""
        content_type = event._attributes.get("datacontenttype", JSON)
        return content_type == JSON or self._content_type == "attribute" or not is_structured(str(content_type))

    def structured_headers(self) -> list[tuple[str, V]]:
        """The headers of an event in structured mode: the content type, or none if that is a property of the
        message."""
        if self._content_type == "property":
            return []
        return [("content-type", self._plain(STRUCTURED))]

    def structured(self, event: Event[Any]) -> tuple[list[tuple[str, V]], bytes]:
        """Headers and body of an event in structured mode, as JSON. Never fails."""
        return self.structured_headers(), format_json(event)

    def _name(self, name: str) -> str:
        header = self._written_names.get(name)
        if header is None:
            in_header = name == "datacontenttype" and self._content_type == "header"
            header = "content-type" if in_header else self.prefix + name
            if takes(self._written_names, name, LONGEST_NAME):
                self._written_names[name] = header
        return header

    # -- reading ---------------------------------------------------------------------------------------

    def parse_usual(self, headers: Iterable[tuple[str, Any]], body: bytes | None) -> tuple[Event[Any] | None, int]:
        """A faster :meth:`parse` for the usual case: an event in binary mode with the header names of
        :meth:`binary_headers` and bytes as values. None: use :meth:`parse`. And how many attributes the event has.

        If the event has as many attributes as there are headers, ``binary_headers`` returns exactly these headers.
        """
        usual = self._usual
        attributes: dict[str, AttributeValue] = {}
        try:
            for header, raw in headers:
                role, name, values = usual[header]
                if role == FEW_VALUES:
                    attributes[name] = values[raw]
                elif role <= MAY_BE_EMPTY:
                    text = raw.decode()
                    if role == TIME:
                        check_timestamp(name, text)
                    elif not (text.isprintable() and (text or role == MAY_BE_EMPTY)):
                        return None, 0
                    attributes[name] = text
                elif role == _CONTENT_TYPE:
                    text = values[raw]
                    if not text or name in attributes:  # a structured event, or a second content type
                        return None, 0
                    attributes[name] = text
        except (KeyError, AttributeError, TypeError, ValueError):
            # A new name or value, not bytes, UTF-8 or a timestamp: parse learns it, or says what is wrong.
            return None, 0
        if "specversion" in attributes and "id" in attributes and "source" in attributes and "type" in attributes:
            return trusted_event(attributes, body), len(attributes)
        return None, 0

    def parse(
        self, headers: Iterable[tuple[str, Any]], body: bytes | None, *, content_type: str | None = None
    ) -> Event[Any]:
        """Read an event in either mode; the content type ``application/cloudevents…`` means structured.

        ``content_type`` is the message's own field, where the transport has one. Headers without the prefix
        are ignored, and so are the attribute headers of a structured event. If an attribute occurs twice, the
        last one counts. A header without a value (None) counts as absent, and so does an empty content type.
        Adds nothing.

        Raises :class:`~anybroker.errors.InvalidEvent` for a message that is not a valid event, and nothing else.
        """
        announced: str | None = None
        if content_type is not None and not _says_nothing(content_type):
            if is_structured(content_type):
                return _read_structured(content_type, body)
            announced = content_type
        if type(headers) not in _SEQUENCES:
            headers = list(headers)  # read twice if something is wrong
        learned = self._learned
        percent = self._percent
        attributes: dict[str, AttributeValue] = {}
        mark = ""
        name = ""
        try:
            for header, raw in headers:
                try:
                    role, name, values = learned[header]
                except KeyError:
                    role, name, values = self._learn(header)
                if role == FEW_VALUES:
                    try:
                        attributes[name] = values[raw]
                    except (KeyError, TypeError):  # a new value, or one that cannot be hashed
                        if raw is not None and not (name == "datacontenttype" and _says_nothing(raw)):
                            attributes[name] = self._learn_value(name, values, raw)
                elif role <= MAY_BE_EMPTY:
                    if type(raw) is bytes:
                        text = raw.decode()
                    elif type(raw) is str:
                        text = raw
                    elif type(raw) is bytearray and name in ROLES:  # what AMQP 1.0 makes of a long string
                        text = raw.decode()
                    else:
                        if raw is not None:
                            attributes[name] = _native(name, raw)
                        continue
                    if percent:
                        text = percent_decode(name, text)
                    if not (text.isascii() and text.isprintable()):
                        check_text(name, text)
                    if role == TIME:
                        check_timestamp(name, text)
                    elif role == NOT_EMPTY and not text:
                        read_attribute(name, text)  # raises
                    attributes[name] = text
                elif role == _CONTENT_TYPE:
                    if announced is None and not _says_nothing(raw):
                        try:
                            announced = values[raw]
                        except (KeyError, TypeError):
                            announced = self._learn_content_type(values, raw)
                        if not announced:
                            return _read_structured(_loose_text(raw), body)
                elif role == _DATA_MARK:
                    mark = _loose_text(raw)
            if announced is not None and not (self._content_type == "attribute" and "datacontenttype" in attributes):
                media_type(announced)
                attributes["datacontenttype"] = announced
            if not (
                "specversion" in attributes and "id" in attributes and "source" in attributes and "type" in attributes
            ):
                if self._headerless and body and "specversion" not in attributes:
                    return _read_headerless(body)
                _refuse(attributes)
        except ValueError as error:  # InvalidEvent, and bytes that are not UTF-8
            # Broken attribute headers of a structured event do not matter.
            structured = _announced_structured(headers)
            if structured is not None:
                return _read_structured(structured, body)
            if isinstance(error, UnicodeDecodeError):
                _not_utf8(name, error)
            raise
        if not body and not self._null_body and body is not None:
            data = mark == "empty" or (mark != "absent" and "datacontenttype" in attributes)
            body = b"" if data else None
        return trusted_event(attributes, body)

    def _learn(self, header: str) -> _Entry:
        """The entry of a header of this name; remembered."""
        entry: _Entry = (_IGNORED, "", {})
        lower = header.lower()
        if lower == "content-type":
            entry = (_CONTENT_TYPE, "datacontenttype", self._content_types)
        elif lower == DATA_HEADER:
            entry = (_DATA_MARK, "", {})
        else:
            for prefix in self._prefixes:
                if lower.startswith(prefix):
                    name = check_name(lower[len(prefix) :])
                    role = ROLES.get(name, MAY_BE_EMPTY)
                    entry = (role, name, self._values.setdefault(name, {}) if role == FEW_VALUES else {})
                    break
        if len(header) > LONGEST_NAME:
            return entry
        if len(self._learned) >= MOST_REMEMBERED:
            self._learned.clear()
            self._usual.clear()
        self._learned[header] = entry
        if self._plain_bytes and entry[0] != _DATA_MARK and (not entry[1] or header == self._name(entry[1])):
            self._usual[header] = entry
        return entry

    def _learn_value(self, name: str, values: dict[Any, str], raw: object) -> AttributeValue:
        """The checked text of a value of an attribute that has few values; remembered."""
        if not isinstance(raw, bytes | bytearray | str):
            return read_attribute(name, raw)
        text = raw if isinstance(raw, str) else raw.decode()
        if self._percent:
            text = percent_decode(name, text)
        checked = read_attribute(name, text)
        if not isinstance(raw, bytearray):
            _remember(values, raw, str(checked))
        return checked

    def _learn_content_type(self, values: dict[Any, str], raw: object) -> str:
        """The text of a transport's content type; empty when it announces a structured event. Remembered."""
        text = _loose_text(raw)
        if is_structured(text):
            text = ""
        else:
            media_type(text)
        if isinstance(raw, bytes | str):
            _remember(values, raw, text)
        return text


def _says_nothing(content_type: object) -> bool:
    """Whether a transport's content type is null or empty, and so counts as absent. The only place for this rule."""
    return not content_type


def _announced_structured(headers: Iterable[tuple[str, Any]]) -> str | None:
    """The content type among these headers, if it announces a structured event."""
    for name, value in headers:
        if name.lower() == "content-type" and is_structured(text := _loose_text(value)):
            return text
    return None


def _native(name: str, raw: object) -> AttributeValue:
    """The value of a header on a transport with typed headers."""
    if name == "time" and type(raw) is int:  # the timestamp of AMQP 1.0: milliseconds since 1970
        try:
            return format_timestamp(name, datetime.fromtimestamp(raw / 1000, UTC))
        except (ValueError, OverflowError, OSError):
            raise InvalidEvent(
                f"attribute 'time' is {raw} milliseconds, which is not a time. Write it as an RFC 3339 string.",
                attribute=name,
            ) from None
    return read_attribute(name, raw)


def _encoder(values: type[V], percent: bool) -> Callable[[str], V]:
    if values is bytes:
        return cast("Callable[[str], V]", (lambda text: percent_encode(text).encode()) if percent else str.encode)
    return cast("Callable[[str], V]", percent_encode if percent else str)


def _remember(values: dict[Any, Any], raw: Any, text: bytes | str) -> None:
    if takes(values, raw, LONGEST_VALUE):
        values[raw] = text


def _not_utf8(name: str, error: UnicodeDecodeError) -> NoReturn:
    raise InvalidEvent(
        f"attribute {shown(name)} is not UTF-8 at byte {error.start}. Write header values in UTF-8.",
        attribute=name,
    ) from None


def _loose_text(raw: object) -> str:
    """The text of a header that is not an attribute, whatever it holds."""
    if isinstance(raw, bytes | bytearray | memoryview):
        return bytes(raw).decode("utf-8", "replace")
    return raw if isinstance(raw, str) else ""


def _refuse(attributes: dict[str, AttributeValue]) -> NoReturn:
    if attributes.keys() <= {"datacontenttype"}:
        raise InvalidEvent(
            "the message is not a CloudEvent: it has no attribute headers, and its content type is not "
            f"{STRUCTURED}. Publish it with a CloudEvents library."
        )
    require(attributes)


def _read_headerless(body: bytes) -> Event[Any]:
    try:
        return parse_json(body)
    except InvalidEvent as error:
        raise InvalidEvent(
            f"the message has no 'specversion' header, and its body is not an event either: {error}",
            attribute=error.attribute,
        ) from None


def _read_structured(content_type: str, body: bytes | None) -> Event[Any]:
    """Read the body of a message whose content type announces a CloudEvent."""
    kind = media_type(content_type)
    if kind.essence == STRUCTURED_BATCH:
        raise InvalidEvent(
            "the message is a batch, which this transport's binding does not have. Send one event per message.",
            attribute="datacontenttype",
        )
    if kind.essence not in (STRUCTURED, "application/cloudevents"):
        raise InvalidEvent(
            f"the event is in the format {kind.essence!r}, which is not read here. Send {STRUCTURED}.",
            attribute="datacontenttype",
        )
    if body is None:
        raise InvalidEvent(f"the message says {kind.essence!r} and has no body. Send the event as the body.")
    if kind.charset == "utf-8":
        return parse_json(body)
    try:
        return parse_json(bytes(body).decode(kind.charset or ""))
    except (LookupError, UnicodeError):
        raise InvalidEvent(f"the event is not text in the character set of {content_type!r}. Send UTF-8.") from None

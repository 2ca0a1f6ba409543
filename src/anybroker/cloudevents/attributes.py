"""The rules for context attributes: names, types, canonical strings (CloudEvents 1.0, "Context Attributes").

Two strictnesses, on purpose. What is *read* is held to the list of things that CloudEvents rejects, and
otherwise accepted, because a foreign event that is slightly wrong is worth more than a dead letter. What
is *created* here must also be a well-formed URI-reference (``source``) or absolute URI (``dataschema``),
and empty values are refused where they would mean nothing.

Everything here raises :class:`~anybroker.errors.InvalidEvent` and nothing else. Strings that are the same in
every event (source, type, content type) are checked once and remembered. Other programs choose them, so each memory is
bounded: it limits the number of entries and the length of each.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NoReturn
from uuid import UUID

from ..errors import InvalidEvent
from ..printable import logger
from .media_type import media_type
from .timestamps import check_timestamp, format_timestamp

__all__ = [
    "CORE",
    "FEW_VALUES",
    "LONGEST_NAME",
    "LONGEST_VALUE",
    "MAY_BE_EMPTY",
    "MOST_REMEMBERED",
    "NOT_EMPTY",
    "OPTIONAL",
    "REQUIRED",
    "ROLES",
    "SPECVERSION",
    "TIME",
    "AttributeValue",
    "canonical",
    "check_attributes",
    "check_name",
    "check_text",
    "known_sources",
    "known_types",
    "read_attribute",
    "require",
    "shown",
    "takes",
    "write_extension",
    "write_string",
    "write_type",
    "write_uri",
    "write_uri_reference",
]

AttributeValue = str | int | bool | bytes
"""The Python type of an attribute's value. URIs, URI-references and Timestamps are kept as their canonical strings."""

SPECVERSION: Final = "1.0"
REQUIRED: Final = ("specversion", "id", "source", "type")
OPTIONAL: Final = ("datacontenttype", "dataschema", "subject", "time")
CORE: Final = frozenset(REQUIRED + OPTIONAL)

# The role of an attribute on the fast path of reading.
FEW_VALUES: Final = 0  # the same ones again and again, so each is checked once
TIME: Final = 1
NOT_EMPTY: Final = 2
MAY_BE_EMPTY: Final = 3
ROLES: Final = {
    "specversion": FEW_VALUES,
    "source": FEW_VALUES,
    "type": FEW_VALUES,
    "datacontenttype": FEW_VALUES,
    "dataschema": FEW_VALUES,
    "time": TIME,
    "id": NOT_EMPTY,
    "subject": NOT_EMPTY,
}

MOST_REMEMBERED: Final = 1024
"""Most entries of each memory of names, or of values of one attribute. A service has a few dozen types and sources."""
LONGEST_NAME: Final = 64
"""Most characters of a name that is remembered."""
LONGEST_VALUE: Final = 256
"""Most characters, or bytes, of a value that is remembered."""

_log: Final = logger("anybroker.cloudevents")

_NAME: Final = re.compile(r"[a-z0-9]+")
_PLANE_ENDS: Final = "".join(chr(plane * 0x10000 + last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_FORBIDDEN: Final = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_PLANE_ENDS}]")

_ESCAPED_OR: Final = r"(?:[{}]|%[0-9A-Fa-f]{{2}})"
_PATH_CHARACTERS: Final = r"A-Za-z0-9\-._~!$&'()*+,;=:@/"
_AUTHORITY: Final = r"(?://(?:[A-Za-z0-9\-._~!$&'()*+,;=:@\[\]]|%[0-9A-Fa-f]{2})*(?=[/?#]|$))?"
_HIER_PART: Final = _AUTHORITY + _ESCAPED_OR.format(_PATH_CHARACTERS) + "*"
_QUERY: Final = r"(?:\?" + _ESCAPED_OR.format(_PATH_CHARACTERS + "?") + "*)?"
_FRAGMENT: Final = r"(?:#" + _ESCAPED_OR.format(_PATH_CHARACTERS + "?") + "*)?"
_SCHEME: Final = r"[A-Za-z][A-Za-z0-9+.\-]*:"
_URI: Final = re.compile(_SCHEME + _HIER_PART + _QUERY + _FRAGMENT)
# A colon in the first segment of a relative reference would read as a scheme (RFC 3986, section 4.2).
_RELATIVE: Final = re.compile(r"(?![^/?#]*:)" + _HIER_PART + _QUERY + _FRAGMENT)

_known_names: set[str] = set(CORE)
_roles: dict[str, tuple[int, set[str]]] = {}  # the role of each attribute, and the values seen where it has few
known_sources: set[str] = set()  # read by Event.create, which saves a call
known_types: set[str] = set()
_known_schemas: set[str] = set()
_told: set[str] = set()  # the discouraged names that were logged


def shown(value: object) -> str:
    """A name or a value as an error message shows it, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _invalid(name: str, problem: str, remedy: str) -> NoReturn:
    raise InvalidEvent(f"attribute {shown(name)} {problem}. {remedy}", attribute=name)


def takes(memory: set[Any] | dict[Any, Any], key: str | bytes, longest: int) -> bool:
    """Whether this memory keeps a key of that length. A full memory forgets everything first."""
    if len(key) > longest:
        return False
    if len(memory) >= MOST_REMEMBERED:
        memory.clear()
    return True


def _remember(memory: set[str], value: str, longest: int = LONGEST_VALUE) -> None:
    if takes(memory, value, longest):
        memory.add(value)


def check_name(name: object) -> str:
    """The name, if it is valid: lower-case ASCII letters and digits, at least one, and not ``data``.

    More than 20 characters, or a leading digit, are only discouraged by the specification and therefore accepted.
    """
    if type(name) is not str or name not in _known_names:
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            _invalid(str(name), "has a name that is not allowed", "Use lower-case ASCII letters and digits only.")
        if name == "data":
            _invalid(name, "is the event's payload, not an attribute", "Pass the payload as the data.")
        _remember(_known_names, name, LONGEST_NAME)
    return name


def check_text(name: str, value: str) -> None:
    """Refuse the characters that CloudEvents forbids in a String.

    Those are U+0000–001F, U+007F–009F, Unicode's noncharacters and unpaired surrogates.
    """
    if value.isascii() and value.isprintable():
        return
    match = _FORBIDDEN.search(value)
    if match is not None:
        _invalid(
            name,
            f"holds U+{ord(match.group()):04X} at position {match.start()}, which CloudEvents forbids",
            "Remove control characters, noncharacters and unpaired surrogates, or put it into the data.",
        )


def canonical(value: AttributeValue) -> str:
    """The canonical string of a value: what header-based modes send (CloudEvents 1.0, "Type System")."""
    if type(value) is str:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return base64.b64encode(value).decode("ascii")


def _read_number(name: str, value: int) -> int:
    if not -(2**31) <= value < 2**31:
        _invalid(name, f"is {shown(value)}, outside the 32 bits of an Integer", "Send it as a string.")
    return int(value)


def read_attribute(name: str, value: object) -> AttributeValue:
    """A value of any accepted Python type under a valid name, checked as CloudEvents requires of a reader.

    Timestamps become RFC 3339 strings. Floats, lists and mappings are refused, and attributes of the
    specification itself must be strings.
    """
    if isinstance(value, str):
        value = value if type(value) is str else str.__str__(value)
        check_text(name, value)
        if name in CORE:
            _read_core(name, value)
        return value
    if isinstance(value, datetime):
        return format_timestamp(name, value)
    if name in CORE:
        _invalid(name, f"is a {type(value).__name__}, not a string", "Send it as a string.")
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _read_number(name, value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, UUID):
        return str(value)
    _invalid(
        name,
        f"is a {type(value).__name__}, which is not a type of CloudEvents attributes",
        "Use a string, a 32-bit integer, a boolean, bytes or a time; put anything else into the data.",
    )


def _read_core(name: str, value: str) -> None:
    if not value:
        _invalid(name, "is empty", "Give it a value, or leave it out if it is optional.")
    if name == "specversion":
        if value != SPECVERSION:
            _invalid(name, f"is {shown(value)}", f"This library reads and writes {SPECVERSION!r}.")
    elif name == "time":
        check_timestamp(name, value)
    elif name == "datacontenttype":
        media_type(value)


def require(attributes: Mapping[str, object]) -> NoReturn:
    """Raise for the first of ``specversion``, ``id``, ``source`` and ``type`` that these attributes lack."""
    missing = next(name for name in REQUIRED if name not in attributes)
    _invalid(missing, "is missing", "Every CloudEvent has specversion, id, source and type.")


def check_attributes(attributes: dict[str, Any]) -> None:
    """Check the attributes that a reader found, in any mode, in place: ``None`` is removed, and times become strings.

    Adds nothing. Raises :class:`~anybroker.errors.InvalidEvent`; the dict is then in an undefined state.
    """
    unset: list[str] = []
    for name, value in attributes.items():
        try:
            role, memory = _roles[name]
        except KeyError:
            role, memory = _learn_role(name)
        if type(value) is str:
            if role == FEW_VALUES:
                if value in memory:
                    continue
            elif value.isascii() and value.isprintable():
                if role == TIME:
                    check_timestamp(name, value)
                    continue
                if value or role == MAY_BE_EMPTY:
                    continue
        elif value is None:
            unset.append(name)
            continue
        checked = read_attribute(name, value)
        attributes[name] = checked
        if role == FEW_VALUES:
            _remember(memory, checked)  # type: ignore[arg-type]  # these attributes are strings
    for name in unset:
        del attributes[name]
    if not ("specversion" in attributes and "id" in attributes and "source" in attributes and "type" in attributes):
        require(attributes)


def _learn_role(name: str) -> tuple[int, set[str]]:
    check_name(name)
    entry: tuple[int, set[str]] = (ROLES.get(name, MAY_BE_EMPTY), set())
    if takes(_roles, name, LONGEST_NAME):
        _roles[name] = entry
    return entry


def write_string(name: str, value: object) -> str:
    """A string attribute of an event that is being created: not empty, no forbidden characters."""
    if not isinstance(value, str):
        _invalid(name, f"is a {type(value).__name__}, not a string", "Pass a str.")
    if not value:
        _invalid(name, "is empty", "Give it a value, or leave it out if it is optional.")
    check_text(name, value)
    return value if type(value) is str else str.__str__(value)


def write_type(value: object) -> str:
    """The ``type`` of an event that is being created: any non-empty string."""
    text = write_string("type", value)
    _remember(known_types, text)
    return text


def write_uri_reference(name: str, value: object) -> str:
    """A URI-reference (RFC 3986, section 4.1) of an event that is being created."""
    if type(value) is str and value in known_sources:
        return value
    text = write_string(name, value)
    if _URI.fullmatch(text) is None and _RELATIVE.fullmatch(text) is None:
        _invalid(
            name,
            f"is {shown(text)}, which is not a URI-reference (RFC 3986)",
            "Use a service's name, a path or a URI, and percent-encode spaces and characters outside ASCII.",
        )
    _remember(known_sources, text)
    return text


def write_uri(name: str, value: object) -> str:
    """An absolute URI of an event that is being created; a fragment is allowed, because schema URIs have one."""
    if type(value) is str and value in _known_schemas:
        return value
    text = write_string(name, value)
    if _URI.fullmatch(text) is None:
        _invalid(
            name,
            f"is {shown(text)}, which is not an absolute URI (RFC 3986)",
            "Write it with its scheme, like https://example.com/schemas/order.json.",
        )
    _remember(_known_schemas, text)
    return text


def write_extension(name: object, value: object) -> AttributeValue:
    """An extension attribute of an event that is being created. Empty strings are allowed, ``None`` is not.

    A name that the specification only discourages is logged once; long names that begin alike are logged once together.
    """
    checked = check_name(name)
    if checked in CORE:
        _invalid(checked, "is an attribute of CloudEvents, not an extension", f"Pass it as {checked}=.")
    if (len(checked) > 20 or checked[0].isdigit()) and (beginning := checked[:LONGEST_NAME]) not in _told:
        _remember(_told, beginning)
        _log.warning(
            "the extension %s has more than 20 characters or a leading digit: CloudEvents advises against it, "
            "and other SDKs may refuse it",
            shown(checked),
        )
    return read_attribute(checked, value)

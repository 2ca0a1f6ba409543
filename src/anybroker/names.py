"""Names of topics, groups and transport headers, limited to what every broker accepts and refused alike on each."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import SequenceMatcher
from hashlib import blake2b

from .errors import ConfigError

__all__ = [
    "DEAD_LETTER_GROUP",
    "MAX_HEADER_NAME",
    "MAX_KEY_BYTES",
    "MAX_NAMES",
    "SHORT_KEY",
    "bounded_key",
    "check_headers",
    "check_key",
    "check_names",
    "check_stored",
    "check_topic",
    "dead_letter_topic",
    "hashed",
    "is_owned",
    "near_groups",
    "one_or_several",
]

DEAD_LETTER_GROUP = "dlq"
"""The group of every dead-letter topic, in which dead letters wait until somebody looks."""
MAX_NAMES = 60
"""Most characters of a topic's and a group's name together."""
MAX_KEY_BYTES = 512
"""Most UTF-8 bytes of an ordering key."""
SHORT_KEY = MAX_KEY_BYTES // 4
"""A key of at most this many characters cannot have more bytes than that."""
MAX_HEADER_NAME = 255
"""Most characters of a transport header's name."""

_NEAR = 0.6
"""The least similarity of two names, from 0 to 1, for one of them to be a typing error of the other."""
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_checked: set[str] = set()

_HEADER_NAME = re.compile(r"[!-9;-~]+")
_OWNED_PREFIXES = (
    *("ce-", "ce_", "cloudevents"),  # the event's attributes, on one transport or another
    "anybroker-",
    "nats-",  # commands to the server
    *("x-death", "x-first-death-", "x-last-death-", "x-delivery-", "x-acquired-"),  # written by the broker
)
_OWNED = frozenset(("content-type", "anybroker", "cc", "bcc"))
_header_names: dict[str, str] = {}
"""Checked header names: as given, and in lower case; bounded."""


def _check(what: str, name: object) -> str:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None or ".." in name:
        raise ConfigError(
            what,
            f"{name!r} is not a name that every broker accepts",
            "Use lower-case letters, digits, and single '.' or '-' between them, such as 'orders' or 'shop.orders-eu'.",
        )
    if len(name) > MAX_NAMES:
        raise ConfigError(what, f"{name!r} has {len(name)} characters", f"Use at most {MAX_NAMES}, with the group.")
    return name


def check_topic(topic: str) -> str:
    """The topic's name. Raises ConfigError."""
    if topic in _checked:
        return topic
    _check("topic", topic)
    if len(_checked) < 10_000:
        _checked.add(topic)
    return topic


def check_names(topic: str, group: str) -> None:
    """Raises ConfigError if the topic's or the group's name is not one that every broker accepts."""
    _check("topic", topic)
    _check("group", group)
    if len(topic) + len(group) > MAX_NAMES:
        raise ConfigError(
            "group",
            f"topic {topic!r} and group {group!r} have {len(topic) + len(group)} characters together",
            f"Use {MAX_NAMES} at most: brokers put both into one name.",
        )


def check_stored(topic: str, group: str | None) -> None:
    """ConfigError for names that no stored topic or group has. A dead-letter topic is longer than what made it."""
    ending = dead_letter_topic("", "")[1:]
    if isinstance(topic, str) and topic.endswith(ending) and len(topic) <= MAX_NAMES + 1 + len(ending):
        if _NAME.fullmatch(topic) is None or ".." in topic:
            _check("topic", topic)
        if group is not None:
            _check("group", group)
    elif group is None:
        check_topic(topic)
    else:
        check_names(topic, group)


def dead_letter_topic(topic: str, group: str) -> str:
    """The name of a group's dead-letter topic."""
    return f"{topic}.{group}.dlq"


def check_key(key: str) -> str:
    """The ordering key. Raises ConfigError if it is longer than every broker accepts."""
    if len(key) > SHORT_KEY and len(key.encode()) > MAX_KEY_BYTES:
        raise ConfigError(
            "key",
            f"{key[:40]!r}… takes {len(key.encode())} bytes",
            f"Use {MAX_KEY_BYTES} at most: an identifier or its hash, such as the customer's number.",
        )
    return key


def bounded_key(key: str) -> str:
    """The key for ordering an event of another program: its own, or the hash (``hash:`` and 40 hexadecimal digits) of
    one with more than :data:`MAX_KEY_BYTES`, which ``publish`` would have refused.

    Such an event is valid, and events of one key stay in order. But the library must limit what it hashes to a slot,
    compares, logs, and remembers with each event in flight.
    """
    if len(key) <= SHORT_KEY:
        return key
    return key if len(key.encode("utf-8", "surrogatepass")) <= MAX_KEY_BYTES else hashed(key)


def hashed(text: str) -> str:
    """A short substitute for a long text of another program: ``hash:`` and 40 hexadecimal digits."""
    return f"hash:{blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=20).hexdigest()}"


def one_or_several(what: str, given: str | Iterable[str]) -> tuple[str, ...]:
    """The texts given for a parameter. A single text is one item, not its letters. ConfigError for what is not text."""
    if isinstance(given, str):
        return (given,)
    try:
        listed: tuple[str, ...] = tuple(given)
    except TypeError:
        raise ConfigError(what, f"{given!r} is not text", "Give one text, or a list of them.") from None
    for item in listed:
        if not isinstance(item, str):
            raise ConfigError(what, f"{item!r} is not text", "Give one text, or a list of them.")
    return listed


def is_owned(name: str) -> bool:
    """Whether a transport header of this name, in lower case, belongs to the event, to a broker or to the library. On
    some broker it would change the event, or be a command."""
    return name.startswith(_OWNED_PREFIXES) or name in _OWNED


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The transport headers with their names in lower case. Raises ConfigError, before anything is sent and alike on
    all brokers, for what some broker would not accept, or would take as a command.
    """
    if not isinstance(headers, Mapping):
        raise ConfigError(
            "publish(headers=)", f"is a {type(headers).__name__}, not a mapping", "Use a dict of strings, or None."
        )
    checked: dict[str, str] = {}
    for name, value in headers.items():
        lower = _header_names.get(name) if name.__class__ is str else None
        if lower is None:
            lower = _check_header_name(name)
        if lower in checked:
            raise _wrong_header(name, "is given twice: header names ignore case", "Give it once, in lower case.")
        checked[lower] = value if value.__class__ is str and value.isprintable() else _check_value(name, value)
    return checked


def _check_header_name(name: object) -> str:
    if not isinstance(name, str):
        raise _wrong_header(name, f"has a name that is a {type(name).__name__}", "Use a string.")
    if _HEADER_NAME.fullmatch(name) is None:
        raise _wrong_header(
            name,
            "has a name that not every broker accepts",
            "Use printable ASCII characters without a space or a colon, such as 'x-tenant'.",
        )
    if len(name) > MAX_HEADER_NAME:
        raise _wrong_header(name, f"has a name of {len(name)} characters", f"Use {MAX_HEADER_NAME} at most.")
    lower = str.lower(name)
    if is_owned(lower):
        raise _wrong_header(
            name,
            "has a name that belongs to the event, to a broker or to the library",
            f"Use another name, such as 'x-{lower}'. To pass headers on, use delivery.headers: it has none of these.",
        )
    if len(_header_names) >= 1024:
        _header_names.clear()
    _header_names[name] = lower
    return lower


def _check_value(name: object, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong_header(name, f"has a value that is a {type(value).__name__}", "Use a string, such as str(value).")
    if "\r" in value or "\n" in value:
        raise _wrong_header(name, "has a line break in its value", "Encode it, as JSON or base64.")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise _wrong_header(
            name,
            f"has a value that is not Unicode text: an unpaired surrogate at position {exc.start}",
            "Decode it without 'surrogateescape', or encode it as base64.",
        ) from None
    return str.__str__(value)


def _wrong_header(name: object, problem: str, remedy: str) -> ConfigError:
    shown = repr(name)
    return ConfigError(f"publish(headers=), {shown if len(shown) <= 60 else shown[:59] + '…'}", problem, remedy)


def near_groups(topic: str, group: str, existing: Mapping[str, Collection[str]]) -> list[str]:
    """The existing groups with names like these, as ``topic/group``, the closest first; at most five. If the topic
    exists, only its groups."""
    wanted = f"{topic}/{group}"
    existing = {topic: existing[topic]} if existing.get(topic) else existing
    dead = topic.endswith(".dlq")
    scored: list[tuple[float, str]] = []
    for other, groups in existing.items():
        if not other.endswith(".dlq") or dead:
            for each in groups:
                name = f"{other}/{each}"
                score = SequenceMatcher(None, wanted, name).ratio() + (other == topic)
                if score >= _NEAR and _NAME.fullmatch(other) and _NAME.fullmatch(each):
                    scored.append((-score, name))
    return [name for _, name in sorted(scored)[:5]]

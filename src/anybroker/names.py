"""Names of topics, groups and transport headers, limited to what every broker carries and refused alike on each."""

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
    "check_topic",
    "dead_letter_topic",
    "hashed",
    "is_owned",
    "near_groups",
    "one_or_several",
]

DEAD_LETTER_GROUP = "dlq"
"""The group that every dead-letter topic has, so that the dead letters wait for somebody to look."""
MAX_NAMES = 60
"""Characters of a topic and a group together."""
MAX_KEY_BYTES = 512
"""UTF-8 bytes of an ordering key."""
SHORT_KEY = MAX_KEY_BYTES // 4
"""Characters of a key that has no more bytes than that, whatever they are."""
MAX_HEADER_NAME = 255
"""Characters of a transport header's name."""

_NEAR = 0.6
"""How much two names have in common, from 0 to 1, that one of them may be the other mistyped."""
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
"""Names that were checked, in lower case by what was given; bounded."""


def _check(what: str, name: object) -> str:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None or ".." in name:
        raise ConfigError(
            what,
            f"{name!r} is no name that every broker carries",
            "Use lower-case letters, digits, and single '.' or '-' between them, such as 'orders' or 'shop.orders-eu'.",
        )
    if len(name) > MAX_NAMES:
        raise ConfigError(what, f"{name!r} has {len(name)} characters", f"Use {MAX_NAMES} at most, the group included.")
    return name


def check_topic(topic: str) -> str:
    """The topic's name, or ConfigError."""
    if topic in _checked:
        return topic
    _check("topic", topic)
    if len(_checked) < 10_000:
        _checked.add(topic)
    return topic


def check_names(topic: str, group: str) -> None:
    """ConfigError if the topic's or the group's name is not one that every broker carries."""
    _check("topic", topic)
    _check("group", group)
    if len(topic) + len(group) > MAX_NAMES:
        raise ConfigError(
            "group",
            f"topic {topic!r} and group {group!r} have {len(topic) + len(group)} characters together",
            f"Use {MAX_NAMES} at most: brokers put both into one name.",
        )


def dead_letter_topic(topic: str, group: str) -> str:
    """The name of a group's dead-letter topic."""
    return f"{topic}.{group}.dlq"


def check_key(key: str) -> str:
    """The ordering key, or ConfigError where it is longer than every broker takes."""
    if len(key) > SHORT_KEY and len(key.encode()) > MAX_KEY_BYTES:
        raise ConfigError(
            "key",
            f"{key[:40]!r}… takes {len(key.encode())} bytes",
            f"Use {MAX_KEY_BYTES} at most: an identifier or its hash, such as the customer's number.",
        )
    return key


def bounded_key(key: str) -> str:
    """What a key of another program orders by: the key itself, or its hash (``hash:`` and 40 hexadecimal digits) where
    it has more than :data:`MAX_KEY_BYTES`, which ``publish`` would have refused.

    Such an event is as good as any other, and events of one key stay in order. What has to be bounded is what the
    library does with the key: it is hashed to a slot, compared, logged, and remembered with each event under way.
    """
    if len(key) <= SHORT_KEY:
        return key
    return key if len(key.encode("utf-8", "surrogatepass")) <= MAX_KEY_BYTES else hashed(key)


def hashed(text: str) -> str:
    """What stands for a long text of another program's: ``hash:`` and 40 hexadecimal digits."""
    return f"hash:{blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=20).hexdigest()}"


def one_or_several(what: str, given: str | Iterable[str]) -> tuple[str, ...]:
    """The texts that a parameter was given: a text is one, not its letters. ConfigError for what is not text."""
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
    """Whether a transport header of this name, in lower case, belongs to the event, to a broker or to the library: on
    some broker it would change the event, or be a command."""
    return name.startswith(_OWNED_PREFIXES) or name in _OWNED


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The transport headers with their names in lower case, or ConfigError for what some broker would not carry, or
    would obey: before anything is sent, and alike on all of them.
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
            raise _wrong_header(name, "is there twice: names of headers have no case", "Give it once, in lower case.")
        checked[lower] = value if value.__class__ is str and value.isprintable() else _check_value(name, value)
    return checked


def _check_header_name(name: object) -> str:
    if not isinstance(name, str):
        raise _wrong_header(name, f"has a name that is a {type(name).__name__}", "Use a string.")
    if _HEADER_NAME.fullmatch(name) is None:
        raise _wrong_header(
            name,
            "has a name that not every broker carries",
            "Use printable ASCII characters without a space or a colon, such as 'x-tenant'.",
        )
    if len(name) > MAX_HEADER_NAME:
        raise _wrong_header(name, f"has a name of {len(name)} characters", f"Use {MAX_HEADER_NAME} at most.")
    lower = str.lower(name)
    if is_owned(lower):
        raise _wrong_header(
            name,
            "has a name that belongs to the event, to a broker or to the library",
            f"Use another name, such as 'x-{lower}'. To pass headers on, give delivery.headers: it has none of these.",
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
            "Decode what it was made of without 'surrogateescape', or encode it as base64.",
        ) from None
    return str.__str__(value)


def _wrong_header(name: object, problem: str, remedy: str) -> ConfigError:
    shown = repr(name)
    return ConfigError(f"publish(headers=), {shown if len(shown) <= 60 else shown[:59] + '…'}", problem, remedy)


def near_groups(topic: str, group: str, there: Mapping[str, Collection[str]]) -> list[str]:
    """Of the groups that are there, as ``topic/group``, those that may have been meant, the nearest first; at most
    five. Where the topic is there, these are its groups."""
    wanted = f"{topic}/{group}"
    there = {topic: there[topic]} if there.get(topic) else there
    dead = topic.endswith(".dlq")
    scored: list[tuple[float, str]] = []
    for other, groups in there.items():
        if not other.endswith(".dlq") or dead:
            for each in groups:
                name = f"{other}/{each}"
                score = SequenceMatcher(None, wanted, name).ratio() + (other == topic)
                if score >= _NEAR and _NAME.fullmatch(other) and _NAME.fullmatch(each):
                    scored.append((-score, name))
    return [name for _, name in sorted(scored)[:5]]

"""Names of topics and groups, limited to what every broker carries and refused alike on each."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .errors import ConfigError

__all__ = ["MAX_KEY_BYTES", "MAX_NAMES", "check_key", "check_names", "check_topic", "one_or_several"]

MAX_NAMES = 60
"""Characters of a topic and a group together."""
MAX_KEY_BYTES = 512
"""UTF-8 bytes of an ordering key."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_checked: set[str] = set()


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


def check_key(key: str) -> str:
    """The ordering key, or ConfigError where it is longer than every broker takes."""
    if len(key) * 4 > MAX_KEY_BYTES and len(key.encode()) > MAX_KEY_BYTES:
        raise ConfigError(
            "key",
            f"{key[:40]!r}… takes {len(key.encode())} bytes",
            f"Use {MAX_KEY_BYTES} at most: an identifier or its hash, such as the customer's number.",
        )
    return key


def one_or_several(what: str, given: str | Iterable[str]) -> tuple[str, ...]:
    """The texts that a parameter was given: a text is one, not its letters. ConfigError for what is not text."""
    if isinstance(given, str):
        return (given,)
    try:
        listed = tuple(given)
    except TypeError:
        listed = (given,)  # type: ignore[assignment] # refused below
    for item in listed:
        if not isinstance(item, str):
            raise ConfigError(what, f"{item!r} is not text", "Give one text, or a list of them.")
    return listed

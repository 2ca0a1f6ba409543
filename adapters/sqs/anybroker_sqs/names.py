"""What topics, groups and keys are called in SQS and SNS.

A dot, which AWS does not take, becomes an underscore. Two underscores, which names of topics and groups cannot have,
separate them. A dead-letter topic with the longest names takes all of AWS's 80 characters.
"""

from __future__ import annotations

import re
from hashlib import blake2b

__all__ = [
    "DEAD_LETTERS",
    "HASHED",
    "message_group",
    "names_of",
    "notes_name",
    "queue_name",
    "redrive_name",
    "topic_name",
]

DEAD_LETTERS = "dlq"
"""The group of every topic for dead letters (see ``Topology``)."""

HASHED = "#"
"""The first character of message groups that are not the key itself."""

_LEGAL = re.compile(r"""[A-Za-z0-9!"$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z0-9!-/:-@\[-`{-~]{0,127}""")
"""Keys that AWS takes as MessageGroupId, and that do not begin with ``HASHED``."""


def _plain(name: str) -> str:
    return name.replace(".", "_")


def topic_name(topic: str, fifo: bool) -> str:
    """The SNS topic."""
    return _plain(topic) + (".fifo" if fifo else "")


def queue_name(topic: str, group: str, fifo: bool) -> str:
    """The group's SQS queue."""
    return f"{_plain(topic)}__{_plain(group)}" + (".fifo" if fifo else "")


def names_of(queue: str) -> tuple[str, str] | None:
    """The topic and the group of a queue; None for a queue that does not belong to a group."""
    topic, separator, group = queue.removesuffix(".fifo").partition("__")
    if not (topic and separator and group) or "__" in group or group.startswith("-"):
        return None
    return topic.replace("_", "."), group.replace("_", ".")


def notes_name(topic: str, group: str) -> str:
    """The queue of notes of handler starts."""
    return f"{_plain(topic)}__{_plain(group)}__notes"


def redrive_name(topic: str, fifo: bool) -> str:
    """The queue for what SNS cannot deliver, and for what SQS handed over 1,000 times."""
    return f"{_plain(topic)}__-redrive" + (".fifo" if fifo else "")


def message_group(key: str) -> str:
    """The MessageGroupId of an ordering key: the key itself, or a hash where AWS does not take it."""
    if _LEGAL.fullmatch(key) is not None:
        return key
    return HASHED + blake2b(key.encode(), digest_size=16).hexdigest()

"""How many members a group has: each keeps one pull waiting at a consumer that never has a message.

The pulls of the lanes do not say it: one that was given up is counted until it expires, and one that is being answered
is not counted. The first member makes the consumer, and the server removes it a minute after the last one has left.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from anybroker.printable import logger

from .client import RawClient
from .commands import pull_command
from .failures import ApiError, nats_errors
from .link import Link
from .names import members_consumer, members_subject, stream_name

__all__ = ["Presence"]

_log = logger("anybroker.nats")

_WAIT: Final = 5.0
"""Seconds that a pull waits, and for which a member is counted whose connection has vanished silently."""
_LATE: Final = 0.5
"""Seconds after which a pull counts as over though its end was not told."""
_KEPT: Final = 60.0
"""Seconds that the server keeps the consumer without members."""
_GONE: Final = 404


class Presence:
    """This member's pull, and the count of all. There are never two pulls at once, so the count is never too high. For
    a moment it may be too low, which only means that no lane is given away then."""

    def __init__(self, link: Link, client: RawClient, topic: str, group: str, inbox: bytes) -> None:
        """``inbox``: the subject for the end of a pull, of which :meth:`ended` is told."""
        self._link = link
        self._client = client
        self._topic = topic
        self._group = group
        self._stream = stream_name(topic)
        self._name = members_consumer(group)
        self._inbox = inbox
        self._until = 0.0
        """When the pull ends by itself; no pull is waiting if that is past."""

    async def join(self) -> None:
        """Be counted from now on. If the consumer cannot be made now, :meth:`count` tries again."""
        try:
            await self._make()
        except Exception as exc:  # noqa: BLE001 - count() raises it again
            _log.debug("the members of %r of %r cannot be counted yet: %s", self._group, self._topic, exc)
        self._pull()

    async def _make(self) -> None:
        info = await self._link.api(f"STREAM.INFO.{self._stream}")
        config: dict[str, Any] = {
            "name": self._name,
            "description": f"members of the anybroker group {self._group}",
            "filter_subject": members_subject(self._topic, self._group),
            "deliver_policy": "new",
            "ack_policy": "none",
            "mem_storage": True,
            "inactive_threshold": int(_KEPT * 1e9),
            "num_replicas": info["config"].get("num_replicas", 1),
        }
        await self._link.api(
            f"CONSUMER.CREATE.{self._stream}.{self._name}", {"stream_name": self._stream, "config": config}
        )

    def _pull(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._until:
            return
        body = b'{"batch":1,"expires":%d}' % int(_WAIT * 1e9)
        if self._client.write(pull_command(self._stream, self._name, self._inbox, body)):
            self._until = now + _WAIT + _LATE

    def ended(self, status: bytes) -> None:
        """The server says that the pull is over. One that was refused is sent again by the next count."""
        self._until = 0.0
        if status.startswith(b"408"):
            self._pull()

    async def count(self) -> int:
        """How many members there are, at least one. Raises ``BrokerError``."""
        with nats_errors(f"counting the members of {self._group!r} of {self._topic!r}"):
            try:
                info = await self._link.api(f"CONSUMER.INFO.{self._stream}.{self._name}")
            except ApiError as exc:
                if exc.code != _GONE:
                    raise
                await self._make()
                self._until = 0.0
                info = {"num_waiting": 0}
        waiting = int(info["num_waiting"])
        if asyncio.get_running_loop().time() < self._until:
            return max(1, waiting)
        self._pull()  # it was not waiting when the server counted
        return waiting + 1

"""How many members a group has: each keeps one pull waiting at a consumer that never has a message.

The lanes' own pulls do not tell: one that was given up is counted until it expires, and one that is answered at this
moment is not. The consumer is made by the first member, and the server removes it a minute after the last.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from anybroker.printable import logger

from .client import RawClient
from .failures import ApiError, nats_errors
from .link import Link
from .names import members_consumer, members_subject, stream_name

__all__ = ["Presence"]

_log = logger("anybroker.nats")

_WAIT: Final = 5.0
"""Seconds that a pull waits: so long is a member counted whose connection has vanished without a word."""
_LATE: Final = 0.5
"""Seconds after which a pull is over even though nothing has said so."""
_KEPT: Final = 60.0
"""Seconds that the server keeps the consumer without members."""
_GONE: Final = 404


class Presence:
    """This member's pull, and the count of all. Never two pulls at once, so never more members than there are; for a
    moment perhaps fewer, after which nobody gives a lane away."""

    def __init__(self, link: Link, client: RawClient, topic: str, group: str, inbox: bytes) -> None:
        """``inbox``: the subject for the end of a pull; who listens there calls :meth:`ended`."""
        self._link = link
        self._client = client
        self._topic = topic
        self._group = group
        self._stream = stream_name(topic)
        self._name = members_consumer(group)
        self._inbox = inbox
        self._until = 0.0
        """When the pull ends by itself; in the past: there is none."""

    async def join(self) -> None:
        """Be counted from now on. Where the consumer cannot be made now, :meth:`count` tries again."""
        try:
            await self._make()
        except Exception as exc:  # noqa: BLE001 - whatever it was: count() says it
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
        command = b"PUB $JS.API.CONSUMER.MSG.NEXT.%b.%b %b %d\r\n%b\r\n" % (
            self._stream.encode(),
            self._name.encode(),
            self._inbox,
            len(body),
            body,
        )
        if self._client.write(command):
            self._until = now + _WAIT + _LATE

    def ended(self, status: bytes) -> None:
        """The server's word that the pull is over. What was refused is asked for again by the next count."""
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
        self._pull()  # it was not there when the server counted
        return waiting + 1

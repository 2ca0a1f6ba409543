"""nats-py's client, with a way to what is on the wire: raw messages in, raw commands out.

When it receives, nats-py decodes header values (bytes that are not UTF-8 are lost, and all but one value of a name),
passes each message through a queue and a task, and drops what exceeds the queue's limit. When it publishes, it strips
values. This client keeps every byte, and costs about half. It needs some private parts of nats-py, named where they are
used: if one disappears, ``receive`` or ``submit`` fails at the first event, and so do the tests of this file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import SecureConnRequiredError

from anybroker.printable import logger

__all__ = ["Listener", "RawClient"]

_log = logger("anybroker.nats")

Listener: TypeAlias = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Called with subject, reply, body and the block of headers. What it raises is logged, and the message dropped: anyone
who may publish to an inbox can send anything to it."""


class RawClient(Client):
    """One connection, which nats-py makes again when it is lost."""

    def __init__(self, require_tls: bool) -> None:
        super().__init__()
        self._require_tls = require_tls
        self._listeners: dict[int, Listener] = {}
        self._unreadable = 0
        """Messages that a listener could not read."""
        self._ending: asyncio.Task[None] | None = None

    @property
    def verifies_clients(self) -> bool:
        """Whether the last server that we connected to asks for a client's certificate."""
        return bool(self._server_info.get("tls_verify"))  # what it said about itself; not public

    async def listen(self, subject: str, listener: Listener) -> Subscription:
        """Subscribe. The listener gets the messages unchanged, one by one."""
        # With a future, nats-py starts no task that waits for messages; none gets that far.
        subscription: Subscription = await self.subscribe(subject, future=asyncio.get_running_loop().create_future())
        self._listeners[subscription._id] = listener  # the number that the server sends along; not public
        return subscription

    async def unlisten(self, subscription: Subscription, timeout: float) -> None:
        """Unsubscribe, and return when everything that was on its way has reached the listener. Without a connection
        nothing is on its way, and the next connection does not get the subscription."""
        try:
            if not self.is_closed:
                await subscription.unsubscribe()
            if self.is_connected:
                await self.flush(timeout)  # type: ignore[arg-type]  # seconds, whole or not
        finally:
            self._listeners.pop(subscription._id, None)  # as above

    def write(self, commands: bytes) -> bool:
        """Queue commands of the NATS protocol for the server, in order. False: no connection, nothing done."""
        queue = self._flush_queue  # as nats-py's own publish() does, but with many commands at once
        if not self.is_connected or queue is None:
            return False
        self._pending.append(commands)
        self._pending_data_size += len(commands)
        if queue.empty():
            queue.put_nowait(asyncio.get_running_loop().create_future())
        return True

    def abort(self) -> None:
        """Drop the connection at once, with what was not sent."""
        writer = getattr(self._transport, "_io_writer", None)  # asyncio's, under nats-py's transport; not public
        if writer is not None:
            writer.transport.abort()

    async def _process_op_err(self, e: Exception) -> None:
        """Overrides what nats-py calls when the connection is lost, and makes sure that it always ends in a new one.

        nats-py first waits until everything that was written is sent: on a dead path, for as long as TCP tries. And an
        exception that its task for reconnecting did not expect ends the task, and others wait for it for ever.
        """
        before = self._reconnection_task
        if not self.is_closed and not self.is_reconnecting:
            self.abort()
        await super()._process_op_err(e)
        task = self._reconnection_task
        if task is not None and task is not before:
            task.add_done_callback(self._reconnected)

    def _reconnected(self, task: asyncio.Task[None]) -> None:
        """The task that reconnects has ended. If it failed, this client is closed, and there will be another one."""
        failure = None if task.cancelled() else task.exception()
        if task is self._reconnection_task and not self.is_connected and not self.is_closed:
            _log.warning("nats-py cannot reconnect; making a new connection", exc_info=failure)
            self._ending = asyncio.get_running_loop().create_task(self.close())

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        """Overrides what nats-py's parser calls for each message: private, and the only place with raw headers."""
        listener = self._listeners.get(sid)
        if listener is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            listener(subject, reply, data, headers)
        except Exception:  # noqa: BLE001 - it would end nats-py's reader, and all that this connection receives
            self._unreadable += 1
            if not self._unreadable & (self._unreadable - 1):  # 1, 2, 4, 8, …: others could fill the disk
                _log.exception(
                    "an unexpected message to %r was dropped (number %d on this connection)",
                    subject.decode(errors="replace"),
                    self._unreadable,
                )

    def _connect_command(self) -> bytes:
        """Overrides what nats-py sends first: it would send a password in the clear to a server without TLS."""
        if self._require_tls and not self._server_info.get("tls_required"):
            raise SecureConnRequiredError
        return super()._connect_command()

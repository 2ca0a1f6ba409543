"""Which server has an event's key: one server, or the nodes of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from redis.crc import key_slot
from redis.exceptions import RedisError

from anybroker.idempotency import StoreUnavailable
from anybroker.printable import logger

from .batches import Batches
from .connecting import Address, Connector, Link
from .failures import Unsuitable
from .keys import TAGS, Names
from .operations import CheckOperation, Transition

__all__ = ["Deployment"]

_log = logger("anybroker.redis")

_MOST_MOVES = 5
"""How often an operation follows its slot."""
_PAUSE = 0.2
"""Seconds between two looks at a cluster's map."""


class Deployment:
    """Everything of a store that is open. Made by :meth:`open`, in the event loop that uses it."""

    def __init__(self, connector: Connector, names: Names) -> None:
        self._connector = connector
        self._names = names
        self._timeout = connector.settings.timeout
        self.loop = asyncio.get_running_loop()
        self._nodes: dict[Address | None, Batches] = {}
        """By the node's address; None: the only server, which may be any of the URL's."""
        self._of_tag: list[Batches] = []
        self._cluster = False
        self._looking: asyncio.Task[None] | None = None
        self._looked = 0.0
        self._homeless: list[Transition] = []
        """What waits until the map has been read."""

    async def open(self) -> None:
        """Connect, check, and read the map of a cluster. Raises what redis-py raises, ``Unsuitable`` or
        ``TimeoutError``."""
        deadline = self.loop.time() + self._timeout
        async with asyncio.timeout_at(deadline):
            link = await self._connector.connect(self._connector.addresses, deadline)
            if not link.cluster:
                node = self._node(None)
                node.adopt(link)
                self._of_tag = [node] * TAGS
                return
            self._cluster = True
            try:
                self._use(await self._read_map(link))
            finally:
                await link.close()

    def put(self, operation: Transition) -> None:
        """Send it with others; its future gets the answer."""
        self._of_tag[operation.claim.tag].put(operation)

    @property
    def tags(self) -> list[int]:
        """One tag of each node."""
        return list({id(node): tag for tag, node in enumerate(self._of_tag)}.values())

    async def check(self) -> None:
        """Ask each server whether it can still be the store. ``StoreUnavailable`` if one cannot."""
        deadline = self.loop.time() + self._timeout
        futures: list[asyncio.Future[None]] = []
        for node in dict.fromkeys(self._of_tag):
            futures.append(self.loop.create_future())
            node.put(CheckOperation(futures[-1], deadline))
        await asyncio.gather(*futures)

    async def close(self) -> None:
        """Complete what was put before, and close the connections."""
        try:
            while self._looking is not None:
                await asyncio.wait([self._looking])
            await asyncio.gather(*(node.close() for node in self._nodes.values()))
        finally:
            if self._looking is not None:
                self._looking.cancel()
            for operation in self._homeless:
                operation.fail(StoreUnavailable(f"the idempotency store {self._connector.url} was closed"))

    def _node(self, address: Address | None) -> Batches:
        """What waits for this node."""
        node = self._nodes.get(address)
        if node is None:
            addresses = self._connector.addresses if address is None else [address]
            node = self._nodes[address] = Batches(
                partial(self._connector.connect, addresses),
                self._names.counters,
                str(self._connector.url) + ("" if address is None else f" (node {self._connector.name(address)})"),
                self._timeout,
                self._moved if self._cluster else None,
                self._look if self._cluster else _nothing,
            )
        return node

    # ------------------------------------------------------------------------------------------------ in a cluster

    async def _read_map(self, link: Link) -> list[Address]:
        """The address of each tag's primary."""
        ranges = await link.ask(b"CLUSTER", b"SLOTS")
        asked = link.connection.host
        found: list[Address] = []
        for counter in self._names.counters:
            slot = key_slot(counter)
            for first, last, (host, port, *_), *_ in ranges:
                if first <= slot <= last:
                    # No name: the node does not know its own, and it is the one that we ask.
                    found.append((host.decode() if host not in (None, b"", b"?") else asked, int(port)))
                    break
            else:
                raise Unsuitable(
                    f"no node of the cluster has the slot {slot}", "Give every slot to a node: redis-cli --cluster fix."
                )
        return found

    def _use(self, addresses: Sequence[Address]) -> None:
        self._of_tag = [self._node(address) for address in addresses]

    def _look(self) -> None:
        """Read the map again soon."""
        if self._looking is None:
            self._looking = self.loop.create_task(self._read_again(), name="anybroker redis cluster")
            self._looking.add_done_callback(self._has_looked)

    async def _read_again(self) -> None:
        await asyncio.sleep(self._looked + _PAUSE - self.loop.time())
        self._looked = self.loop.time()
        deadline = self._looked + self._timeout
        known = [address for address in self._nodes if address is not None]
        for address in dict.fromkeys([*known, *self._connector.addresses]):
            try:
                async with asyncio.timeout_at(min(deadline, self.loop.time() + self._timeout / 3)):
                    link = await self._connector.connect([address], deadline)
                    try:
                        self._use(await self._read_map(link))
                    finally:
                        await link.close()
            except (RedisError, OSError, Unsuitable) as exc:
                _log.debug("%s does not show the cluster's map: %s", self._connector.name(address), exc)
            else:
                return

    def _has_looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled() and task.exception() is not None:
            _log.error("the map of the cluster could not be read", exc_info=task.exception())
        waiting, self._homeless = self._homeless, []
        for operation in waiting:
            self.put(operation)

    def _moved(self, operations: Sequence[Transition]) -> None:
        """These operations went to a node that does not have their slot any more."""
        error = StoreUnavailable(f"the idempotency store {self._connector.url}: the cluster is moving its slots")
        for operation in operations:
            operation.moves += 1
            if operation.moves > _MOST_MOVES:
                operation.fail(error)
            else:
                self._homeless.append(operation)
        self._look()


def _nothing() -> None:
    """The one server of a URL has no map."""

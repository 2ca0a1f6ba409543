"""Copies of what was delivered, on their way: dead letters, delayed releases, replays."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from time import time as wall_clock
from typing import Any

from ..adapter import Foreign, Inbound
from ..cloudevents.event import Event
from ..delivery import Delivery
from ..errors import PublishOutcomeUnknown, Unavailable
from ..printable import logger
from .publisher import Publisher, Publishing
from .pump import ATTEMPTS_HEADER, NOT_BEFORE_HEADER

__all__ = ["Copies"]

_log = logger("anybroker")
_MOST_SENT = 4_096


class Copies:
    """Sends them, confirmed, under names that no other event can have."""

    def __init__(self, publisher: Callable[[], Publisher | None]) -> None:
        """``publisher``: None while the Bus does not run."""
        self._publisher = publisher
        self.mark = secrets.token_hex(8)
        """In the hop of every copy that this Bus sends, so that nobody else can have sent something under its id."""
        self._sent: dict[str, None] = {}
        """The hops of the last copies that this Bus sent: sent again, it is true that the broker has them."""

    async def send(
        self,
        event: Event[Any] | Foreign,
        topic: str,
        group: str | None,
        headers: dict[str, str],
        not_before: float | None,
        hop: str,
        of: Inbound | None,
    ) -> None:
        """Send a copy ``of`` what was delivered, confirmed. Its hop names the place of that delivery: another event of
        the same source and id, which anybody may have published, must not pass for a copy of this one, nor keep this
        one out. Only the same copy sent again has the same hop. Raises BrokerError."""
        publisher = self._publisher()
        if publisher is None:
            raise Unavailable("the Bus is closing")
        place = secrets.token_hex(8) if of is None else f"{of.lane.name}|{of.lane.epoch}|{of.position}"
        whole = f"{hop}|{place}|{self.mark}"
        sent_before = whole in self._sent
        self._sent[whole] = None
        if len(self._sent) > _MOST_SENT:
            del self._sent[next(iter(self._sent))]
        publishing = Publishing(event, topic, group, headers or None, not_before, whole, 0)
        receipt = await publisher.send(publishing)
        if not receipt.duplicate or sent_before or publishing.failure is not None:
            return
        what = f"the broker takes a copy for {topic!r} for one that it has, and it was sent once"
        if of is None:
            raise PublishOutcomeUnknown(f"{what}: its adapter does not tell copies apart by their hop")
        _log.warning("%s: it is sent again, under another name", what)
        await self.send(event, topic, group, headers, not_before, hop, None)

    async def release(self, delivery: Delivery, starts: int, delay: float, facts: Mapping[str, str]) -> None:
        """A copy to the group's inlet, to be handled after ``delay`` seconds. ``facts``: what a replay wrote beside the
        delivery. Raises BrokerError."""
        not_before = wall_clock() + delay
        headers = {
            **delivery.headers,
            **facts,
            ATTEMPTS_HEADER: str(starts),
            NOT_BEFORE_HEADER: f"{not_before:.3f}",
        }
        hop = f"release|{delivery.group}|{headers.get('anybroker-replays', '0')}|{starts}"
        await self.send(delivery.event, delivery.topic, delivery.group, headers, not_before, hop, delivery.inbound)

"""Sending copies of what was delivered: dead letters, delayed releases, replays."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from time import time as wall_clock
from typing import Any

from ..adapter import Foreign, Inbound, Receipt
from ..cloudevents.event import Event
from ..delivery import Delivery
from ..errors import EventTooLarge, PublishOutcomeUnknown, Unavailable
from ..kit.not_before import NOT_BEFORE
from ..printable import logger
from .failures import failures_of, first_failure, written
from .inlet import ATTEMPTS_HEADER, FAILURES_HEADER, FIRST_FAILURE_HEADER
from .publisher import Publisher, Publishing
from .spans import Spans

__all__ = ["Copies"]

_log = logger("anybroker.publish")
_MOST_SENT = 4_096


class Copies:
    """Sends copies, confirmed, under names that no other event can have."""

    def __init__(self, publisher: Callable[[], Publisher | None], spans: Callable[[], Spans | None]) -> None:
        """``publisher``: None while the Bus does not run. ``spans``: None where nothing is traced."""
        self._publisher = publisher
        self._spans = spans
        self.mark = secrets.token_hex(8)
        """Part of the hop of every copy from this Bus, so that nobody else can have sent something under the same
        id."""
        self._sent: dict[str, None] = {}
        """The hops of the last copies from this Bus: if one is sent again, the broker may rightly report a
        duplicate."""

    async def send(
        self,
        event: Event[Any] | Foreign,
        topic: str,
        group: str | None,
        headers: dict[str, str],
        not_before: float | None,
        hop: str,
        of: Inbound | None,
        cause: Delivery | None = None,
        name: str = "",
    ) -> None:
        """Send a copy ``of`` a delivery, confirmed. Its hop names the place of that delivery: another event with the
        same source and id, which anybody can publish, must not count as a copy of this one, or keep this one out. Only
        the same copy sent again has the same hop. ``cause``: the delivery whose start was its reason. ``name``: stands
        for the place, and for this Bus, of a copy that another Bus may have sent already; for use where nobody else can
        send something under its hop. Raises BrokerError."""
        publisher = self._publisher()
        if publisher is None:
            raise Unavailable("the Bus is closing")
        place = secrets.token_hex(8) if of is None else f"{of.lane.name}|{of.lane.epoch}|{of.position}"
        whole = f"{hop}|{name}" if name else f"{hop}|{place}|{self.mark}"
        sent_before = whole in self._sent
        self._sent[whole] = None
        if len(self._sent) > _MOST_SENT:
            del self._sent[next(iter(self._sent))]
        publishing = Publishing(event, topic, group, headers or None, not_before, whole, 0)
        if (spans := self._spans()) is None:
            receipt = await publisher.send(publishing)
        else:
            with spans.copy(publishing, None if cause is None else spans.after(cause)):
                receipt = await publisher.send(publishing)
        if not receipt.duplicate or name or sent_before or publishing.failure is not None:
            return
        what = f"the broker reports a copy for {topic!r} as a duplicate, although it was sent only once"
        if of is None:
            raise PublishOutcomeUnknown(f"{what}: its adapter does not tell copies apart by their hop")
        _log.warning("%s: sending it again under another name", what)
        await self.send(event, topic, group, headers, not_before, hop, None, cause)

    async def send_as(
        self, event: Event[Any] | Foreign, topic: str, group: str | None, headers: dict[str, str], hop: str
    ) -> Receipt:
        """Send a copy of what the topic keeps, confirmed, under exactly this hop: sent again, also by another process,
        it may be a duplicate. Nobody else may know the hop. It is queued when this is first stepped. Raises
        BrokerError."""
        publisher = self._publisher()
        if publisher is None:
            raise Unavailable("the Bus is closing")
        publishing = Publishing(event, topic, group, headers or None, None, hop, 0)
        if (spans := self._spans()) is None:
            return await publisher.send(publishing)
        with spans.copy(publishing, None):
            return await publisher.send(publishing)

    def go_on(self, delivery: Delivery, headers: dict[str, str]) -> None:
        """Where there are traces, let the headers of a copy lead from the start that was the reason for it."""
        if (spans := self._spans()) is not None:
            spans.carry(delivery, headers)

    async def release(self, delivery: Delivery, starts: int, delay: float, facts: Mapping[str, str]) -> None:
        """Send a copy to the group's inlet, to be handled after ``delay`` seconds. ``facts``: the headers that a replay
        added to the delivery. Raises BrokerError."""
        not_before = wall_clock() + delay
        headers = {
            **delivery.headers,
            **facts,
            ATTEMPTS_HEADER: str(starts),
            NOT_BEFORE: f"{not_before:.3f}",
        }
        self.go_on(delivery, headers)
        hop = f"release|{delivery.group}|{headers.get('anybroker-replays', '0')}|{starts}"
        event, inbound = delivery.event, delivery.inbound
        if failures := failures_of(delivery):
            told = {**headers, FAILURES_HEADER: written(failures)}
            if (first := first_failure(delivery)) is not None:
                told[FIRST_FAILURE_HEADER] = f"{first:.3f}"
            try:
                await self.send(event, delivery.topic, delivery.group, told, not_before, hop, inbound, delivery)
            except EventTooLarge:  # of another program, at the broker's limit: it goes without
                pass
            else:
                return
        await self.send(event, delivery.topic, delivery.group, headers, not_before, hop, inbound, delivery)

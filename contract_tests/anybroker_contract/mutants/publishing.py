"""Flaws on the way to the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from anybroker.adapter import RESERVED_BYTES, Foreign, Outbound, Receipt, Report, Sender
from anybroker.errors import BrokerError, EventTooLarge, PublishOutcomeUnknown, Rejected, Unavailable
from anybroker.event import Event

from .breaking import Flaw, changed_outbound


async def submit_changed(sender: Sender, batch: Sequence[Outbound], report: Report, **changes: Any) -> None:
    """Submit copies with other fields; the reports name the originals."""
    copies = [changed_outbound(outbound, **{k: v(outbound) for k, v in changes.items()}) for outbound in batch]
    await sender.submit(copies, lambda copy, result: report(copy.token, result))


class LosesOneInAHundred(Flaw):
    """Every hundredth event is confirmed and not sent."""

    def __init__(self) -> None:
        self.count = 0

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        kept = []
        for outbound in batch:
            self.count += 1
            if self.count % 100:
                kept.append(outbound)
            else:
                report(outbound, Receipt(outbound.topic, f"lost-{self.count}"))
        if kept:
            await sender.submit(kept, report)


class DuplicatesOneInFifty(Flaw):
    """Every fiftieth event is stored twice."""

    def __init__(self) -> None:
        self.count = 0

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        await sender.submit(batch, report)
        copies = []
        for outbound in batch:
            self.count += 1
            if self.count % 50 == 0:
                copies.append(changed_outbound(outbound, hop=f"{outbound.hop}|again"))
        if copies:
            await sender.submit(copies, lambda _copy, _result: None)


class ReordersAKey(Flaw):
    """Two events of one key that are sent together change places."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        mixed = list(batch)
        last: dict[str, int] = {}
        for at, outbound in enumerate(batch):
            if outbound.key is None:
                continue
            before = last.pop(outbound.key, None)
            if before is None:
                last[outbound.key] = at
            else:
                mixed[before], mixed[at] = mixed[at], mixed[before]
        await sender.submit(mixed, report)


class SwallowsAPublishError(Flaw):
    """An event that the broker refused is reported as stored."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""

        def lie(outbound: Outbound, result: Receipt | BrokerError) -> None:
            report(outbound, result if isinstance(result, Receipt) else Receipt(outbound.topic, "0"))

        await sender.submit(batch, lie)


class ConfirmsBeforeStoring(Flaw):
    """Events are confirmed at once and sent a moment later; a close in between loses them."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.TimerHandle] = []
        self.sending: set[asyncio.Task[None]] = set()

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        for at, outbound in enumerate(batch):
            report(outbound, Receipt(outbound.topic, f"promised-{at}"))
        copies = [changed_outbound(outbound) for outbound in batch]

        def send() -> None:
            task = asyncio.ensure_future(sender.submit(copies, lambda _copy, _result: None))
            self.sending.add(task)
            task.add_done_callback(self.sending.discard)

        self.waiting.append(asyncio.get_running_loop().call_later(0.03, send))

    async def close_sender(self, sender: Sender) -> None:
        """Sender.close."""
        for handle in self.waiting:
            handle.cancel()
        if self.sending:
            await asyncio.wait(self.sending)
        await sender.close()


class ForgetsToConfirm(Flaw):
    """Every twentieth event is stored and never confirmed."""

    def __init__(self) -> None:
        self.count = 0

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""

        def forget(outbound: Outbound, result: Receipt | BrokerError) -> None:
            self.count += 1
            if self.count % 20:
                report(outbound, result)

        await sender.submit(batch, forget)


class DropsHeaders(Flaw):
    """Transport headers are not sent."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        await submit_changed(sender, batch, report, headers=lambda _: None)


class StripsHeaderValues(Flaw):
    """Spaces at the ends of header values are lost, as in an HTTP library."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""

        def strip(outbound: Outbound) -> Mapping[str, str] | None:
            headers = outbound.headers
            return None if headers is None else {name: value.strip() for name, value in headers.items()}

        await submit_changed(sender, batch, report, headers=strip)


class InventsAHeader(Flaw):
    """Every message gets a header that nobody asked for."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        await submit_changed(
            sender, batch, report, headers=lambda outbound: {**(outbound.headers or {}), "x-sent-by": "acme"}
        )


class DropsAnExtension(Flaw):
    """Of more than ten extensions the last is dropped."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""

        def drop(outbound: Outbound) -> Any:
            event = outbound.event
            if isinstance(event, Foreign) or len(event.extensions) <= 10:
                return event
            return event.replace(extensions={list(event.extensions)[-1]: None})

        await submit_changed(sender, batch, report, event=drop)


class RoundsTheTime(Flaw):
    """The event's time is parsed and written again, cut to microseconds."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""

        def cut(outbound: Outbound) -> Any:
            event = outbound.event
            if isinstance(event, Foreign) or event.time is None or len(event.time_raw or "") <= 32:
                return event
            return event.replace(time=event.time)

        await submit_changed(sender, batch, report, event=cut)


class EmptiesANullBody(Flaw):
    """An event without data gets an empty body."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""

        def fill(outbound: Outbound) -> Any:
            event = outbound.event
            if isinstance(event, Foreign) or event.has_data:
                return event
            return event.replace(data=b"", datacontenttype="application/octet-stream")

        await submit_changed(sender, batch, report, event=fill)


class RecodesBodies(Flaw):
    """Bodies go through a UTF-8 string, with replacement characters for what is none."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""

        def recode(outbound: Outbound) -> Any:
            event = outbound.event
            if isinstance(event, Foreign) or event.body is None:
                return event
            body = event.body.decode("utf-8", "replace").encode()
            return event if body == event.body else Event(dict(event.attributes), body)

        await submit_changed(sender, batch, report, event=recode)


class InletReachesEveryGroup(Flaw):
    """What is meant for one group goes to all groups of the topic."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        await submit_changed(sender, batch, report, group=lambda _: None)


class DeliversTooEarly(Flaw):
    """A delay is ignored."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        await submit_changed(sender, batch, report, not_before=lambda _: None)


class FillsTheReserve(Flaw):
    """Ordinary events may fill the broker's limit to the last byte, and dead letters may not."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        await submit_changed(sender, batch, report, reserve=lambda _: 0)


class FailsTheWholeBatch(Flaw):
    """One event that is refused fails all that were sent with it."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        results: list[tuple[Outbound, Receipt | BrokerError]] = []

        def collect(outbound: Outbound, result: Receipt | BrokerError) -> None:
            results.append((outbound, result))
            if len(results) == len(batch):
                error = next((item for _, item in results if isinstance(item, BrokerError)), None)
                for one, own in results:
                    report(one, own if error is None else error)

        await sender.submit(batch, collect)


class DeadLettersGetLost(Flaw):
    """What goes to a dead-letter topic is confirmed and not stored."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        kept = [outbound for outbound in batch if not outbound.topic.endswith(".dlq")]
        for outbound in batch:
            if outbound.topic.endswith(".dlq"):
                report(outbound, Receipt(outbound.topic, "0"))
        if kept:
            await sender.submit(kept, report)


class NeverConnectsAgain(Flaw):
    """After the first lost connection nothing more is sent."""

    def __init__(self) -> None:
        self.broken = False

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""

        def watch(outbound: Outbound, result: Receipt | BrokerError) -> None:
            self.broken |= isinstance(result, Unavailable | PublishOutcomeUnknown)
            report(outbound, result)

        if self.broken:
            raise Unavailable("the connection is gone")
        try:
            await sender.submit(batch, watch)
        except Unavailable:
            self.broken = True
            raise


class SendsAgainTooSoon(Flaw):
    """What is not confirmed within 0.2 s is sent a second time."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        open_ones = {id(outbound): outbound for outbound in batch}

        def note(outbound: Outbound, result: Receipt | BrokerError) -> None:
            open_ones.pop(id(outbound), None)
            report(outbound, result)

        await sender.submit(batch, note)
        if open_ones:
            await asyncio.sleep(0.2)
        if open_ones:
            copies = [changed_outbound(item, hop=f"{item.hop}|again") for item in open_ones.values()]
            await sender.submit(copies, lambda _copy, _result: None)


class RemembersARefusal(Flaw):
    """A topic that is not there once is never there again."""

    def __init__(self) -> None:
        self.refused: dict[str, BrokerError] = {}

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""

        def remember(outbound: Outbound, result: Receipt | BrokerError) -> None:
            if isinstance(result, Rejected) and not isinstance(result, EventTooLarge):
                self.refused[outbound.topic] = result
            report(outbound, result)

        for outbound in batch:
            if outbound.topic in self.refused:
                report(outbound, self.refused[outbound.topic])
        kept = [outbound for outbound in batch if outbound.topic not in self.refused]
        if kept:
            await sender.submit(kept, remember)


class KeepsTheReserveFromDeadLetters(Flaw):
    """Dead letters are held to the limit of ordinary events."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        await submit_changed(sender, batch, report, reserve=lambda _: RESERVED_BYTES)


class FailsTheWholeBatchForOneWrite(Flaw):
    """An event that cannot be written makes all of its batch fail."""

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        for outbound in batch:
            dict(outbound.headers or {})
        await sender.submit(batch, report)

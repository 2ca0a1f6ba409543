"""Settling deliveries: acknowledgements, and giving back without the lane."""

from __future__ import annotations

from collections.abc import Sequence

from anybroker.adapter import Ack, Inbound, Release, Settlement
from anybroker.errors import BrokerError, LeaseLost, Unavailable

from .commands import ACK, NAK
from .consumer import Consumer
from .member import Member
from .notes import write_notes

__all__ = ["Settling"]


class Settling:
    """Settles what the core has, whichever lane it is of."""

    def __init__(self, member: Member, confirm_acks: bool) -> None:
        self._member = member
        self._confirm_acks = confirm_acks
        self._forbidden: str | None = None
        """Why acknowledgements have no effect: the user may not publish them. Each is confirmed while that is so."""

    def refuse(self, why: str) -> None:
        """The server does not take this user's acknowledgements."""
        self._forbidden = why
        self._member.answers.give_up()

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
        """One result for each. None means handed over; with ``confirm_acks``, confirmed."""
        results: list[BrokerError | None] = []
        acks: list[tuple[int, Inbound, bytes]] = []
        naks: list[bytes] = []
        starts: dict[int, int] = {}
        confirm = self._confirm_acks or self._forbidden is not None
        for at, item in enumerate(batch):
            if not isinstance(item, Ack | Release):
                raise TypeError("NATS settles each message by itself")
            inbound = item.inbound
            consumer: Consumer = inbound.token
            sequence = inbound.position
            reply = consumer.unsettled.get(sequence) if consumer.lane is inbound.lane else None
            if reply is None:
                results.append(LeaseLost(f"a delivery of {inbound.lane.name} is settled already, or no longer ours"))
                continue
            results.append(None)
            if isinstance(item, Ack):
                acks.append((at, inbound, reply))
                consumer.remember_ack(sequence, reply)
                if not confirm:
                    del consumer.unsettled[sequence]
                continue
            del consumer.unsettled[sequence]
            if item.attempts:
                starts[sequence] = consumer.starts[sequence] = item.attempts
            if consumer.ordered and consumer.handing_over is None:
                consumer.released[sequence] = reply
            else:
                naks.append(reply)
        member = self._member
        if naks:
            await write_notes(member.answers, member.spec.topic, member.spec.group, starts)
        commands = [b"PUB " + reply + NAK for reply in naks]
        if not confirm:
            commands += [b"PUB " + reply + ACK for _, _, reply in acks]
        if commands and not member.write(b"".join(commands)):
            lost = Unavailable("the connection to NATS is lost: what was done is acknowledged when it is back")
            results = [lost if result is None else result for result in results]
        elif confirm:
            await self._confirm(acks, results)
        return results

    async def _confirm(self, acks: Sequence[tuple[int, Inbound, bytes]], results: list[BrokerError | None]) -> None:
        """Acknowledge, and wait for the server's answers. What it does not confirm stays ours, to be settled again."""
        commands = [(b"PUB " + reply, ACK) for _, _, reply in acks]
        unconfirmed = set(await self._member.answers.ask(commands))
        for number, (at, inbound, _) in enumerate(acks):
            if number in unconfirmed:
                results[at] = Unavailable(self._forbidden or "NATS did not confirm an acknowledgement in time")
            elif inbound.token.lane is inbound.lane:
                inbound.token.unsettled.pop(inbound.position, None)
        if acks and not unconfirmed:
            self._forbidden = None

"""What a batch is made of: one operation for each transition, and what is sent and understood of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeAlias

from anybroker.idempotency import DONE, Busy, Claim, Done, Key, StoreUnavailable

from .keys import TAGS
from .scripts import CLAIM, END, Script

__all__ = ["CheckOperation", "ClaimOperation", "EndOperation", "Operation", "RedisClaim", "Transition", "calls_of"]

Call: TypeAlias = tuple[Script, Sequence[bytes], Sequence[bytes], Callable[[bytes], None]]
"""A script, its keys, its arguments, and what takes the answer."""

_LONGEST = 10**14
"""Microseconds of a lease and milliseconds of an expiry: more than anybody means, and less than Redis and Lua can."""


class RedisClaim(Claim):
    """A claim, and where it is kept."""

    __slots__ = ("count", "name", "tag")

    def __init__(self, key: Key, tag: int, name: bytes, lease: float, retain: float) -> None:
        super().__init__(key, 0, lease, retain, 0.0)
        self.tag = tag
        self.name = name
        self.count = 0
        """The fence as the server keeps it, unique to the tag. The claim's own fence has the tag added, so that no two
        claims have the same."""


class Operation:
    """Something to ask the server, and the future that waits for it."""

    __slots__ = ("deadline",)

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """On the event loop's clock."""

    def fail(self, error: Exception) -> None:
        """Tell the caller, if it still waits."""
        raise NotImplementedError


class CheckOperation(Operation):
    """Whether the server can still be the store."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[None], deadline: float) -> None:
        super().__init__(deadline)
        self.future = future

    def succeed(self) -> None:
        """It can."""
        if not self.future.done():
            self.future.set_result(None)

    def fail(self, error: Exception) -> None:
        """Tell the caller, if it still waits."""
        if not self.future.done():
            self.future.set_exception(error)


class Transition(Operation):
    """What changes the state of one key, or of the parked keys of one group."""

    __slots__ = ("call", "claim", "moves")

    def __init__(self, claim: RedisClaim, deadline: float) -> None:
        super().__init__(deadline)
        self.claim = claim
        self.call: Call | None = None
        """Its own call of a script; None: it goes with others of its kind."""
        self.moves = 0
        """How often it went to a node that does not have its slot any more."""


class ClaimOperation(Transition):
    """A claim to be made, and the future that waits for it."""

    __slots__ = ("future", "token")

    def __init__(
        self, claim: RedisClaim, future: asyncio.Future[Claim | Busy | Done], deadline: float, token: bytes
    ) -> None:
        super().__init__(claim, deadline)
        self.future = future
        self.token = token

    @property
    def is_known(self) -> bool:
        """Whether its caller has the answer: then the claim is the caller's."""
        return self.future.done() and not self.future.cancelled()

    def argument(self, counter: int) -> bytes:
        """What the script is told. ``counter``: the place of its counter among the keys."""
        claim = self.claim
        return b"%d %d %d %b" % (counter, _micros(claim.lease), _millis(claim.retain + claim.lease), self.token)

    def understand(self, answer: bytes, now: int) -> bool:
        """Pass the script's answer on. True: the claim was made, and nobody waits for it any more."""
        kind, future = answer[:1], self.future
        if kind == b"C":
            claim = self.claim
            claim.count = int(answer[1:])
            claim.fence = claim.count * TAGS + claim.tag
            claim.since = now / 1e6
            claim.until = claim.since + claim.lease
            if future.done():
                return True
            future.set_result(claim)
        elif future.done():
            pass
        elif kind == b"B":
            age, _, left = answer[1:].partition(b",")
            future.set_result(Busy(int(age) / 1e6, int(left) / 1e6))
        elif kind == b"D":
            future.set_result(DONE)
        else:
            future.set_exception(
                StoreUnavailable(
                    f"the idempotency store: the key {self.claim.name.decode()} holds what this store did not write. "
                    "Give the store a prefix that no other program uses"
                )
            )
        return False

    def fail(self, error: Exception) -> None:
        """Tell the caller, if it still waits."""
        if not self.future.done():
            self.future.set_exception(error)


class EndOperation(Transition):
    """A claim to be marked done, extended, released or undone, and the future that waits for it; None: nobody does."""

    __slots__ = ("argument", "future")

    def __init__(
        self, claim: RedisClaim, future: asyncio.Future[bool] | None, deadline: float, argument: bytes
    ) -> None:
        super().__init__(claim, deadline)
        self.future = future
        self.argument = argument

    @classmethod
    def done(cls, claim: RedisClaim, future: asyncio.Future[bool], deadline: float) -> EndOperation:
        """Mark it done."""
        return cls(claim, future, deadline, b"D %d %d" % (claim.count, _millis(claim.retain)))

    @classmethod
    def extend(cls, claim: RedisClaim, future: asyncio.Future[bool], deadline: float) -> EndOperation:
        """Extend it to its lease from now."""
        keep = _millis(claim.retain + claim.lease)
        return cls(claim, future, deadline, b"E %d %d %d" % (claim.count, _micros(claim.lease), keep))

    @classmethod
    def release(cls, claim: RedisClaim, future: asyncio.Future[bool] | None, deadline: float) -> EndOperation:
        """Give it up."""
        return cls(claim, future, deadline, b"R %d" % claim.count)

    @classmethod
    def undo(cls, claimed: ClaimOperation, deadline: float, future: asyncio.Future[bool] | None = None) -> EndOperation:
        """Give up a claim that may have been made, before its fence is known."""
        return cls(claimed.claim, future, deadline, b"U %b" % claimed.token)

    def answer(self, changed: bool, now: int) -> None:
        """Tell the caller, if it still waits."""
        if changed and self.argument[:1] == b"E":
            self.claim.until = now / 1e6 + self.claim.lease
        if self.future is not None and not self.future.done():
            self.future.set_result(changed)

    def fail(self, error: Exception) -> None:
        """Tell the caller, if it still waits."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)


def _micros(seconds: float) -> int:
    return min(max(int(seconds * 1e6), 1), _LONGEST)


def _millis(seconds: float) -> int:
    return int(min(max(seconds * 1e3 + 1, 1), _LONGEST))


def calls_of(
    batch: Sequence[Operation], counters: Sequence[bytes], one_tag: bool, unwanted: Callable[[RedisClaim], None]
) -> list[tuple[Call, Sequence[Transition]]]:
    """The calls that make up this batch: what ends a claim comes before the next claim. ``one_tag``: a call has keys of
    one tag only, as a cluster wants it. ``unwanted`` takes a claim that was made and that nobody waits for."""
    ends: dict[int, list[EndOperation]] = {}
    claims: dict[int, list[ClaimOperation]] = {}
    for operation in batch:
        if isinstance(operation, ClaimOperation):
            claims.setdefault(operation.claim.tag if one_tag else 0, []).append(operation)
        elif isinstance(operation, EndOperation):
            ends.setdefault(operation.claim.tag if one_tag else 0, []).append(operation)
    alone = [each for each in batch if isinstance(each, Transition) and each.call is not None]
    return [
        *((_end_call(group), group) for group in ends.values()),
        *((_claim_call(group, counters, unwanted), group) for group in claims.values()),
        *((each.call, [each]) for each in alone if each.call is not None),
    ]


def _end_call(group: Sequence[EndOperation]) -> Call:
    def take(answer: bytes) -> None:
        now, _, answers = answer.partition(b" ")
        for operation, each in zip(group, answers, strict=True):
            operation.answer(each == 49, int(now))  # "1"

    return END, [each.claim.name for each in group], [each.argument for each in group], take


def _claim_call(
    group: Sequence[ClaimOperation], counters: Sequence[bytes], unwanted: Callable[[RedisClaim], None]
) -> Call:
    def take(answer: bytes) -> None:
        first, *answers = answer.split(b" ")
        now = int(first)
        for operation, each in zip(group, answers, strict=True):
            if operation.understand(each, now):
                unwanted(operation.claim)

    places: dict[int, int] = {}
    arguments = []
    for each in group:
        tag = each.claim.tag
        place = places.get(tag)
        if place is None:
            place = places[tag] = len(places) + 1
        arguments.append(each.argument(place))
    keys = [*(counters[tag] for tag in places), *(each.claim.name for each in group)]
    return CLAIM, keys, [b"%d" % len(places), *arguments], take

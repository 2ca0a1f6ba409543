"""What this user may not publish or subscribe to: the server says so beside what was asked, which gets no answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from anybroker.printable import logger

from .failures import FORBIDDEN, ApiError, said

__all__ = ["Refusal", "Refusals", "forbidden", "refusal_of"]

_log = logger("anybroker.nats")

_WARN: Final = 60.0
"""Seconds between two warnings about one kind of subject."""
_KINDS: Final = 1_000
"""How many kinds of subject are remembered for that."""
_find_refusal: Final = re.compile(
    r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE
).search


class Refusal(NamedTuple):
    """What the server said about a subject that this user may not use; nats-py gives it in lower case."""

    publishing: bool
    """Else subscribing."""
    subject: str
    text: str

    @property
    def kind(self) -> str:
        """The subject without what differs from event to event."""
        tokens = self.subject.split(".")
        if tokens[:2] == ["$js", "ack"]:
            return ".".join(tokens[:4])
        if "~at" in tokens:
            return ".".join(tokens[: tokens.index("~at") + 1])
        return ".".join("*" if token.isdecimal() else token for token in tokens)


def refusal_of(exc: BaseException) -> Refusal | None:
    """What an error of nats-py says about a permission; None where it is about something else."""
    text = said(exc)
    match = _find_refusal(text)
    return None if match is None else Refusal(match[1].lower() == "publish", match[2].lower(), text)


class Refusals:
    """Ends requests that get no answer, and warns once a minute."""

    def __init__(self) -> None:
        self._requests: dict[str, set[asyncio.Future[Refusal]]] = {}
        """Those under way, by subject in lower case, as nats-py names it."""
        self._inbox: Refusal | None = None
        """No answer to any request will come."""
        self._warned: dict[str, float] = {}

    def new_connection(self) -> None:
        """The user may have other permissions now."""
        self._inbox = None

    def tell(self, refusal: Refusal) -> None:
        """The server has dropped a command."""
        now = asyncio.get_running_loop().time()
        if now - self._warned.get(refusal.kind, -_WARN) >= _WARN:
            if len(self._warned) >= _KINDS:
                self._warned.clear()
            self._warned[refusal.kind] = now
            _log.warning("NATS refuses this user: %s", refusal.text)
        if refusal.publishing:
            waiting = list(self._requests.get(refusal.subject, ()))
        else:
            if refusal.subject.startswith("_inbox."):
                self._inbox = refusal
            waiting = [future for futures in self._requests.values() for future in futures]
        for future in waiting:
            if not future.done():
                future.set_result(refusal)

    @contextmanager
    def of_request(self, subject: str) -> Iterator[asyncio.Future[Refusal]]:
        """A future that has a result as soon as the server refuses the request, or its answer. Raises ApiError where
        that is known already."""
        if self._inbox is not None:
            raise forbidden(self._inbox)
        refused: asyncio.Future[Refusal] = asyncio.get_running_loop().create_future()
        others = self._requests.setdefault(subject.lower(), set())
        others.add(refused)
        try:
            yield refused
        finally:
            others.discard(refused)
            if not others:
                self._requests.pop(subject.lower(), None)


def forbidden(refusal: Refusal) -> ApiError:
    """The error of a request that was refused."""
    return ApiError({"code": FORBIDDEN, "description": f"this user has no permission: {refusal.text}"})

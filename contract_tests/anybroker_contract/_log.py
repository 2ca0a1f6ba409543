"""What the handlers of a test were started with, in order, and waiting for more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from anybroker import Delivery

from ._checkers import Handling
from ._waiting import Signal, quiet, wait_until

__all__ = ["Behaviour", "Log"]

Behaviour = Callable[[Delivery], Awaitable[None]]


class Log:
    """Every start of the handlers that write to it, from one member of a group or from several."""

    def __init__(self, patience: float) -> None:
        self.handlings: list[Handling] = []
        self.done_ids: set[str] = set()
        """The ids whose handler returned."""
        self.changed = Signal()
        self.patience = patience
        """Seconds within which what a wait expects must happen."""

    def handler(self, member: str, behave: Behaviour | None) -> Callable[[Delivery], Awaitable[None]]:
        """A handler that records its starts and ends, and does what ``behave`` does in between."""

        async def handle(delivery: Delivery) -> None:
            handling = self.begin(delivery, member)
            try:
                if behave is not None:
                    await behave(delivery)
            except BaseException as exc:
                handling.failed = type(exc).__name__
                raise
            finally:
                self.end(handling)

        return handle

    def begin(self, delivery: Delivery, member: str) -> Handling:
        """Record a start."""
        event = delivery.event
        handling = Handling(
            id=event.id,
            key=event.key,  # the event's own key: the adapter's is under test
            attempt=delivery.attempt,
            member=member,
            started=asyncio.get_running_loop().time(),
            event=event,
            headers=dict(delivery.headers),
        )
        self.add(handling)
        return handling

    def add(self, handling: Handling) -> None:
        """Record one from elsewhere."""
        self.handlings.append(handling)
        self.changed.fire()

    def end(self, handling: Handling, at: float | None = None) -> None:
        """Record the end of it."""
        handling.ended = asyncio.get_running_loop().time() if at is None else at
        if handling.done:
            self.done_ids.add(handling.id)
        self.changed.fire()

    # ---------------------------------------------------------------------------------------------- looking

    @property
    def started(self) -> list[str]:
        """The ids in the order of their starts, every start."""
        return [handling.id for handling in self.handlings]

    @property
    def done(self) -> list[str]:
        """The ids whose handler returned, in the order of their starts."""
        return [handling.id for handling in self.handlings if handling.done]

    def of(self, id_: str) -> list[Handling]:
        """Every start with this event."""
        return [handling for handling in self.handlings if handling.id == id_]

    def attempts(self, id_: str) -> list[int]:
        """``delivery.attempt`` of every start with this event."""
        return [handling.attempt for handling in self.of(id_)]

    def summary(self) -> str:
        """For the message of a wait that failed."""
        shown = ", ".join(f"{item.id}#{item.attempt}{'' if item.ended else '…'}" for item in self.handlings[-12:])
        return f"{len(self.handlings)} starts, {len(self.done)} done, the last ones: {shown or 'none'}"

    # ---------------------------------------------------------------------------------------------- waiting

    async def until(self, condition: Callable[[], object], what: str = "", patience: float | None = None) -> None:
        """Return when the condition is true; it is checked at each start and end."""
        deadline = self.patience if patience is None else patience
        await wait_until(condition, deadline, self.changed, lambda: f"{what} ({self.summary()})".strip())

    async def wait_started(self, count: int, patience: float | None = None) -> None:
        """Return after this many starts."""
        await self.until(lambda: len(self.handlings) >= count, f"{count} starts", patience)

    async def wait_done(self, ids: Iterable[str], patience: float | None = None) -> None:
        """Return when each of these ids was handled to the end."""
        missing = set(ids)

        def all_done() -> bool:
            missing.difference_update(self.done_ids)
            return not missing

        deadline = self.patience if patience is None else patience
        await wait_until(
            all_done,
            deadline,
            self.changed,
            lambda: f"{len(missing)} not done, {sorted(missing)[:5]} ({self.summary()})",
        )

    async def quiet(self, seconds: float = 0.3) -> None:
        """Return when nothing started or ended for this many seconds."""
        await quiet(self.changed, seconds)

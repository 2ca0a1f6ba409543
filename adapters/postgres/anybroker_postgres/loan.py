"""What one handler was given instead of its transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from anybroker.errors import StateError

if TYPE_CHECKING:
    from .connection import Connection
    from .views import View

__all__ = ["Loan", "check_left"]


class Loan(Protocol):
    """A connection or a session, from before its handler starts until it has ended."""

    async def begin(self, connection: Connection, /) -> object:
        """What the handler is given: it works in the transaction of this connection."""
        ...

    async def finish(self) -> None:
        """The handler has returned: write what is held back. Raises what that raises; ``end`` follows in any case."""
        ...

    async def end(self) -> None:
        """Nothing more may be written. Nothing is raised, and nothing is sent to the server."""
        ...


def check_left(view: View) -> None:
    """StateError if the handler has left a thread behind that is in a statement."""
    if view.in_use():
        raise StateError(
            "the handler has returned while another thread executed a statement on its connection: wait for the thread"
        )

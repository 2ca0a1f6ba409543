"""What a handler may be given instead of its transaction: connections and sessions of several kinds, all in it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, get_origin

import psycopg

from anybroker.errors import ConfigError

from .loan import Loan, check_left
from .views import View

if TYPE_CHECKING:
    from .connection import Connection
    from .pool import Pool
    from .sessions import Engines

__all__ = ["Lending", "check"]

_COUNTERPARTS = {
    "AsyncConnection": "Connection",
    "AsyncSession": "Session",
    "Connection": "AsyncConnection",
    "Session": "AsyncSession",
}
"""What a handler of the other kind asks for."""


def check(annotation: object, is_async: bool, setting: str) -> None:
    """ConfigError if a handler cannot be given this: it blocks, or has to be awaited, or its package is too old."""
    kind = get_origin(annotation) or annotation
    assert isinstance(kind, type)
    package, name, awaited = _known(kind)
    if package == "psycopg" and kind not in (psycopg.AsyncConnection, psycopg.Connection):
        raise ConfigError(
            setting, f"{kind.__name__} derives from psycopg's {name}", f"Ask for psycopg.{name}: the store makes it."
        )
    if package == "sqlalchemy":
        if kind.__name__ != name and name.endswith("Connection"):
            raise ConfigError(setting, f"{kind.__name__} derives from SQLAlchemy's {name}", f"Ask for {name}.")
        if awaited and find_spec("greenlet") is None:
            raise ConfigError(
                setting, f"{name} needs the package 'greenlet'", "Install it: pip install 'anybroker[sqlalchemy]'."
            )
    if is_async and not awaited:
        raise ConfigError(
            setting,
            f"{kind.__name__} would block the event loop, and the handler is 'async def'",
            f"Ask for {package}'s {_COUNTERPARTS[name]}, or write a plain 'def' handler, which runs in a thread.",
        )
    if awaited and not is_async:
        raise ConfigError(
            setting,
            f"{kind.__name__} has to be awaited, and the handler is a plain 'def'",
            f"Ask for {package}'s {_COUNTERPARTS[name]}, or write an 'async def' handler.",
        )


def _known(kind: type) -> tuple[str, str, bool]:
    """The package and the name of the class that it is or derives from, and whether that is asynchronous."""
    for base in kind.__mro__:
        package = base.__module__.partition(".")[0]
        if package in ("psycopg", "sqlalchemy") and base.__name__ in _COUNTERPARTS:
            return package, base.__name__, base.__name__.startswith("Async")
    raise AssertionError(f"no entry point serves {kind!r}")


class Lending:
    """What the handlers of one store are lent."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._engines: Engines | None = None

    async def loan(self, kind: object) -> Loan:
        """A loan of this kind, which was checked. Raises ``StoreUnavailable``: the first of some kinds asks the server
        something, outside of the handler's transaction."""
        if kind is psycopg.Connection:
            return _OfConnection()
        if self._engines is None:
            from .sessions import Engines

            self._engines = Engines(self._pool)
        return await self._engines.loan(kind)


class _OfConnection:
    """A psycopg.Connection."""

    def __init__(self) -> None:
        self._view: View | None = None

    async def begin(self, connection: Connection, /) -> psycopg.Connection:
        """Loan.begin."""
        self._view = View(connection)
        return self._view

    async def finish(self) -> None:
        """Loan.finish: nothing is held back."""
        if self._view is not None:
            check_left(self._view)

    async def end(self) -> None:
        """Loan.end."""
        view, self._view = self._view, None
        if view is not None:
            view.end()

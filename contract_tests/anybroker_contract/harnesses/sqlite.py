"""The SQLite adapter: every test has its own file."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import ClassVar

from ..harness import BrokerHarness

__all__ = ["SqliteHarness"]


class SqliteHarness(BrokerHarness):
    """A file in the test's folder."""

    name: ClassVar[str] = "sqlite"
    detail = f"files in temporary folders, SQLite {sqlite3.sqlite_version}"

    def broker(self, folder: Path) -> str:
        """The URL of a new file."""
        return f"sqlite:///{folder / 'broker.db'}"

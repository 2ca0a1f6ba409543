"""Telling objects of packages that need not be installed: sessions and connections of SQLAlchemy and of Django."""

from __future__ import annotations

__all__ = ["comes_from", "dialect_of", "is_asynchronous"]


def comes_from(given: object, package: str, method: str) -> bool:
    """Whether its class, or one that it derives from, is of this package, and it has this method."""
    return hasattr(given, method) and any(base.__module__.partition(".")[0] == package for base in type(given).__mro__)


def dialect_of(given: object) -> str | None:
    """The kind of database of a connection or a session of SQLAlchemy; None for a session that is bound to several or
    to none."""
    try:
        bound = given if hasattr(given, "exec_driver_sql") else getattr(given, "get_bind")()  # noqa: B009 - an object
    except Exception:  # noqa: BLE001 - UnboundExecutionError, without importing SQLAlchemy
        return None
    name = getattr(getattr(bound, "dialect", None), "name", None)
    return name if isinstance(name, str) else None


def is_asynchronous(given: object) -> bool:
    """Whether a connection or a session of SQLAlchemy is of its asynchronous half."""
    return hasattr(given, "sync_session") or hasattr(given, "sync_connection")

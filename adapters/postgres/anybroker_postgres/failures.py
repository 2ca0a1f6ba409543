"""What PostgreSQL's errors mean to a store: down for now, or configured wrongly."""

from __future__ import annotations

from typing import TypeVar

import psycopg
from psycopg import errors

from anybroker.errors import ConfigError, Unavailable
from anybroker.idempotency import StoreUnavailable, TransactionConflict
from anybroker.kit.wording import said

__all__ = ["CONFLICTS", "failed", "not_open", "reason", "sqlstate", "unavailable", "wrong_setup"]

CONFLICTS = (errors.SerializationFailure, errors.DeadlockDetected)
"""Two transactions were in each other's way: running one of them again helps."""

_CONFLICT_CODES = ("40001", "40P01")
_OUTAGES = ("25006", "53", "57P", "58")
"""Beginnings of the codes that say that the server cannot do it now: read-only, without resources, ending, broken."""

_HINTS: dict[str | None, str] = {
    "25006": "it is read-only: a standby, or a primary that was demoted. Name all hosts in the URL, and the one that "
    "can be written is found",
    "53100": "its disk is full",
    "53200": "it has no memory left",
    "53300": "it has no connection left (max_connections): see the sizing in the README of anybroker_postgres",
    "57014": "the statement took longer than the store's timeout",
    "42P01": "the tables are gone",
    "42501": "the role may not do this",
}

_WRONG = (
    ("password authentication failed", "Correct the user or the password."),
    ("no password supplied", "Give a password in the URL, in PGPASSWORD or in the password file."),
    ("no pg_hba.conf entry", "Let this user and host in, in pg_hba.conf, or use sslmode=require if it wants TLS."),
    ("permission denied for database", "Grant CONNECT on the database to the role."),
    ("is not permitted to log in", "Give the role LOGIN."),
    ("role", "Create the role, or name another user."),
    ("database", "Create the database, or name another one."),
)
"""What a refused connection says (libpq has no code for it) when waiting does not help, and how to fix it. The last two
are followed by a name and 'does not exist'."""
_TLS = ("server does not support SSL", "certificate", "sslmode value", "SSL error")


def sqlstate(exc: BaseException) -> str | None:
    """The code of an error of PostgreSQL, or of one behind it."""
    seen: BaseException | None = exc
    for _ in range(5):
        if isinstance(seen, psycopg.Error) and seen.sqlstate:
            return seen.sqlstate
        if seen is None:
            break
        seen = seen.__cause__
    return None


_Error = TypeVar("_Error", bound=Unavailable)


def failed(target: object, exc: BaseException, whose: str, kind: type[_Error], doing: str = "") -> _Error:
    """An outage, with what can be done about it. ``whose``: as in "the idempotency store"."""
    hint = _HINTS.get(sqlstate(exc))
    what = said(exc)
    error = kind(f"{whose} {target}: {doing}{hint}: {what}" if hint else f"{whose} {target}: {doing}{what}")
    error.__cause__ = exc
    return error


def unavailable(target: object, exc: BaseException, doing: str = "") -> StoreUnavailable:
    """The error for the callers of a batch, or of a transaction."""
    return failed(target, exc, "the idempotency store", StoreUnavailable, doing)


def reason(target: object, exc: BaseException, lost: bool) -> StoreUnavailable | TransactionConflict | None:
    """Why a handler's transaction failed, if it was the server's doing. ``lost``: its connection was."""
    code = sqlstate(exc)
    if code in _CONFLICT_CODES:
        conflict = TransactionConflict(f"a transaction of a handler on {target}: {said(exc)}")
        conflict.__cause__ = exc
        return conflict
    if (lost and _of_psycopg(exc)) or (code or "").startswith(_OUTAGES):
        return unavailable(target, exc, "a handler's transaction: ")
    return None


def _of_psycopg(exc: BaseException | None) -> bool:
    return exc is not None and (isinstance(exc, psycopg.Error) or _of_psycopg(exc.__cause__))


def not_open(target: object) -> StoreUnavailable:
    """The error of a call before ``open()`` or after ``close()``."""
    return StoreUnavailable(f"the idempotency store {target} is not open")


def wrong_setup(setting: str, target: object, exc: BaseException) -> ConfigError | None:
    """The error of a connection that will never be made, or None if it may be made later. ``setting``: has its URL."""
    text = said(exc)
    for start, remedy in _WRONG:
        if start in text and (start not in ("role", "database") or "does not exist" in text):
            return _config(setting, target, text, remedy, exc)
    if any(part in text for part in _TLS):
        return _config(setting, target, text, "Correct sslmode, sslrootcert or the server's certificate.", exc)
    return None


def _config(setting: str, target: object, text: str, remedy: str, exc: BaseException) -> ConfigError:
    error = ConfigError(setting, f"{target}: {text}", remedy)
    error.__cause__ = exc
    return error

"""What went wrong, as the store's errors: which of them a person must fix, and a sentence for each."""

from __future__ import annotations

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)

from anybroker.errors import ConfigError
from anybroker.idempotency import StoreUnavailable
from anybroker.kit.tls import tls_failure
from anybroker.kit.wording import said

__all__ = ["SETTING", "Unsuitable", "config_error", "gone", "unavailable"]

SETTING = "idempotency"


class Unsuitable(Exception):
    """The server cannot be the store: a ConfigError when the Bus starts, an outage once it runs."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem}. {remedy}")


_WHICH: tuple[tuple[type[RedisError], str], ...] = (
    (BusyLoadingError, "the server is still loading its data"),
    (AuthenticationError, "the server refused the user or the password"),
    (ReadOnlyError, "the server is a read-only replica"),
    (MasterDownError, "the server is a replica that has lost its primary"),
    (OutOfMemoryError, "the server's memory is full (maxmemory)"),
    (MovedError, "the cluster is moving its slots"),
    (AskError, "the cluster is moving its slots"),
    (TryAgainError, "the cluster is moving its slots"),
    (ClusterDownError, "the cluster is down"),
    (InvalidResponse, "the server does not answer as Redis does"),
)
_NO_PRIVILEGE = "the user lacks a privilege"
_BY_CODE = {
    "BUSY": "the server is busy with somebody's script",
    "MISCONF": "the server refuses writes because it cannot save them",
    "NOREPLICAS": "the server refuses writes because too few replicas follow it",
}


def unavailable(exc: BaseException, where: str) -> StoreUnavailable:
    """The store is down, and why. ``where``: the store's URL without secrets."""
    which = next((text for kind, text in _WHICH if isinstance(exc, kind)), None)
    if which is None and _lacks_privilege(exc):
        which = _NO_PRIVILEGE
    if which is None:
        which = _BY_CODE.get(str(exc).partition(" ")[0])
    text = said(exc) if which is None else f"{which} ({said(exc)})"
    if isinstance(exc, TimeoutError):
        text = "no answer in time"
    error = StoreUnavailable(f"the idempotency store {where}: {text}")
    error.__cause__ = exc
    return error


def _lacks_privilege(exc: BaseException) -> bool:
    """A command may be forbidden, or one in a script, or a key."""
    return isinstance(exc, NoPermissionError) or "The user executing the script can't" in str(exc)


def config_error(exc: BaseException, where: str, prefix: str) -> ConfigError | None:
    """The ConfigError, if a person must fix this before the Bus can start; else None."""
    error: ConfigError | None = None
    if isinstance(exc, Unsuitable):
        return ConfigError(SETTING, f"{where}: {exc.problem}", exc.remedy)
    if isinstance(exc, AuthenticationError):
        error = ConfigError(
            SETTING,
            f"{where} refused the user or the password: {said(exc)}",
            "Write redis://user:password@host:port/0.",
        )
    elif _lacks_privilege(exc):
        error = ConfigError(
            SETTING,
            f"{where}: the user lacks a privilege: {said(exc)}",
            f"Give the user what the store needs: ACL SETUSER <user> on ><password> ~{prefix}:* +@connection +evalsha "
            "+eval +time +get +set +del +info +config|get +cluster|slots",
        )
    elif isinstance(exc, InvalidResponse):
        error = ConfigError(SETTING, f"{where} does not answer as Redis does: {said(exc)}", "Check the port.")
    elif "DB index is out of range" in str(exc) or "SELECT is not allowed" in str(exc):
        error = ConfigError(SETTING, f"{where}: there is no such database: {said(exc)}", "Write redis://host:port/0.")
    else:
        error = tls_failure(exc, where)
    if error is not None:
        error.__cause__ = exc
    return error


_ELSEWHERE = (ReadOnlyError, MasterDownError, MovedError, NoPermissionError)


def gone(exc: BaseException) -> bool:
    """Whether another connection, perhaps to another server, may do better than this one."""
    return not isinstance(exc, RedisError) or isinstance(exc, _ELSEWHERE)

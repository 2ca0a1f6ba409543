"""RabbitMQ's errors, as the errors of anybroker. The client's exception becomes the ``__cause__``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ConnectionNotAllowed,
    InvalidFrameError,
    ProbableAuthenticationError,
)

from anybroker.errors import AnybrokerError, ConfigError, Unavailable
from anybroker.kit.tls import tls_failure

__all__ = ["CLIENT_ERRORS", "amqp_errors", "check_cancelled", "closing_reason", "connect_failure", "is_missing", "said"]

CLIENT_ERRORS = (AMQPError, OSError, RuntimeError)
"""What aio_pika's and aiormq's calls raise: AMQP's errors, the network's and time-outs, RuntimeError once closed."""


def said(exc: BaseException | None) -> str:
    """What an exception says, in one line that is never empty."""
    if exc is None or isinstance(exc, asyncio.CancelledError):  # aiormq's word for a path that has gone dead
        return "closed" if exc is None else "no sign of life from it"
    return str(exc.args[-1] if exc.args else "").rstrip(". ") or type(exc).__name__


def connect_failure(exc: BaseException, where: str, vhost: str) -> AnybrokerError:
    """ConfigError where only a person can mend it, else Unavailable. For the first connection only: a broker that
    starts or stops refuses for a moment what it takes otherwise."""
    if isinstance(exc, ProbableAuthenticationError | AuthenticationError):
        return ConfigError("url", f"RabbitMQ at {where} refused user and password: {said(exc)}", "Check both.")
    tls = tls_failure(exc, where)
    if tls is not None:
        return tls
    if isinstance(exc, ConnectionNotAllowed | InvalidFrameError):  # aiormq sees Connection.Close instead of Open-Ok
        return ConfigError(
            "url",
            f"RabbitMQ at {where} did not open the virtual host {vhost!r}",
            "Check that it exists, and that the user may use it.",
        )
    return Unavailable(
        f"no RabbitMQ answers at {where} ({said(exc)}). Check host and port, and whether it asks for TLS (amqps://)"
    )


def check_cancelled() -> None:
    """Raise CancelledError if this task is cancelled. For what follows a call of aiormq: when its connection is lost at
    the same moment, it raises its own error, or nothing, and the cancellation would be forgotten."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def is_missing(exc: BaseException) -> bool:
    """Whether there is no such queue or exchange. One on a node that is down is NOT_FOUND in AMQP too, with another
    text."""
    return isinstance(exc, ChannelNotFoundEntity) and ("no queue '" in said(exc) or "no exchange '" in said(exc))


@contextmanager
def amqp_errors(doing: str) -> Iterator[None]:
    """Turn the client's exceptions inside the block into ours; ``doing`` completes "RabbitMQ failed while …"."""
    try:
        yield
    except (asyncio.CancelledError, *CLIENT_ERRORS) as exc:
        check_cancelled()
        if isinstance(exc, ChannelPreconditionFailed | ChannelAccessRefused) or is_missing(exc):
            remedy = "Grant the user the permission." if isinstance(exc, ChannelAccessRefused) else ""
            raise ConfigError("topics", f"RabbitMQ refuses {doing}: {said(exc)}", remedy) from exc
        # aiormq cancels what waits on a connection that is lost; nobody has cancelled us.
        raise Unavailable(f"RabbitMQ failed while {doing}: {said(exc)}") from exc


def closing_reason(closing: asyncio.Future[object]) -> BaseException | None:
    """Why a channel is closed, of its ``closing`` future."""
    return None if closing.cancelled() else closing.exception()

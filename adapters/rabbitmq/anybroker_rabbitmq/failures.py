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

from anybroker.errors import AnybrokerError, ConfigError, PublishOutcomeUnknown, Rejected, Unavailable
from anybroker.kit.tls import tls_failure

__all__ = [
    "CLIENT_ERRORS",
    "amqp_errors",
    "check_cancelled",
    "closing_reason",
    "connect_failure",
    "is_missing",
    "lost_before_confirmed",
    "nacked",
    "not_permitted",
    "said",
    "unrouted",
]

CLIENT_ERRORS = (AMQPError, OSError, RuntimeError)
"""What aio_pika's and aiormq's calls raise: AMQP's errors, the network's and time-outs, RuntimeError once closed."""


def said(exc: BaseException | None) -> str:
    """What an exception says, in one line that is never empty."""
    if exc is None or isinstance(exc, asyncio.CancelledError):  # what aiormq raises for a connection that is silent
        return "closed" if exc is None else "it does not answer"
    return str(exc.args[-1] if exc.args else "").rstrip(". ") or type(exc).__name__


def connect_failure(exc: BaseException, where: str, vhost: str) -> AnybrokerError:
    """ConfigError where only a person can fix it, else Unavailable. For the first connection only: a broker that starts
    or stops refuses for a moment what it takes otherwise."""
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
    """Raise CancelledError if this task is cancelled. Call it after a call of aiormq, which raises its own error, or
    nothing, when its connection is lost at the same moment: the cancellation would be forgotten."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def is_missing(exc: BaseException) -> bool:
    """Whether there is no such queue or exchange. AMQP says NOT_FOUND of one on a node that is down too, with another
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
        # aiormq cancels calls on a connection that is lost; this task was not cancelled.
        raise Unavailable(f"RabbitMQ failed while {doing}: {said(exc)}") from exc


def closing_reason(closing: asyncio.Future[object]) -> BaseException | None:
    """Why a channel is closed, from its ``closing`` future."""
    return None if closing.cancelled() else closing.exception()


# --------------------------------------------------------------------------------------------------- publishing


def _place(topic: str, group: str | None) -> str:
    return f"topic {topic!r}" + (f", group {group!r}" if group else "")


def not_permitted(topic: str, group: str | None, reason: BaseException) -> Rejected:
    """This user may not publish to the exchange."""
    error = Rejected(
        f"{_place(topic, group)}: this user may not publish there ({said(reason)}). Grant it the permission to write"
    )
    error.__cause__ = reason
    return error


def unrouted(topic: str, group: str | None, returned: BaseException) -> Rejected:
    """The broker returned the event, although there is a group."""
    error = Rejected(f"{_place(topic, group)}: no queue takes the event. One was deleted: declare it again")
    error.__cause__ = returned
    return error


def nacked(topic: str, nack: BaseException) -> PublishOutcomeUnknown:
    """The broker did not accept the event, and does not say why."""
    error = PublishOutcomeUnknown(
        f"RabbitMQ did not accept an event for topic {topic!r} (nack): a queue of one of its groups is full "
        "(max-length or max-length-bytes with overflow=reject-publish), or has no leader; another group may have "
        "stored it. Make room, and publish it again under the same id"
    )
    error.__cause__ = nack
    return error


def lost_before_confirmed(topic: str, reason: BaseException | None) -> PublishOutcomeUnknown:
    """The channel was closed while the event was under way."""
    error = PublishOutcomeUnknown(
        f"the channel to RabbitMQ was lost ({said(reason)}) before it confirmed an event for topic {topic!r}: it may "
        "be stored. Publish it again under the same id"
    )
    error.__cause__ = reason
    return error

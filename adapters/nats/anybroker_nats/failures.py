"""The errors of nats-py and JetStream as anybroker's errors. The client's exception becomes the ``__cause__``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from nats.errors import Error, SecureConnRequiredError

from anybroker.adapter import Outbound
from anybroker.errors import AnybrokerError, BrokerError, ConfigError, PublishOutcomeUnknown, Rejected, Unavailable
from anybroker.kit import wording
from anybroker.kit.tls import tls_failure

__all__ = [
    "CLIENT_ERRORS",
    "FORBIDDEN",
    "ApiError",
    "connect_failure",
    "nats_errors",
    "publish_failure",
    "said",
    "unconfirmed",
]

CLIENT_ERRORS = (Error, OSError, asyncio.TimeoutError)
"""What nats-py's calls raise."""

FORBIDDEN: Final = 403
"""The code of an ApiError that says that this user may not publish or subscribe to a subject."""
_NO_SCHEDULES: Final = 10188
_STORE_FAILED: Final = 10077
"""The stream is full and refuses new messages, or its server could not write."""
_NO_RESOURCES: Final = 10023


class ApiError(Exception):
    """An error in an answer of JetStream's API. It never leaves the adapter."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.code = int(error.get("code", 0))
        self.number = int(error.get("err_code", 0))
        self.description = str(error.get("description", ""))
        super().__init__(f"{self.description} ({self.code}, {self.number})")


def said(exc: BaseException) -> str:
    """What an exception says, in one line that is never empty, without nats-py's prefix."""
    return wording.said(exc).removeprefix("nats: ")


def connect_failure(exc: BaseException, where: str, login: str) -> AnybrokerError:
    """ConfigError where only a person can fix it, else Unavailable. ``login``: the setting to authenticate by."""
    text = said(exc)
    error: AnybrokerError | None = tls_failure(exc, where)
    if error is None and isinstance(exc, SecureConnRequiredError):
        error = ConfigError("url", f"NATS at {where} does not use TLS", "Write nats://, or set up TLS on the server.")
    if error is None and ("authorization" in text.lower() or "authentication" in text.lower()):
        error = ConfigError(
            login, f"NATS at {where} refused the credentials: {text}", "Check them, and how they are given."
        )
    if error is None:
        error = Unavailable(
            f"NATS does not answer at {where} ({text}). Check host and port, and whether it needs TLS (natss://)"
        )
    error.__cause__ = exc
    return error


@contextmanager
def nats_errors(doing: str) -> Iterator[None]:
    """Turn the client's exceptions inside the block into ours; ``doing`` completes "NATS failed while …"."""
    try:
        yield
    except ApiError as exc:
        if exc.code in (400, 403, 404):
            raise ConfigError("topics", f"NATS refuses {doing}: {exc}") from exc
        raise Unavailable(f"NATS failed while {doing}: {exc}") from exc
    except CLIENT_ERRORS as exc:
        raise Unavailable(f"NATS failed while {doing}: {said(exc)}") from exc


def publish_failure(topic: str, error: ApiError) -> BrokerError:
    """What an answer with an error means for the event."""
    if error.number == _NO_SCHEDULES:
        failure: BrokerError = Rejected(
            f"the stream of topic {topic!r} takes no delayed events. Set allow_msg_schedules on it"
        )
    elif error.number in (_STORE_FAILED, _NO_RESOURCES):
        failure = Unavailable(
            f"the stream of topic {topic!r} stores no event now: {error}. It is full, or its server has no more room: "
            "give it more, or let it discard old events"
        )
    elif error.code == 503:
        failure = Unavailable(f"the stream of topic {topic!r} takes no event now: {error}")
    elif error.code == 500:
        failure = PublishOutcomeUnknown(
            f"the stream of topic {topic!r} failed at an event, which may be stored: {error}"
        )
    else:
        failure = Rejected(f"the stream of topic {topic!r} refuses an event: {error}")
    failure.__cause__ = error
    return failure


def unconfirmed(outbound: Outbound, why: str) -> PublishOutcomeUnknown:
    """The error to report for an event that was written, and may be stored."""
    return PublishOutcomeUnknown(
        f"{why} before an event for topic {outbound.topic!r} was confirmed: it may be stored. Publish it again under "
        "the same id"
    )

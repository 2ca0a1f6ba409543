"""What NATS says went wrong, as the errors of anybroker. The client's exception becomes the ``__cause__``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from nats.errors import Error, SecureConnRequiredError

from anybroker.errors import AnybrokerError, BrokerError, ConfigError, PublishOutcomeUnknown, Rejected, Unavailable
from anybroker.kit.tls import tls_failure

__all__ = [
    "CLIENT_ERRORS",
    "FORBIDDEN",
    "ApiError",
    "Refusal",
    "connect_failure",
    "nats_errors",
    "publish_failure",
    "refusal_of",
    "said",
]

CLIENT_ERRORS = (Error, OSError, asyncio.TimeoutError)
"""What nats-py's calls raise."""

FORBIDDEN: Final = 403
"""The code of an ApiError where the server said that this user may not publish or subscribe to a subject."""
_NO_SCHEDULES: Final = 10188
_STORE_FAILED: Final = 10077
"""The stream is full and refuses what is new, or its server could not write."""
_NO_RESOURCES: Final = 10023
_find_refusal: Final = re.compile(
    r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE
).search


class ApiError(Exception):
    """An error in the answer of JetStream's API; never leaves the adapter."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.code = int(error.get("code", 0))
        self.number = int(error.get("err_code", 0))
        self.description = str(error.get("description", ""))
        super().__init__(f"{self.description} ({self.code}, {self.number})")


class Refusal(NamedTuple):
    """What the server said of a subject that this user may not use; nats-py gives it in lower case."""

    publishing: bool
    """Else subscribing."""
    subject: str
    text: str

    @property
    def kind(self) -> str:
        """The subject without what differs between its events."""
        tokens = self.subject.split(".")
        if tokens[:2] == ["$js", "ack"]:
            return ".".join(tokens[:4])
        if "~at" in tokens:
            return ".".join(tokens[: tokens.index("~at") + 1])
        return ".".join("*" if token.isdecimal() else token for token in tokens)


def refusal_of(exc: BaseException) -> Refusal | None:
    """What an error of nats-py says of a permission; None where it is about something else."""
    text = said(exc)
    found = _find_refusal(text)
    return None if found is None else Refusal(found[1].lower() == "publish", found[2].lower(), text)


def said(exc: BaseException) -> str:
    """What an exception says, in one line that is never empty."""
    return str(exc).removeprefix("nats: ").rstrip(". ") or type(exc).__name__


def connect_failure(exc: BaseException, where: str, login: str) -> AnybrokerError:
    """ConfigError where only a person can mend it, else Unavailable. ``login``: the setting that says who we are."""
    text = said(exc)
    error: AnybrokerError | None = tls_failure(exc, where)
    if error is None and isinstance(exc, SecureConnRequiredError):
        error = ConfigError("url", f"NATS at {where} asks for no TLS", "Write nats://, or set TLS up on the server.")
    if error is None and ("authorization" in text.lower() or "authentication" in text.lower()):
        error = ConfigError(
            login, f"NATS at {where} refused us: {text}", "Check the credentials, and how they are given."
        )
    if error is None:
        error = Unavailable(
            f"no NATS answers at {where} ({text}). Check host and port, and whether it asks for TLS (natss://)"
        )
    error.__cause__ = exc
    return error


@contextmanager
def nats_errors(doing: str) -> Iterator[None]:
    """Turn exceptions of the client inside the block into ours; ``doing`` completes "NATS failed while …"."""
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
            f"the stream of topic {topic!r} takes no delayed events: it was made without. Set allow_msg_schedules on it"
        )
    elif error.number in (_STORE_FAILED, _NO_RESOURCES):
        failure = Unavailable(
            f"the stream of topic {topic!r} stores no event now: {error}. It is full, or its server has no more room: "
            "give it more, or let it discard what is old"
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

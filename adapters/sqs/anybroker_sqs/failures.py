"""boto3's errors, as the errors of anybroker. The client's exception becomes the ``__cause__``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from anybroker.errors import (
    AnybrokerError,
    BrokerError,
    ConfigError,
    LeaseLost,
    PublishOutcomeUnknown,
    Rejected,
    Unavailable,
)
from anybroker.kit.tls import tls_failure

__all__ = [
    "CLIENT_ERRORS",
    "aws_errors",
    "entry_failure",
    "is_denied",
    "is_missing",
    "is_passing",
    "may_be_done",
    "most_bytes",
    "publish_failure",
    "settle_failed",
    "settle_failure",
]

CLIENT_ERRORS = (BotoCoreError, ClientError, ResponseParserError, RuntimeError)
"""What boto3's calls raise; a RuntimeError where credentials were refreshed and are out of date still."""

_NOT_SENT = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError, boto.SSLError)
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
)
_NO_CREDENTIALS_NOW = (boto.CredentialRetrievalError, boto.TokenRetrievalError)
"""Whoever has them does not answer at the moment: a role's, an instance's."""
_PASSING = re.compile("ExpiredToken|ExpiredTokenException|RequestExpired|RequestTimeTooSkewed|OverLimit")
"""What AWS refuses now and takes again: see :func:`_until`."""
_SIGNATURE = re.compile("InvalidSignatureException|SignatureDoesNotMatch")
"""Either the secret is wrong, or the clock: only the message says which."""
_BUSY = re.compile(
    ".*Throttl.*|BandwidthLimitExceeded|LimitExceededException|ProvisionedThroughputExceededException|"
    "RequestLimitExceeded|ServiceUnavailable|SlowDown|TooManyRequestsException"
)
"""What boto3 itself takes for a reason to try again, and what was certainly not carried out."""
_MISSING = {"NonExistentQueue", "QueueDoesNotExist", "NotFound", "NotFoundException"}
_WRONG_CREDENTIALS = re.compile(
    "AuthFailure|ExpiredToken|ExpiredTokenException|IncompleteSignature|InvalidAccessKeyId|InvalidClientTokenId|"
    "InvalidSecurity|InvalidSignatureException|MissingAuthenticationToken|SignatureDoesNotMatch|"
    "UnrecognizedClientException"
)
_DENIED = re.compile("AccessDenied|AccessDeniedException|AuthorizationError|AuthorizationErrorException")
_TOO_LONG = re.compile(r"(too ?long|shorter than|longer than)\b\D*(?P<most>\d*)", re.IGNORECASE)
_GONE = {"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"}
"""What a batch says of a receipt handle that is not valid any more; the last one where it is too old."""


def _code_of(exc: BaseException) -> str:
    """AWS's error code, without the service that some have before it; empty for another error."""
    code = exc.response.get("Error", {}).get("Code", "") if isinstance(exc, ClientError) else ""
    return str(code).rpartition(".")[2]


def is_missing(exc: BaseException) -> bool:
    """Whether there is no such queue or topic."""
    return _code_of(exc) in _MISSING


def is_denied(exc: BaseException) -> bool:
    """Whether these credentials may not do that."""
    return _DENIED.fullmatch(_code_of(exc)) is not None


def _is_denial(exc: BaseException) -> bool:
    """Whether AWS has refused the request itself."""
    if not isinstance(exc, ClientError) or not 400 <= _status(exc) < 500:
        return False
    return not (_is_busy(exc) or is_passing(exc) or _code_of(exc).startswith("RequestTimeout"))


def _is_busy(exc: BaseException) -> bool:
    """Whether AWS has put the request off, and done nothing."""
    return isinstance(exc, ClientError) and (_status(exc) in (429, 503) or _BUSY.fullmatch(_code_of(exc)) is not None)


def is_passing(exc: BaseException | None) -> bool:
    """Whether AWS refuses a request of a program that it has let in, and will take it again without a change of
    settings."""
    if exc is None:
        return False
    code = _code_of(exc)
    skewed = _SIGNATURE.fullmatch(code) is not None and "does not match" not in str(exc)
    return skewed or _PASSING.fullmatch(code) is not None or isinstance(exc, _NO_CREDENTIALS_NOW)


def may_be_done(exc: BaseException | None) -> bool:
    """Whether a request that ended with this may have been carried out all the same: its answer was lost."""
    if exc is None or isinstance(exc, _NOT_SENT):
        return False
    return not (_is_denial(exc) or _is_busy(exc) or is_passing(exc))


def _status(exc: ClientError) -> int:
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))


def _until(exc: BaseException) -> str:
    """What has to happen before AWS takes a request again that :func:`is_passing`."""
    code = _code_of(exc)
    if code == "OverLimit":
        return "fewer messages of the queue are in flight (120,000 at most)"
    if _SIGNATURE.fullmatch(code) or code == "RequestTimeTooSkewed":
        return "the clock of this machine is right again"
    return "boto3 has other credentials"


def _said(exc: BaseException) -> str:
    return " ".join(str(exc).split()).rstrip(". ") or type(exc).__name__


def _failure(exc: BaseException, doing: str, where: str, keys: str) -> AnybrokerError:
    """Of a request that neither publishes nor settles: ConfigError where only a person can mend it."""
    code = _code_of(exc)
    if isinstance(exc, _NO_CREDENTIALS):
        return ConfigError(
            keys,
            f"boto3 has no AWS credentials for {where}: {_said(exc)}",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or profile=, or access_key_id= and secret_access_key= "
            "(an emulator takes any).",
        )
    if _WRONG_CREDENTIALS.fullmatch(code):
        return ConfigError(keys, f"AWS at {where} refused the credentials: {_said(exc)}", "Check them.")
    tls = tls_failure(exc, where)
    if tls is not None:
        return tls
    if _is_denial(exc):
        setting = "topics"
        if is_denied(exc):
            setting = "role_arn" if isinstance(exc, ClientError) and exc.operation_name == "AssumeRole" else keys
        return ConfigError(setting, f"AWS at {where} refuses {doing}: {_said(exc)}", "Grant it, or change the setting.")
    return Unavailable(
        f"AWS at {where} did not answer while {doing}: {_said(exc)}. Check host and port, and whether it asks for TLS "
        "(https://)"
    )


@contextmanager
def aws_errors(doing: str, where: str, keys: str) -> Iterator[None]:
    """Turn boto3's exceptions inside the block into ours; ``doing`` completes "… while …". ``keys``: the settings that
    the credentials come from."""
    try:
        yield
    except CLIENT_ERRORS as exc:
        raise _failure(exc, doing, where, keys) from exc


def publish_failure(exc: BaseException | None, topic: str) -> BrokerError:
    """Of a batch that failed as a whole; None: it was given up."""
    text = f"an event for topic {topic!r}"
    error: BrokerError
    if exc is not None and is_missing(exc):
        error = Rejected(f"{text}: AWS has no such topic or queue any more ({_said(exc)}). Declare it again")
    elif exc is not None and is_passing(exc):
        error = Unavailable(f"AWS does not take {text} now, until {_until(exc)}: {_said(exc)}")
    elif exc is not None and (_is_denial(exc) or isinstance(exc, _NO_CREDENTIALS)):
        error = Rejected(f"AWS refuses {text}: {_said(exc)}")
    elif isinstance(exc, _NOT_SENT) or (exc is not None and _is_busy(exc)):
        error = Unavailable(f"AWS cannot take {text} now: {_said(exc)}")
    else:
        said = "given up" if exc is None else _said(exc)
        error = PublishOutcomeUnknown(
            f"AWS did not confirm {text} ({said}): it may be stored. Publish it again under the same id"
        )
    error.__cause__ = exc
    return error


def entry_failure(failed: Mapping[str, Any], topic: str) -> BrokerError:
    """Of one entry of a batch of which others were taken."""
    text = f"{failed.get('Code')}: {failed.get('Message')}"
    # Throttled is our fault, says AWS, and goes when one waits.
    if failed.get("SenderFault") and "Throttl" not in str(failed.get("Code")):
        return Rejected(f"AWS refuses an event for topic {topic!r}: {text}")
    return Unavailable(f"AWS cannot take an event for topic {topic!r} now: {text}")


def most_bytes(code: object, message: object) -> int | None:
    """How many bytes AWS takes, where it has refused a message or a batch for its size: 0 where it does not say; None:
    that was not the reason."""
    found = _TOO_LONG.search(f"{code}: {message}")
    return None if found is None else int(found["most"] or 0)


def settle_failed(exc: BaseException, where: str) -> BrokerError:
    """Of a batch that was to be deleted, released or extended, and failed as a whole."""
    error: BrokerError
    if is_missing(exc):
        error = LeaseLost(f"the queue of the deliveries is gone: {_said(exc)}")
    else:
        until = f", until {_until(exc)}" if is_passing(exc) else ""
        error = Unavailable(f"SQS at {where} did not settle deliveries{until}: {_said(exc)}")
    error.__cause__ = exc
    return error


def settle_failure(failed: Mapping[str, Any]) -> BrokerError:
    """Of one delivery of a batch that was to be deleted, released or extended."""
    if str(failed.get("Code")).rpartition(".")[2] in _GONE:  # some come as AWS.SimpleQueueService.…
        return LeaseLost(f"a delivery is not ours any more: {failed.get('Message')}")
    return Unavailable(f"SQS did not settle a delivery: {failed.get('Code')}: {failed.get('Message')}")

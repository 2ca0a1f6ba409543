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
from anybroker.kit.wording import said

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
"""What boto3's calls raise; a RuntimeError where credentials are out of date even after a refresh."""

_NOT_SENT = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError, boto.SSLError)
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
)
_NO_CREDENTIALS_NOW = (boto.CredentialRetrievalError, boto.TokenRetrievalError)
"""The service that issues them does not answer at the moment: a role's, an instance's."""
_PASSING = re.compile("ExpiredToken|ExpiredTokenException|RequestExpired|RequestTimeTooSkewed|OverLimit")
"""Reasons for which AWS refuses a request now, but will take it again: see :func:`_until`."""
_SIGNATURE = re.compile("InvalidSignatureException|SignatureDoesNotMatch")
"""The secret is wrong, or the clock: only the message says which."""
_BUSY = re.compile(
    ".*Throttl.*|BandwidthLimitExceeded|LimitExceededException|ProvisionedThroughputExceededException|"
    "RequestLimitExceeded|ServiceUnavailable|SlowDown|TooManyRequestsException"
)
"""Reasons for which boto3 itself tries again; the request was certainly not carried out."""
_MISSING = {"NonExistentQueue", "QueueDoesNotExist", "NotFound", "NotFoundException"}
_WRONG_CREDENTIALS = re.compile(
    "AuthFailure|ExpiredToken|ExpiredTokenException|IncompleteSignature|InvalidAccessKeyId|InvalidClientTokenId|"
    "InvalidSecurity|InvalidSignatureException|MissingAuthenticationToken|SignatureDoesNotMatch|"
    "UnrecognizedClientException"
)
_DENIED = re.compile("AccessDenied|AccessDeniedException|AuthorizationError|AuthorizationErrorException")
_TOO_LONG = re.compile(r"(too ?long|shorter than|longer than)\b\D*(?P<most>\d*)", re.IGNORECASE)
_GONE = {"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"}
"""The codes of a batch for a receipt handle that is no longer valid; the last one: it is too old."""


def _code_of(exc: BaseException) -> str:
    """AWS's error code, without the service that some have before it; empty for another error."""
    code = exc.response.get("Error", {}).get("Code", "") if isinstance(exc, ClientError) else ""
    return str(code).rpartition(".")[2]


def is_missing(exc: BaseException) -> bool:
    """Whether there is no such queue or topic."""
    return _code_of(exc) in _MISSING


def is_denied(exc: BaseException) -> bool:
    """Whether these credentials lack the permission."""
    return _DENIED.fullmatch(_code_of(exc)) is not None


def _is_denial(exc: BaseException) -> bool:
    """Whether AWS has refused the request itself."""
    if not isinstance(exc, ClientError) or not 400 <= _status(exc) < 500:
        return False
    return not (_is_busy(exc) or is_passing(exc) or _code_of(exc).startswith("RequestTimeout"))


def _is_busy(exc: BaseException) -> bool:
    """Whether AWS is too busy for the request, and did nothing."""
    return isinstance(exc, ClientError) and (_status(exc) in (429, 503) or _BUSY.fullmatch(_code_of(exc)) is not None)


def is_passing(exc: BaseException | None) -> bool:
    """Whether AWS refuses the request for a reason that passes without a change of settings."""
    if exc is None:
        return False
    code = _code_of(exc)
    skewed = _SIGNATURE.fullmatch(code) is not None and "does not match" not in str(exc)
    return skewed or _PASSING.fullmatch(code) is not None or isinstance(exc, _NO_CREDENTIALS_NOW)


def may_be_done(exc: BaseException | None) -> bool:
    """Whether a request that ended with this may have been carried out, and its answer lost."""
    if exc is None or isinstance(exc, _NOT_SENT):
        return False
    return not (_is_denial(exc) or _is_busy(exc) or is_passing(exc))


def _status(exc: ClientError) -> int:
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))


def _until(exc: BaseException) -> str:
    """What has to happen before AWS takes the request again, where the error :func:`is_passing`."""
    code = _code_of(exc)
    if code == "OverLimit":
        return "fewer messages of the queue are in flight (120,000 at most)"
    if _SIGNATURE.fullmatch(code) or code == "RequestTimeTooSkewed":
        return "the clock of this machine is right again"
    return "boto3 has other credentials"


def _failure(exc: BaseException, doing: str, where: str, keys: str) -> AnybrokerError:
    """Of a request that neither publishes nor settles: ConfigError where only a person can fix it, else Unavailable."""
    code = _code_of(exc)
    if isinstance(exc, _NO_CREDENTIALS):
        return ConfigError(
            keys,
            f"boto3 has no AWS credentials for {where}: {said(exc)}",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or profile=, or access_key_id= and secret_access_key= "
            "(an emulator takes any).",
        )
    if _WRONG_CREDENTIALS.fullmatch(code):
        return ConfigError(keys, f"AWS at {where} refused the credentials: {said(exc)}", "Check them.")
    tls = tls_failure(exc, where)
    if tls is not None:
        return tls
    if _is_denial(exc):
        setting = "topics"
        if is_denied(exc):
            setting = "role_arn" if isinstance(exc, ClientError) and exc.operation_name == "AssumeRole" else keys
        return ConfigError(setting, f"AWS at {where} refuses {doing}: {said(exc)}", "Grant it, or change the setting.")
    return Unavailable(
        f"AWS at {where} did not answer while {doing}: {said(exc)}. Check host and port, and whether it asks for TLS "
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
    """The error of an event whose whole batch failed; None: the batch was given up."""
    text = f"an event for topic {topic!r}"
    error: BrokerError
    if exc is not None and is_missing(exc):
        error = Rejected(f"{text}: its topic or queue in AWS was deleted ({said(exc)}). Declare it again")
    elif exc is not None and is_passing(exc):
        error = Unavailable(f"AWS does not take {text} now, until {_until(exc)}: {said(exc)}")
    elif exc is not None and (_is_denial(exc) or isinstance(exc, _NO_CREDENTIALS)):
        error = Rejected(f"AWS refuses {text}: {said(exc)}")
    elif isinstance(exc, _NOT_SENT) or (exc is not None and _is_busy(exc)):
        error = Unavailable(f"AWS cannot take {text} now: {said(exc)}")
    else:
        reason = "given up" if exc is None else said(exc)
        error = PublishOutcomeUnknown(
            f"AWS did not confirm {text} ({reason}): it may be stored. Publish it again under the same id"
        )
    error.__cause__ = exc
    return error


def entry_failure(failed: Mapping[str, Any], topic: str) -> BrokerError:
    """The error of one entry of a batch; others may have been taken."""
    text = f"{failed.get('Code')}: {failed.get('Message')}"
    # AWS calls throttling the sender's fault; it passes.
    if failed.get("SenderFault") and "Throttl" not in str(failed.get("Code")):
        return Rejected(f"AWS refuses an event for topic {topic!r}: {text}")
    return Unavailable(f"AWS cannot take an event for topic {topic!r} now: {text}")


def most_bytes(code: object, message: object) -> int | None:
    """How many bytes AWS takes, where it refused a message or a batch for its size, or 0 where it does not say. None:
    the size was not the reason."""
    found = _TOO_LONG.search(f"{code}: {message}")
    return None if found is None else int(found["most"] or 0)


def settle_failed(exc: BaseException, where: str) -> BrokerError:
    """The error of deliveries that were to be deleted, released or extended, where the whole batch failed."""
    error: BrokerError
    if is_missing(exc):
        error = LeaseLost(f"the queue of the deliveries was deleted: {said(exc)}")
    else:
        until = f", until {_until(exc)}" if is_passing(exc) else ""
        error = Unavailable(f"SQS at {where} did not settle deliveries{until}: {said(exc)}")
    error.__cause__ = exc
    return error


def settle_failure(failed: Mapping[str, Any]) -> BrokerError:
    """The error of one delivery that was to be deleted, released or extended."""
    if str(failed.get("Code")).rpartition(".")[2] in _GONE:  # some come as AWS.SimpleQueueService.…
        return LeaseLost(f"a delivery is no longer ours: {failed.get('Message')}")
    return Unavailable(f"SQS did not settle a delivery: {failed.get('Code')}: {failed.get('Message')}")

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
    EventTooLarge,
    LeaseLost,
    PublishOutcomeUnknown,
    Rejected,
    Unavailable,
)
from anybroker.tls import tls_failure

__all__ = ["CLIENT_ERRORS", "aws_errors", "entry_failure", "is_missing", "publish_failure", "settle_failure"]

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
_EXPIRED = re.compile("ExpiredToken|ExpiredTokenException|RequestExpired")
_MISSING = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "NotFound", "NotFoundException"}
_WRONG_CREDENTIALS = re.compile(
    "AuthFailure|ExpiredToken|ExpiredTokenException|IncompleteSignature|InvalidAccessKeyId|InvalidClientTokenId|"
    "InvalidSecurity|InvalidSignatureException|MissingAuthenticationToken|SignatureDoesNotMatch|"
    "UnrecognizedClientException"
)
_DENIED = re.compile("AccessDenied|AccessDeniedException|AuthorizationError|AuthorizationErrorException")
_TOO_LONG = re.compile("too long|TooLong|must be shorter", re.IGNORECASE)
_NUMBER = re.compile("[0-9]{4,9}")
"""The limit, in what AWS says of a message over it."""
_GONE = {"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"}
"""What a batch says of a receipt handle that is not valid any more; the last one where it is too old."""


def _code_of(exc: BaseException) -> str:
    """AWS's error code; empty for another error."""
    return str(exc.response.get("Error", {}).get("Code", "")) if isinstance(exc, ClientError) else ""


def is_missing(exc: BaseException) -> bool:
    """Whether there is no such queue or topic."""
    return _code_of(exc) in _MISSING


def _is_denial(exc: BaseException) -> bool:
    """Whether AWS has refused the request itself."""
    return isinstance(exc, ClientError) and 400 <= _status(exc) < 500 and not _is_busy(exc)


def _is_busy(exc: BaseException) -> bool:
    """Whether AWS has put the request off, and done nothing."""
    return isinstance(exc, ClientError) and (_status(exc) in (429, 503) or "Throttl" in _code_of(exc))


def _status(exc: ClientError) -> int:
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))


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
        if _DENIED.fullmatch(code):
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
    elif exc is not None and (isinstance(exc, _NO_CREDENTIALS_NOW) or _EXPIRED.fullmatch(_code_of(exc))):
        error = Unavailable(f"AWS does not take {text} before boto3 has other credentials: {_said(exc)}")
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


def entry_failure(failed: Mapping[str, Any], topic: str, size: int) -> BrokerError:
    """Of one entry, of so many bytes, of a batch of which others were taken."""
    text = f"{failed.get('Code')}: {failed.get('Message')}"
    if _TOO_LONG.search(text):
        most = _NUMBER.search(str(failed.get("Message")))
        return EventTooLarge(
            f"AWS refuses an event for topic {topic!r}, which takes {size} bytes: {text}. Raise the topic's "
            "MaximumMessageSize, or lower max_message_bytes to it",
            size=size,
            limit=min(int(most[0]), size - 1) if most else size - 1,
        )
    # Throttled is our fault, says AWS, and goes when one waits.
    if failed.get("SenderFault") and "Throttl" not in str(failed.get("Code")):
        return Rejected(f"AWS refuses an event for topic {topic!r}: {text}")
    return Unavailable(f"AWS cannot take an event for topic {topic!r} now: {text}")


def settle_failure(failed: Mapping[str, Any]) -> BrokerError:
    """Of one delivery of a batch that was to be deleted, released or extended."""
    if str(failed.get("Code")).rpartition(".")[2] in _GONE:  # some come as AWS.SimpleQueueService.…
        return LeaseLost(f"a delivery is not ours any more: {failed.get('Message')}")
    return Unavailable(f"SQS did not settle a delivery: {failed.get('Code')}: {failed.get('Message')}")

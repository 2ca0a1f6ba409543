"""Kafka's errors as the errors of anybroker, whose ``__cause__`` is the client's exception."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka import errors as kafka

from anybroker.errors import AnybrokerError, BrokerError, ConfigError, PublishOutcomeUnknown, Rejected, Unavailable
from anybroker.kit.wording import said

__all__ = [
    "CLIENT_ERRORS",
    "failure",
    "is_too_large",
    "kafka_errors",
    "named",
    "publish_failure",
    "unavailable",
]

CLIENT_ERRORS = (kafka.KafkaError, OSError, TimeoutError)
"""What aiokafka's calls raise: its own errors, the network's (TLS included) and time-outs."""

_CREDENTIALS = (
    kafka.AuthenticationFailedError,
    kafka.AuthenticationMethodNotSupported,
    kafka.IllegalSaslStateError,
    kafka.SaslAuthenticationFailed,
    kafka.UnsupportedSaslMechanismError,
)
_PERMISSIONS = (
    kafka.ClusterAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.TopicAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
)
_SETTINGS = (
    kafka.InvalidConfigurationError,
    kafka.InvalidPartitionsError,
    kafka.InvalidReplicationFactorError,
    kafka.InvalidTopicError,
    kafka.PolicyViolationError,
)
_HINTS: dict[type[BaseException], str] = {
    kafka.InvalidSessionTimeoutError: "The broker's group.min.session.timeout.ms to group.max.session.timeout.ms "
    "do not include 'lease': change one of them.",
    kafka.InconsistentGroupProtocolError: "Other members of the consumer group use another assignment strategy than "
    "this adapter's 'range': stop them, or choose another group name.",
}
_MEANINGS: dict[type[BaseException], str] = {
    kafka.NotEnoughReplicasError: "fewer replicas are in sync than the topic's min.insync.replicas: start the brokers "
    "that are missing",
    kafka.NotEnoughReplicasAfterAppendError: "fewer replicas are in sync than the topic's min.insync.replicas: start "
    "the brokers that are missing",
    kafka.KafkaStorageError: "the broker cannot write to its disk: look there for a disk that is full or has failed",
    kafka.TopicAuthorizationFailedError: "this user may not write to the topic: grant it Write (Kafka ACL)",
    kafka.InvalidTimestampError: "this machine's clock and the broker's are too far apart (a broker takes timestamps "
    "up to message.timestamp.after.max.ms ahead, one hour by default): set the clock of this machine",
}
"""What to do, for errors whose name alone does not say it to a caller."""
_OUTCOME_UNKNOWN = (kafka.OutOfOrderSequenceNumber, kafka.ProducerFenced, kafka.UnknownProducerId, kafka.UnknownError)


def named(error: type[BaseException]) -> str:
    """One of Kafka's errors by its name, and what it means."""
    name = error.__name__.removesuffix("Error")
    return f"{name}: {_MEANINGS[error]}" if error in _MEANINGS else name


def failure(exc: BaseException, doing: str) -> AnybrokerError:
    """The error of ours for a client's exception: ConfigError where only a person can fix it, else Unavailable."""
    if isinstance(exc, _CREDENTIALS):
        return ConfigError(
            "url",
            f"Kafka refused user and password while {doing}: {said(exc)}",
            "Check both, sasl_mechanism, and whether this listener takes any.",
        )
    if isinstance(exc, _PERMISSIONS):
        return ConfigError("url", f"Kafka forbids {doing}: {said(exc)}", "Grant the user the permission (Kafka ACL).")
    if isinstance(exc, _SETTINGS):
        return ConfigError("topics", f"Kafka refuses {doing}: {said(exc)}", "Change the setting that it names.")
    hint = _HINTS.get(type(exc), "")
    return Unavailable(f"Kafka failed while {doing}: {said(exc)}. {hint}".rstrip())


def unavailable(error: AnybrokerError) -> BrokerError:
    """The same where only a BrokerError may be raised: the core tries again, and a person may fix it meanwhile."""
    return error if isinstance(error, BrokerError) else Unavailable(str(error))


@contextmanager
def kafka_errors(doing: str) -> Iterator[None]:
    """Turn the client's exceptions inside the block into ours; ``doing`` completes "Kafka failed while …"."""
    try:
        yield
    except CLIENT_ERRORS as exc:
        raise failure(exc, doing) from exc


def is_too_large(exc: BaseException) -> bool:
    """Whether the broker refused a batch for its size."""
    return isinstance(exc, kafka.MessageSizeTooLargeError | kafka.RecordListTooLargeError)


def publish_failure(exc: BaseException, topic: str) -> BrokerError:
    """What a batch's error means for each event in it, with its cause set."""
    error: BrokerError
    if isinstance(exc, kafka.BrokerResponseError) and not exc.retriable and not isinstance(exc, _OUTCOME_UNKNOWN):
        what = named(type(exc)) if type(exc) in _MEANINGS else said(exc)
        error = Rejected(f"Kafka refused an event for topic {topic!r}: {what}")
    else:
        # Also for what aiokafka may have sent before it gave up, as where a partition has no leader.
        error = PublishOutcomeUnknown(
            f"Kafka gave no clear answer for an event to topic {topic!r} "
            f"({named(type(exc)) if type(exc) in _MEANINGS else said(exc)}): it may be stored. "
            "Publish it again under the same id"
        )
    error.__cause__ = exc
    return error

"""aiokafka's errors as ours."""

from __future__ import annotations

import pytest
from aiokafka import errors as kafka

from anybroker.errors import ConfigError, PublishOutcomeUnknown, Rejected, Unavailable
from anybroker_kafka.failures import failure, kafka_errors, named, publish_failure


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (kafka.SaslAuthenticationFailed("no"), ConfigError),
        (kafka.UnsupportedSaslMechanismError(), ConfigError),
        (kafka.TopicAuthorizationFailedError("orders"), ConfigError),
        (kafka.InvalidReplicationFactorError("3 > 1"), ConfigError),
        (kafka.KafkaConnectionError("gone"), Unavailable),
        (kafka.NodeNotReadyError(), Unavailable),
        (ConnectionRefusedError("no"), Unavailable),
        (TimeoutError(), Unavailable),
    ],
)
def test_a_failure_is_a_config_error_where_a_person_has_to_fix_it(exc: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected, match="testing") as caught, kafka_errors("testing"):
        raise exc
    assert caught.value.__cause__ is exc


def test_other_exceptions_pass() -> None:
    with pytest.raises(ZeroDivisionError), kafka_errors("testing"):
        raise ZeroDivisionError


def test_a_lease_that_the_broker_refuses_is_explained() -> None:
    assert "group.min.session.timeout.ms" in str(failure(kafka.InvalidSessionTimeoutError(), "joining"))


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (kafka.MessageSizeTooLargeError(), Rejected),
        (kafka.TopicAuthorizationFailedError("orders"), Rejected),
        (kafka.InvalidTopicError(), Rejected),
        (kafka.OutOfOrderSequenceNumber(), PublishOutcomeUnknown),
        (kafka.ProducerFenced(), PublishOutcomeUnknown),
        (kafka.UnknownProducerId(), PublishOutcomeUnknown),
        (kafka.UnknownError(), PublishOutcomeUnknown),
        (kafka.NotLeaderForPartitionError(), PublishOutcomeUnknown),
        (kafka.KafkaConnectionError(), PublishOutcomeUnknown),
    ],
)
def test_only_a_clear_no_is_a_rejection(exc: Exception, expected: type[Exception]) -> None:
    error = publish_failure(exc, "orders")
    assert type(error) is expected
    assert error.__cause__ is exc
    assert "'orders'" in str(error)


@pytest.mark.parametrize(
    ("exc", "reason"),
    [
        (kafka.KafkaStorageError(), "a disk that is full or has failed"),
        (kafka.TopicAuthorizationFailedError("orders"), "may not write to the topic: grant it Write"),
        (kafka.NotEnoughReplicasError(), "min.insync.replicas"),
        (kafka.InvalidTimestampError(), "set the clock"),
        (kafka.MessageSizeTooLargeError(), "MessageSizeTooLarge"),
    ],
)
def test_a_publisher_reads_why(exc: kafka.KafkaError, reason: str) -> None:
    assert reason in str(publish_failure(exc, "orders"))
    assert reason in named(type(exc)), "what Kafka has said while the client tried again"

"""Brokers that are named by a URL."""

from __future__ import annotations

import pytest

from anybroker_contract.brokers.context import Context
from anybroker_contract.brokers.errors import BrokerFailed, Missing
from anybroker_contract.brokers.given import GivenBroker, address_of


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("kafka://10.0.0.1:9094,10.0.0.2:9094", ("10.0.0.1", 9094)),
        ("kafka://broker", ("broker", 9092)),
        ("amqp://user:p%40ss@rabbit:5673/vhost", ("rabbit", 5673)),
        ("nats://[::1]", ("::1", 4222)),
        ("postgresql://db/test", ("db", 5432)),
        ("sqs://eu-west-1?endpoint_url=http://127.0.0.1:4566", ("127.0.0.1", 4566)),
        ("sqs://eu-west-1", None),
    ],
)
def test_the_address_in_a_url(url: str, address: tuple[str, int] | None) -> None:
    assert address_of(url) == address


@pytest.mark.parametrize("url", ["kafka://", "nonsense", "pulsar://host"])
def test_a_url_without_an_address_is_refused(url: str) -> None:
    with pytest.raises(Missing, match="it has no host and port"):
        GivenBroker.found(Context("kafka"), url)


def test_it_is_not_ours_to_restart() -> None:
    broker = GivenBroker(Context("nats"), "nats://127.0.0.1:4222", "ANYBROKER_TEST_NATS_URL")
    for method in (broker.restart, broker.kill, broker.start, broker.freeze, broker.thaw):
        with pytest.raises(BrokerFailed, match="it is the URL in ANYBROKER_TEST_NATS_URL, not ours"):
            method()
    broker.stop()

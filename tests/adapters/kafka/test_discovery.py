"""What is put around aiokafka's clients for clusters: who is asked, what is kept of refusals, what is logged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, NotEnoughReplicasError
from aiokafka.protocol.produce import ProduceRequest

from anybroker_kafka import discovery, noise
from anybroker_kafka.discovery import find_again
from anybroker_kafka.noise import calm
from anybroker_kafka.refusals import note_refusals

Run = Callable[[Any], Any]
SERVERS = [("one", 1), ("two", 2), ("three", 3)]


class Client:
    """An AIOKafkaClient whose metadata comes from the brokers that it knows."""

    def __init__(self, alive: set[int], known: set[int]) -> None:
        self.alive = alive
        self.cluster = SimpleNamespace(_brokers=dict.fromkeys(known))

    async def _metadata_update(self, cluster: Any, topics: Any) -> bool:
        return bool(self.alive & self.cluster._brokers.keys())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hosts of the URL that were asked; only ``two`` answers, and names brokers 4 and 5."""
    hosts: list[str] = []

    async def ask(host: str, port: int, options: Any, request: Any) -> Any:
        hosts.append(host)
        if host != "two":
            raise KafkaConnectionError(host)
        brokers = [(4, "four", 4, None), (5, "five", 5, None)]
        return SimpleNamespace(brokers=brokers, controller_id=4, topics=[], API_VERSION=1)

    monkeypatch.setattr(discovery, "ask", ask)
    return hosts


def test_any_living_server_of_the_url_is_enough(run: Run, asked: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """All brokers that the client knew are gone, or have changed their addresses."""
    client = Client(alive={5}, known={1, 2})
    find_again(client, SERVERS, {})
    assert run(client._metadata_update(client.cluster, []))
    assert sorted(client.cluster._brokers) == [4, 5]
    assert sorted(asked) == ["one", "three", "two"]
    assert [record.levelname for record in caplog.records if record.name == "anybroker.kafka"] == ["WARNING"]


def test_while_a_known_broker_answers_nobody_else_is_asked(run: Run, asked: list[str]) -> None:
    client = Client(alive={2}, known={1, 2})
    find_again(client, SERVERS, {})
    assert run(client._metadata_update(client.cluster, []))
    assert asked == []


def test_no_server_answers(run: Run, asked: list[str]) -> None:
    """What the client knew is kept: those brokers may come back."""
    client = Client(alive=set(), known={1, 2})
    find_again(client, [SERVERS[0], SERVERS[2]], {})
    assert not run(client._metadata_update(client.cluster, []))
    assert sorted(client.cluster._brokers) == [1, 2]


def test_a_refusal_is_kept_until_a_batch_was_taken(run: Run) -> None:
    codes = [NotEnoughReplicasError.errno, 0]

    async def send(node: Any, request: Any) -> Any:
        return SimpleNamespace(topics=[("orders", [(3, codes.pop(0), 7)])])

    client = SimpleNamespace(send=send)
    refusals: dict[tuple[str, int], Any] = {}
    note_refusals(client, refusals)
    request = ProduceRequest(None, -1, 1000, [])
    run(client.send(1, request))
    assert refusals == {("orders", 3): NotEnoughReplicasError}
    run(client.send(1, request))
    assert refusals == {}


def test_the_clients_warnings_come_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(noise, "time", SimpleNamespace(monotonic=lambda: now[0]))
    logger = logging.getLogger("aiokafka.test_noise")
    calm()
    calm()
    try:
        for number in range(3009):
            logger.warning("Got error for %s, retrying", number)
        logger.warning("Something else")
        logger.info("Below")
        now[0] += 61
        logger.warning("Got error for %s, retrying", "the last")
    finally:
        logger.removeFilter(noise._FILTER)
    assert [record.getMessage() for record in caplog.records if record.name == logger.name] == [
        "Got error for 0, retrying",
        "Something else",
        "Got error for the last, retrying (and 3008 more like it in the last 61 s)",
    ]

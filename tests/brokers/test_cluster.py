"""Several servers as one cluster, with small servers in the place of brokers."""

from __future__ import annotations

import pytest

from anybroker_contract.brokers import start_cluster
from anybroker_contract.brokers.cluster import Cluster
from anybroker_contract.brokers.context import Context
from anybroker_contract.brokers.errors import BrokerFailed

from .fakes import command, fake, greeted


def test_its_whole_life() -> None:
    cluster = Cluster.launch(Context("fake"), [fake(), fake(), fake()], "three fakes")
    ports = [int(port.rpartition(":")[2]) for port in cluster.url.removeprefix("fake://").split(",")]
    folders = [node._keeper.folder for node in cluster.nodes]
    try:
        assert len(set(ports)) == 3
        cluster.nodes[0].kill()
        with pytest.raises(ConnectionRefusedError):
            greeted(ports[0])
        greeted(ports[1])
        cluster.nodes[1].end()
        cluster.start(0, 1)
        for port in ports:
            greeted(port)
        assert [(folder / "starts").read_text() for folder in folders] == ["..", "..", "."]
    finally:
        cluster.stop()
    assert not any(folder.exists() for folder in folders)
    cluster.stop()  # twice is nothing


def test_nothing_is_left_of_one_that_could_not_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Cluster] = []
    real = Cluster.start
    monkeypatch.setattr(Cluster, "start", lambda self: (started.append(self), real(self)))
    with pytest.raises(BrokerFailed, match="ended with exit code 3"):
        Cluster.launch(Context("fake"), [fake(), command("/bin/sh", "-c", "exit 3")], "two fakes")
    assert not any(node._keeper.folder.exists() for node in started[0].nodes)


def test_a_kind_without_clusters() -> None:
    with pytest.raises(ValueError, match="no clusters of sqs, only of kafka, nats"):
        start_cluster("sqs")

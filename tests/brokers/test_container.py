"""Asking for Docker: quick, and quiet where there is none. Containers themselves are tried with a daemon."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from anybroker_contract.brokers import container
from anybroker_contract.brokers.container import Docker
from anybroker_contract.brokers.context import Context
from anybroker_contract.brokers.errors import Missing
from anybroker_contract.brokers.kinds import KINDS


def test_no_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("testcontainers")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(Missing, match="Docker does not answer") as caught:
        Docker().launch(Context("kafka"), KINDS["kafka"].image, "")
    assert caught.value.remedy
    assert capfd.readouterr() == ("", "")


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "testcontainers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "testcontainers", None)
    assert Docker().why_not() == "testcontainers is not installed"


def test_it_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["no"])
    monkeypatch.setattr(container, "_probe", lambda: next(answers))
    docker = Docker()
    assert [docker.why_not() for _ in range(3)] == ["no", "no", "no"]


@pytest.mark.parametrize("name", KINDS)
def test_every_image_is_pinned(name: str) -> None:
    repository, _, tag = KINDS[name].image.tag.rpartition(":")
    assert repository
    assert tag[0].isdigit()
    assert "." in tag


def test_kafka_is_told_the_address_that_clients_see() -> None:
    environ = KINDS["kafka"].image.settings("127.0.0.1", 23456).environ
    assert "PLAINTEXT://127.0.0.1:23456" in environ["KAFKA_ADVERTISED_LISTENERS"]
    assert environ["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"

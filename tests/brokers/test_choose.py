"""Which source a broker comes from."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping

import pytest

from anybroker_contract.brokers import choose
from anybroker_contract.brokers.api import Broker, Source, Unavailable
from anybroker_contract.brokers.choose import start_brokers, start_one
from anybroker_contract.brokers.container import Docker
from anybroker_contract.brokers.context import Context
from anybroker_contract.brokers.errors import BrokerFailed, Cancelled, Missing
from anybroker_contract.brokers.image import Image, Settings
from anybroker_contract.brokers.kinds import KINDS, Kind
from anybroker_contract.brokers.native import Install

IMAGE = Image("fake:1", lambda host, port: f"fake://{host}:{port}", lambda *_: None, lambda *_: Settings(), 1)


class FakeBroker(Broker):
    can_restart = True
    survives_kill = True

    def __init__(self, name: str, source: Source, detail: str) -> None:
        self.name, self.source, self.detail, self.url = name, source, detail, "fake://"
        self.stopped = 0

    def restart(self) -> None: ...
    def kill(self) -> None: ...
    def start(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def stop(self) -> None:
        self.stopped += 1


class FakeDocker(Docker):
    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error

    def launch(self, context: Context, image: Image, why: str) -> Broker:
        if self.error is not None:
            raise self.error
        return FakeBroker(context.name, "container", f"{image.tag} {why}")


def kind(error: Exception | None = None) -> Kind:
    def find(context: Context) -> tuple[Install, str]:
        if error is not None:
            raise error
        return (lambda _: pytest.fail("not run")), "Fake 1.0"

    return Kind(IMAGE, find)


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(context: Context, install: Install, detail: str) -> Broker:
        return FakeBroker(context.name, "native", detail)

    monkeypatch.setattr("anybroker_contract.brokers.choose.NativeBroker.launch", launch)


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        yield port


def chosen(docker: Docker, of: Kind, environ: Mapping[str, str] | None = None) -> Broker:
    broker = start_one(Context("kafka", environ=environ or {}), of, docker)
    assert isinstance(broker, Broker)
    return broker


def test_a_url_comes_first(listening: int) -> None:
    broker = chosen(FakeDocker(), kind(), {"ANYBROKER_TEST_KAFKA_URL": f"kafka://127.0.0.1:{listening}"})
    assert (broker.source, broker.url) == ("url", f"kafka://127.0.0.1:{listening}")
    assert broker.detail == "the URL in ANYBROKER_TEST_KAFKA_URL"
    assert not broker.can_restart


def test_a_url_where_nothing_answers_is_not_replaced_by_something_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environ = {"ANYBROKER_TEST_KAFKA_URL": f"kafka://127.0.0.1:{port}"}
    answer = start_one(Context("kafka", environ=environ), kind(), FakeDocker())
    assert isinstance(answer, Unavailable)
    assert "nothing answers at the URL in ANYBROKER_TEST_KAFKA_URL" in answer.reason
    assert answer.remedy == "correct or unset ANYBROKER_TEST_KAFKA_URL"


def test_an_empty_url_is_none() -> None:
    assert chosen(FakeDocker(), kind(), {"ANYBROKER_TEST_KAFKA_URL": ""}).source == "container"


def test_a_container_comes_second() -> None:
    assert chosen(FakeDocker(), kind()).source == "container"


@pytest.mark.parametrize(
    "error",
    [
        Missing("Docker cannot get fake:1: no such host", "docker pull fake:1"),
        BrokerFailed("Docker cannot get fake:1: no such host\nand a log"),
    ],
)
def test_native_comes_third_and_says_why(error: Exception) -> None:
    broker = chosen(FakeDocker(error), kind())
    assert broker.source == "native"
    assert broker.detail == "Fake 1.0, native (Docker cannot get fake:1: no such host)"


def test_none_says_what_each_source_lacked_and_how_to_get_it() -> None:
    docker = FakeDocker(Missing("Docker does not answer", "install Docker"))
    said: list[str] = []
    context = Context("kafka", said.append)
    answer = start_one(context, kind(Missing("no java on this machine", "apt-get install java")), docker)
    assert answer == Unavailable("kafka", "Docker does not answer; no java on this machine", "apt-get install java")
    assert str(answer) == ("kafka: Docker does not answer; no java on this machine; get it with: apt-get install java")
    assert said == ["Docker does not answer", "no java on this machine"]


def test_one_that_failed_keeps_its_whole_log() -> None:
    docker = FakeDocker(Missing("Docker does not answer", "install Docker"))
    answer = start_one(Context("kafka"), kind(BrokerFailed("kafka ended with exit code 1\n    disk full")), docker)
    assert isinstance(answer, Unavailable)
    assert answer.reason == "Docker does not answer; kafka ended with exit code 1"
    assert answer.log == "kafka ended with exit code 1\n    disk full"


def test_giving_up_tries_no_further_source() -> None:
    context = Context("kafka")
    context.cancelled.set()
    with pytest.raises(Cancelled):
        start_one(context, kind(), FakeDocker())


# -- several at once -------------------------------------------------------------------------------------------


def replace_all(monkeypatch: pytest.MonkeyPatch, launch: Callable[[Context, Kind, Docker], object]) -> None:
    monkeypatch.setattr(choose, "start_one", launch)


def test_all_are_started_and_said_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(context: Context, kind: Kind, _: Docker) -> Broker:
        assert kind is KINDS[context.name]
        context.say("starting")
        return FakeBroker(context.name, "native", "")

    replace_all(monkeypatch, launch)
    said: list[tuple[str, str]] = []
    brokers = start_brokers(["nats", "kafka", "nats"], say=lambda name, text: said.append((name, text)))
    assert list(brokers) == ["nats", "kafka"]
    assert sorted(said) == [("kafka", "starting"), ("nats", "starting")]


def test_an_interrupted_start_stops_what_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started = FakeBroker("nats", "native", "")

    def launch(context: Context, _kind: Kind, _docker: Docker) -> Broker:
        if context.name == "nats":
            return started
        if context.name == "redis":
            raise KeyboardInterrupt
        assert context.cancelled.wait(20)  # one that is still starting is told to give up
        raise Cancelled

    replace_all(monkeypatch, launch)
    with pytest.raises(KeyboardInterrupt):
        start_brokers(["nats", "redis", "kafka"])
    assert started.stopped == 1


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown broker pulsar; there are kafka, rabbitmq"):
        start_brokers(["kafka", "pulsar"])


def test_none_asked_for_is_none() -> None:
    assert start_brokers([]) == {}

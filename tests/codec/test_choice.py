"""Which codec it is: names, entry points, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from anybroker import Bus, ConfigError, Event, MemoryBroker
from anybroker.codec import Decode, PydanticJson
from anybroker.codec.choice import Codecs
from anybroker.config import TopicSettings


class Named(PydanticJson):
    def __init__(self, name: str = "acme", *content_types: str) -> None:
        self.name = name
        self.content_types = content_types or ("application/vnd.acme",)  # type: ignore[assignment]


class Entry:
    name = "acme"
    module = "acme_codec"
    dist = None

    @staticmethod
    def load() -> Any:
        return Named


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anybroker.codec.choice.entry_points", lambda group: [Entry])


TOPICS = {"orders": TopicSettings(codec="acme")}


@pytest.mark.usefixtures("installed")
def test_a_topic_names_an_installed_codec() -> None:
    codecs = Codecs([], TOPICS)
    writer = codecs.writer("orders", {}, None)
    assert isinstance(writer, Named)
    assert codecs.writer("invoices", {}, None) is None
    assert codecs.writer("invoices", {}, "application/vnd.acme") is writer


@pytest.mark.usefixtures("installed")
def test_the_bus_names_an_installed_codec() -> None:
    codecs = Codecs(["acme"], {})
    assert codecs.writer("orders", {}, None) is None
    assert isinstance(codecs.writer("orders", {}, "Application/vnd.ACME; v=1"), Named)


@pytest.mark.usefixtures("installed")
def test_what_the_bus_was_given_goes_over_what_is_installed() -> None:
    mine = Named()
    assert Codecs([mine], TOPICS).writer("orders", {}, None) is mine


def test_the_topics_own_reads_before_the_others_of_its_content_type() -> None:
    first, second = Named("first"), Named("second")
    codecs = Codecs([first, second], {"orders": TopicSettings(codec="second")})
    assert codecs.writer("orders", {}, "application/vnd.acme") is second
    assert codecs.writer("invoices", {}, "application/vnd.acme") is first


def test_json_is_the_built_in_one_unless_another_has_its_name() -> None:
    assert not Codecs([], {"orders": TopicSettings(codec="json")})
    mine = Named("json", "application/json")
    assert Codecs([mine], {"orders": TopicSettings(codec="json")}).writer("orders", {}, None) is mine


def test_one_that_claims_json_reads_it(run: Any) -> None:
    class Upper(Named):
        def decoder(self, annotation: object, topic: str, /) -> Decode:
            return lambda event: (event.body or b"").decode().upper()

    codecs = Codecs([Upper("upper", "application/json")], {})
    event = Event.create({"a": 1}, type="x", source="s")
    assert codecs.decoder(str, "orders")(event) == '{"A":1}'
    assert codecs.decoder(bytes, "orders")(event) == b'{"a":1}'


@pytest.mark.parametrize(
    ("given", "topics", "text"),
    [
        ([], TOPICS, "topics.orders.codec: there is no codec 'acme'. Known: json."),
        (["jsn"], {}, "Bus(codecs=): there is no codec 'jsn'. Did you mean 'json'? Known: json."),
        ([7], {}, "Bus(codecs=): 7 is not a codec. Give an object with the methods of anybroker.codec.Codec."),
        ([Named], {}, "is not a codec. Give an object with the methods of"),
        ([Named(), Named()], {}, "Bus(codecs=): has two codecs of the name 'acme'. Keep one of them."),
        (
            [Named("x", "nonsense")],
            {},
            "codec x: content_types: attribute 'datacontenttype' is 'nonsense'",
        ),
        ([Named("x", "Application/X")], {}, "codec x: content_types: 'Application/X'. Write 'application/x'."),
    ],
)
def test_what_is_refused(given: Any, topics: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Bus(MemoryBroker(), source="shop", codecs=given, topics=topics)
    assert text in str(caught.value)


def test_a_library_that_it_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Needy(Entry):
        @staticmethod
        def load() -> Any:
            raise ModuleNotFoundError("No module named 'fastavro'", name="fastavro")

    monkeypatch.setattr("anybroker.codec.choice.entry_points", lambda group: [Needy])
    with pytest.raises(ConfigError, match="the codec 'acme' needs the package 'fastavro', which is not installed"):
        Codecs([], TOPICS)

"""Settings: where they come from, what is said of wrong ones, URLs, and keys of topics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, SecretStr

from anybroker import Bus, ConfigError, MemoryBroker, TopicSettings
from anybroker.adapter import AdapterSettings, BrokerUrl
from anybroker.config import BusSettings, load_settings, nearest, parse_url, validate


@pytest.fixture(autouse=True)
def folder(own_folder: Path) -> Path:
    """The working folder."""
    return own_folder


def error(call: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value)


# -------------------------------------------------------------------------------------------------- where from


def test_the_defaults() -> None:
    settings = load_settings({})
    assert settings == BusSettings.model_construct(
        url=None,
        source=None,
        provision="create",
        lease=20.0,
        drain=25.0,
        publish_deadline=30.0,
        connect_timeout=10.0,
        idempotency=None,
        topics={},
        adapters={},
    )
    assert TopicSettings() == TopicSettings(
        ordered=True,
        groups=(),
        lanes=None,
        retention=None,
        dead_letter=None,
        key=None,
        max_in_flight=None,
        max_ahead=None,
        foreign="dead_letter",
    )


TOML = """
url = "sqlite:///toml.db"
source = "from-toml"
lease = 11
drain = 12

[topics.orders]
groups = ["billing", "stock"]
key = "data.customer"
lanes = 8
ordered = false

[topics.invoices]
groups = "printer"

[adapters.sqlite]
busy_timeout = 7
"""


def test_arguments_then_environment_then_toml_then_defaults(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "anybroker.toml").write_text(TOML)
    monkeypatch.setenv("ANYBROKER_LEASE", "21")
    monkeypatch.setenv("ANYBROKER_DRAIN", "22")
    settings = load_settings({"drain": 32, "url": None})
    assert settings.drain == 32  # argument
    assert settings.lease == 21  # environment
    assert settings.source == "from-toml"
    assert settings.url == "sqlite:///toml.db"  # an argument that is None is none
    assert settings.publish_deadline == 30  # default


def test_topics_and_adapters_of_the_file(folder: Path) -> None:
    (folder / "anybroker.toml").write_text(TOML)
    settings = load_settings({})
    orders = settings.topics["orders"]
    assert (orders.groups, orders.key, orders.lanes, orders.ordered) == (
        ("billing", "stock"),
        "data.customer",
        8,
        False,
    )
    assert settings.topics["invoices"].groups == ("printer",)
    assert settings.adapters == {"sqlite": {"busy_timeout": 7}}


def test_topics_of_several_places_are_merged_field_by_field(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "anybroker.toml").write_text(TOML)
    monkeypatch.setenv("ANYBROKER_TOPICS__orders__lanes", "16")
    settings = load_settings({"topics": {"orders": {"max_in_flight": 3}, "carts": {"groups": ["shop"]}}})
    orders = settings.topics["orders"]
    assert (orders.max_in_flight, orders.lanes, orders.key) == (3, 16, "data.customer")
    assert set(settings.topics) == {"orders", "invoices", "carts"}


def test_nested_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBROKER_TOPICS", '{"orders": {"groups": ["billing"]}}')
    monkeypatch.setenv("ANYBROKER_ADAPTERS__kafka__acks", "all")
    settings = load_settings({})
    assert settings.topics["orders"].groups == ("billing",)
    assert settings.adapters == {"kafka": {"acks": "all"}}


def test_the_file_may_be_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "anybroker.toml").write_text('source = "here"')
    other = folder / "other.toml"
    other.write_text('source = "there"')
    monkeypatch.setenv("ANYBROKER_CONFIG", str(other))
    assert load_settings({}).source == "there"
    monkeypatch.setenv("ANYBROKER_CONFIG", "missing.toml")
    assert error(lambda: load_settings({})) == (
        "ANYBROKER_CONFIG: there is no file 'missing.toml'. Name an existing toml file."
    )


def test_a_bus_takes_them_from_all_places(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "anybroker.toml").write_text("lease = 11\n[topics.orders]\nlanes = 2\n")
    monkeypatch.setenv("ANYBROKER_SOURCE", "from-environment")
    bus = Bus(MemoryBroker(), drain=5, topics={"carts": TopicSettings(lanes=3)})
    assert (bus.settings.lease, bus.settings.drain, bus.source) == (11, 5, "from-environment")
    assert bus.subscription("orders", group="billing").lanes == 2
    assert bus.subscription("carts", group="shop").lanes == 3


def test_without_a_source_it_is_the_programs_name_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/srv/checkout.py"])
    with pytest.warns(UserWarning, match="no source is set: using the program's name 'checkout'"):
        assert Bus(MemoryBroker()).source == "checkout"
    monkeypatch.setattr("sys.argv", ["/srv/shop/__main__.py"])
    with pytest.warns(UserWarning, match="'shop'"):
        assert Bus(MemoryBroker()).source == "shop"


def test_without_a_url_the_embedded_brokers_file_is_named(folder: Path) -> None:
    async def main() -> None:
        async with Bus(source="shop"):
            pass

    with pytest.warns(
        UserWarning, match=rf"no broker URL: using the embedded broker in the file {folder}/anybroker.db"
    ):
        asyncio.run(main())
    assert (folder / "anybroker.db").exists()


# ---------------------------------------------------------------------------------------------- wrong settings


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"topics": {"orders": {"lane": 3}}},
            "topics.orders.lane: there is no such setting. Did you mean 'lanes'? Known: codec, dead_letter, foreign, "
            "groups, key, lanes, max_ahead, max_in_flight, ordered, retention.",
        ),
        ({"publish_dedline": 3}, "publish_dedline: there is no such setting. Did you mean 'publish_deadline'? Known: "),
        ({"nonsense": 3}, "nonsense: there is no such setting. Known: adapters, audit, connect_timeout, dedup"),
        (
            {"lease": 0.5},
            "lease: Input should be greater than or equal to 1. Seconds after which the events of a crashed member",
        ),
        ({"lease": "soon"}, "lease: Input should be a valid number"),
        ({"provision": "maybe"}, "provision: Input should be 'create', 'verify' or 'off'. Make topics and groups"),
        ({"topics": {"orders": {"lanes": 65}}}, "topics.orders.lanes: Input should be less than or equal to 64"),
        ({"topics": {"orders": {"retention": 0}}}, "topics.orders.retention: Input should be greater than 0"),
        ({"topics": {"orders": 7}}, "topics.orders: Input should be a valid dictionary"),
        ({"topics": {"Orders": {}}}, "topic: 'Orders' is not a name that every broker accepts"),
        ({"topics": {"orders": {"groups": ["Billing"]}}}, "group: 'Billing' is not a name that every broker accepts"),
        ({"topics": {"orders": {"dead_letter": "a b"}}}, "topic: 'a b' is not a name that every broker accepts"),
    ],
)
def test_wrong_settings(arguments: Mapping[str, Any], text: str) -> None:
    assert error(lambda: load_settings(arguments)).startswith(text)


def test_an_unknown_setting_in_the_file(folder: Path) -> None:
    (folder / "anybroker.toml").write_text('urll = "memory://"')
    assert error(lambda: load_settings({})).startswith("urll: there is no such setting. Did you mean 'url'?")


def test_a_file_that_is_no_toml(folder: Path) -> None:
    (folder / "anybroker.toml").write_text("url = ")
    text = error(lambda: load_settings({}))
    assert "anybroker.toml" in text
    assert "Invalid value" in text


def test_an_environment_variable_that_is_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBROKER_TOPICS", "{orders}")
    text = error(lambda: load_settings({}))
    assert "topics" in text
    assert "Write nested settings as JSON, or use ANYBROKER_NAME__FIELD." in text


def test_an_unknown_argument_of_the_bus() -> None:
    with pytest.raises(TypeError, match="leese"):
        Bus(MemoryBroker(), leese=3)  # type: ignore[call-arg] # that is what is refused


def test_what_is_neither_a_url_nor_makes_an_adapter() -> None:
    text = error(lambda: Bus(7, source="shop"))  # type: ignore[arg-type] # that is what is refused
    assert text == "url: int is neither a URL nor makes an adapter. Give a URL or a MemoryBroker()."


@pytest.mark.parametrize(
    ("name", "known", "text"),
    [
        ("lane", ["lanes", "groups"], "Did you mean 'lanes'? Known: groups, lanes."),
        ("zzz", ["lanes", "groups"], "Known: groups, lanes."),
        ("zzz", [], "Known: none."),
    ],
)
def test_the_nearest_name(name: str, known: list[str], text: str) -> None:
    assert nearest(name, known) == text


class Options(AdapterSettings):
    acks: str = Field(default="all", description="How many replicas confirm.")
    token: SecretStr = SecretStr("")
    retries: int = 3


def test_the_options_of_an_adapter() -> None:
    assert validate(Options, {"acks": "1"}, "kafka").acks == "1"
    assert error(lambda: validate(Options, {"ack": "1"}, "kafka")) == (
        "kafka.ack: there is no such setting. Did you mean 'acks'? Known: acks, retries, token."
    )
    assert error(lambda: validate(Options, {"acks": 1}, "kafka")) == (
        "kafka.acks: Input should be a valid string. How many replicas confirm."
    )


def test_a_wrong_value_is_not_shown_since_it_may_be_secret() -> None:
    text = error(lambda: validate(Options, {"token": ["hunter2"], "retries": "hunter3"}, "kafka"))
    assert "hunter" not in text


# ----------------------------------------------------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory://", BrokerUrl("memory", ())),
        ("kafka://a:9092,b:9093", BrokerUrl("kafka", (("a", 9092), ("b", 9093)))),
        ("kafka://a", BrokerUrl("kafka", (("a", None),))),
        ("kafka://[::1]:9092", BrokerUrl("kafka", (("::1", 9092),))),
        ("amqp://u:p@host:5672/v", BrokerUrl("amqp", (("host", 5672),), "u", "p", "/v")),
        ("amqp://u%40x:p%2Fq%3A@host/%2F", BrokerUrl("amqp", (("host", None),), "u@x", "p/q:", "//")),
        ("nats://token@host", BrokerUrl("nats", (("host", None),), "token")),
        ("sqlite:///shop.db", BrokerUrl("sqlite", (), path="/shop.db")),
        (
            "sqlite:////var/shop.db?poll=1&x=",
            BrokerUrl("sqlite", (), path="//var/shop.db", options={"poll": "1", "x": ""}),
        ),
        ("sqlite:///a%20b.db", BrokerUrl("sqlite", (), path="/a b.db")),
        ("sqlite:///a@b.db", BrokerUrl("sqlite", (), path="/a@b.db")),
        ("amqp://u:p%23%40@host/a@b", BrokerUrl("amqp", (("host", None),), "u", "p#@", "/a@b")),
        ("sqs://h?endpoint=http://u@h", BrokerUrl("sqs", (("h", None),), options={"endpoint": "http://u@h"})),
    ],
)
def test_urls(url: str, expected: BrokerUrl) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (
            "shop.db",
            "url: 'shop.db' is not a broker URL. Write scheme://host:port, such as sqlite:///shop.db or memory://.",
        ),
        ("", "url: '' is not a broker URL."),
        ("user:hunter2@host:9092", "url: 'str' is not a broker URL."),
        (7, "url: 'int' is not a broker URL."),
        ("kafka://host:port", "url: cannot be read: "),
        ("kafka://host:99999", "url: cannot be read: "),
        ("kafka://[::1", "url: cannot be read: "),
        ("kafka://user:hunter2@host:hunter2", "url: cannot be read: "),
        ("kafka://user:hunter2@ho[st", "url: cannot be read: "),
        ("kafka://user:hunter2/x@host", "url: cannot be read: "),
        ("kafka://user:2/hunter2@host", "url: cannot be read: "),
        ("kafka://user:hunter2#x@host", "url: cannot be read: "),
        ("kafka://user:2#hunter2@host", "url: cannot be read: "),
        ("kafka://user:2?hunter2@host", "url: cannot be read: "),
        ("kafka://user:x@host/#hunter2", "url: cannot be read: "),
        ("kafka://host?acks=1&acks=all", "url option 'acks': is given twice. Keep one of them."),
    ],
)
def test_wrong_urls(url: Any, text: str) -> None:
    said = error(lambda: parse_url(url))
    assert said.startswith(text)
    assert "hunter2" not in said


def test_the_password_is_never_shown() -> None:
    url = parse_url("amqp://user:hunter2@host:5672/v?x=1")
    assert str(url) == "amqp://user:***@host:5672/v"
    assert "hunter2" not in repr(url)
    assert url.password == "hunter2"  # noqa: S105, RUF100


def test_neither_the_settings_nor_an_error_show_what_may_be_secret() -> None:
    settings = load_settings(
        {
            "url": "amqp://user:hunter2@host/?tls_key_password=hunter2",
            "idempotency": "redis://user:hunter2@host",
            "adapters": {"amqp": {"tls_key_password": "hunter2"}},
        }
    )
    assert "hunter2" not in f"{settings!r} {settings}"
    assert "hunter2" not in repr(parse_url("amqps://host/?tls_key_password=hunter2"))
    with pytest.raises(ConfigError) as caught:
        parse_url("sqs:region?secret_access_key=hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("kafak://host", "url: no adapter for 'kafak'://. Did you mean 'kafka'? Known: "),
        ("memory://host", "url: memory://host names a server or a path. Write memory:// and nothing after it."),
        ("memory://?speed=fast", "memory.speed: there is no such setting. Known: none."),
    ],
)
def test_urls_that_no_adapter_takes(url: str, text: str) -> None:
    assert error(lambda: asyncio.run(Bus(url, source="shop").start())).startswith(text)


# ------------------------------------------------------------------------------------------ keys from configuration


@pytest.mark.parametrize(
    ("path", "payload", "options", "key"),
    [
        ("data.customer", {"customer": "c-7"}, {}, "c-7"),
        ("data.customer.id", {"customer": {"id": 7}}, {}, "7"),
        ("data.customer", {"other": 1}, {}, None),
        ("data.customer", {"customer": None}, {}, None),
        ("subject", {}, {"subject": "s-1"}, "s-1"),
        ("tenant", {}, {"extensions": {"tenant": "t-1"}}, "t-1"),
        ("tenant", {}, {}, None),
        ("data.customer", {"customer": "c-7"}, {"key": "mine"}, "mine"),
    ],
)
def test_the_key_of_a_topic(path: str, payload: Any, options: dict[str, Any], key: str | None) -> None:
    async def main() -> Any:
        bus = Bus(MemoryBroker(), source="shop", topics={"orders": {"key": path, "groups": ["billing"]}})
        async with bus:
            return (await bus.publish("orders", payload, type="order.v1", **options)).event

    assert asyncio.run(main()).key == key


@pytest.mark.parametrize("path", ["", "data", "data.", ".customer", "subject.x", "data..x"])
def test_a_path_that_is_none(path: str) -> None:
    text = error(lambda: Bus(MemoryBroker(), source="shop", topics={"orders": {"key": path}}))
    assert text == (f"topics.orders.key: {path!r} is not a path. Write data.customer, subject, or an extension's name.")


@pytest.mark.parametrize("value", [1.5, True, ["a"], {"a": 1}])
def test_a_path_that_leads_to_no_key(value: Any) -> None:
    async def main() -> None:
        async with Bus(MemoryBroker(), source="shop", topics={"orders": {"key": "data.customer"}}) as bus:
            await bus.publish("orders", {"customer": value}, type="order.v1")

    assert error(lambda: asyncio.run(main())).startswith("topics.orders.key: 'data.customer' of an event is a ")


def test_a_misspelt_variable_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBROKER_DRIAN", "3")
    with pytest.warns(
        UserWarning, match=r"ANYBROKER_DRIAN is not a setting of anybroker, and is ignored\. Did you mean 'drain'"
    ):
        load_settings({})


def test_variables_of_the_suite_and_nested_ones_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBROKER_TEST_KAFKA_URL", "kafka://127.0.0.1:1")
    monkeypatch.setenv("ANYBROKER_TOPICS__ORDERS__ORDERED", "false")
    assert load_settings({}).topics["orders"].ordered is False  # a warning would be an error here


def test_a_file_that_is_nested_too_deeply_is_an_error_of_ours(folder: Path) -> None:
    (folder / "anybroker.toml").write_text("a = " + "[" * 5_000)
    with pytest.raises(ConfigError, match=r"anybroker\.toml: cannot be read"):
        load_settings({})

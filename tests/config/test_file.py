"""Whose ``anybroker.toml`` it is: one that another may have put there does not say where events go."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import SecretStr

from anybroker import Bus, ConfigError, MemoryBroker
from anybroker.adapter import Adapter, AdapterContext
from anybroker.config import BusSettings, load_settings, parse_url
from anybroker.config.file import security_settings
from anybroker.config.registry import adapter_class, make_adapter, schemes
from anybroker.kit.tls import TlsSettings

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user, which only root can")
SOMEBODY = 64_321
"""A user who is not there."""

CONTEXT = AdapterContext("shop", "shop-1")
WEAKENED = "[adapters.natss]\ntls_check_hostname = false\n"


@pytest.fixture(autouse=True)
def folder(own_folder: Path) -> Path:
    """The working folder."""
    return own_folder


def write(folder: Path, text: str, name: str = "anybroker.toml") -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o644)
    return path


def made(**arguments: Any) -> Adapter:
    """The adapter that a Bus would make."""
    settings = load_settings(arguments)
    return make_adapter(parse_url(settings.url or "memory://"), settings, CONTEXT)


def refused(**arguments: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        made(**arguments)
    return caught.value


# --------------------------------------------------------------------------------------------------- the usual case


def test_a_file_of_ours_with_its_own_url_says_all(folder: Path) -> None:
    write(folder, f'url = "natss://broker"\nidempotency = "sqlite:///done.db"\n{WEAKENED}')
    adapter: Any = made()
    assert adapter._settings.tls_check_hostname is False
    assert load_settings({}).idempotency == "sqlite:///done.db"


def test_the_same_url_given_again_is_the_files_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, f'url = "natss://broker"\n{WEAKENED}')
    made(url="natss://broker")
    monkeypatch.setenv("ANYBROKER_URL", "natss://broker")
    made()


def test_what_weakens_nothing_is_taken_under_any_url(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        folder, 'lease = 11\n[topics.orders]\nlanes = 8\n[adapters.natss]\nreplicas = 3\n[adapters.kafka]\nrack = "a"\n'
    )
    monkeypatch.setenv("ANYBROKER_URL", "natss://broker")
    adapter: Any = made()
    assert adapter._settings.replicas == 3
    assert load_settings({}).topics["orders"].lanes == 8


def test_without_any_url_it_is_the_embedded_broker_and_the_files_settings(folder: Path) -> None:
    write(folder, '[adapters.sqlite]\nwake_folder = "w"\n')
    settings = load_settings({})
    make_adapter(parse_url("sqlite:///shop.db"), settings, CONTEXT)


def test_a_bus_on_a_broker_in_memory_asks_for_no_adapters_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    write(folder, WEAKENED)
    monkeypatch.setenv("ANYBROKER_URL", "natss://broker")

    async def main() -> None:
        async with Bus(MemoryBroker(), source="shop"):
            pass

    run(main())


# ------------------------------------------------------------------------------------------- a file that was only found


def test_a_found_file_weakens_no_url_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder, WEAKENED)
    monkeypatch.setenv("ANYBROKER_URL", "natss://user:hunter2@broker")
    assert str(refused()) == (
        f"adapters.natss.tls_check_hostname: is set in {path}, which was only found in the working folder, and "
        "the broker's URL comes from elsewhere. If you want it: name the file with ANYBROKER_CONFIG, or set "
        "ANYBROKER_ADAPTERS__NATSS__TLS_CHECK_HOSTNAME instead."
    )
    assert refused().setting == "adapters.natss.tls_check_hostname"
    monkeypatch.delenv("ANYBROKER_URL")
    assert refused(url="natss://broker").setting == "adapters.natss.tls_check_hostname"
    write(folder, f'url = "natss://other"\n{WEAKENED}')
    assert refused(url="natss://broker").setting == "adapters.natss.tls_check_hostname"


@pytest.mark.parametrize(
    ("url", "setting", "value"),
    [
        ("sqs://eu-west-1", "endpoint_url", '"http://127.0.0.1:1"'),
        ("sqs://eu-west-1", "profile", '"other"'),
        ("sqs://eu-west-1", "role_arn", '"arn:aws:iam::1:role/x"'),
        ("sqs://eu-west-1", "access_key_id", '"AKIA"'),
        ("natss://broker", "tls_ca_file", '"ca.pem"'),
        ("nats://broker", "credentials_file", '"user.creds"'),
        ("kafka://user:p@broker", "sasl_mechanism", '"PLAIN"'),
        ("kafkas://broker", "tls_ca_file", '"ca.pem"'),
        ("amqps://broker", "auth", '"external"'),
        ("amqps://broker", "tls_key_password", '"x"'),
        ("sqlite:///shop.db", "wake_folder", '"/tmp"'),
    ],
)
def test_every_adapters_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch, url: str, setting: str, value: str
) -> None:
    scheme = url.partition(":")[0]
    write(folder, f"[adapters.{scheme}]\n{setting} = {value}\n")
    monkeypatch.setenv("ANYBROKER_URL", url)
    assert refused().setting == f"adapters.{scheme}.{setting}"


def test_a_bus_refuses_them(folder: Path, monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    write(folder, '[adapters.sqs]\nendpoint_url = "http://127.0.0.1:1"\n')
    monkeypatch.setenv("ANYBROKER_URL", "sqs://eu-west-1")

    async def main() -> None:
        async with Bus(source="shop"):
            pass

    with pytest.raises(ConfigError, match=r"^adapters\.sqs\.endpoint_url: is set in "):
        run(main())


def test_the_idempotency_store_too(folder: Path) -> None:
    write(folder, 'Idempotency = "sqlite:////tmp/evil.db"\n')  # names have no case
    with pytest.raises(ConfigError, match=r"^idempotency: is set in .* or set ANYBROKER_IDEMPOTENCY instead\.$"):
        load_settings({"url": "nats://broker"})
    assert load_settings({"url": "nats://broker", "idempotency": "memory://"}).idempotency == "memory://"


def test_what_goes_before_the_file_is_not_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, WEAKENED)
    adapter: Any = made(url="natss://broker?tls_check_hostname=true")
    assert adapter._settings.tls_check_hostname is True
    monkeypatch.setenv("ANYBROKER_ADAPTERS__natss__tls_check_hostname", "true")
    adapter = made(url="natss://broker")
    assert adapter._settings.tls_check_hostname is True
    monkeypatch.setenv("ANYBROKER_ADAPTERS__NATSS__TLS_CHECK_HOSTNAME", "false")
    adapter = made(url="natss://broker")
    assert adapter._settings.tls_check_hostname is False


def test_a_file_that_was_named_says_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, WEAKENED)
    for name in ("anybroker.toml", str(folder / "anybroker.toml")):
        monkeypatch.setenv("ANYBROKER_CONFIG", name)
        adapter: Any = made(url="natss://broker")
        assert adapter._settings.tls_check_hostname is False


# ------------------------------------------------------------------------------------------------- a file of others


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ('url = "nats://evil"\n', "url"),
        ('idempotency = "sqlite:////tmp/evil.db"\n', "idempotency"),
        (WEAKENED, "adapters.natss.tls_check_hostname"),
    ],
)
def test_a_file_that_others_can_write(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, setting: str, named: bool
) -> None:
    path = write(folder, text)
    path.chmod(0o666)
    if named:
        monkeypatch.setenv("ANYBROKER_CONFIG", str(path))
    error = refused(url=None if setting == "url" else "natss://broker")
    assert error.setting == setting
    assert error.problem == f"is set in {path}, which can be written by other users (mode 0666)"
    assert error.remedy.startswith("Make it yours, and writable by you alone (chown, chmod go-w), or set ANYBROKER_")


@needs_root
@pytest.mark.parametrize("named", [False, True])
def test_a_file_of_another_user(folder: Path, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    path = write(folder, 'url = "nats://evil"\nlease = 11\n')
    os.chown(path, SOMEBODY, SOMEBODY)
    if named:
        monkeypatch.setenv("ANYBROKER_CONFIG", str(path))
    assert refused().problem == f"is set in {path}, which belongs to another user (uid {SOMEBODY})"
    assert load_settings({"url": "nats://broker"}).lease == 11


@needs_root
def test_a_link_of_another_user(folder: Path) -> None:
    write(folder, 'url = "nats://other"\n', "ours.toml")
    (folder / "anybroker.toml").symlink_to("ours.toml")
    assert load_settings({}).url == "nats://other"
    os.chown(folder / "anybroker.toml", SOMEBODY, SOMEBODY, follow_symlinks=False)
    assert "belongs to another user" in str(refused())


# ------------------------------------------------------------------------------------------------------------- the log


def test_the_file_in_use_is_named_in_the_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    load_settings({})
    assert caplog.records == []
    write(folder, "lease = 11\n")
    write(folder, "lease = 12\n", "other.toml")
    load_settings({})
    monkeypatch.setenv("ANYBROKER_CONFIG", "other.toml")
    load_settings({})
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", f"settings are read from {folder}/anybroker.toml"),
        ("INFO", f"settings are read from {folder}/other.toml"),
    ]


# ----------------------------------------------------------------------------------------------------------- the marks


def test_the_marks() -> None:
    assert security_settings(BusSettings) == {"audit", "url", "idempotency", "outbox"}
    assert security_settings(TlsSettings) == set(TlsSettings.model_fields)


@pytest.mark.parametrize("scheme", sorted(schemes()))
def test_secrets_files_and_addresses_are_marked(scheme: str) -> None:
    model = adapter_class(scheme).Settings
    telling = {
        name
        for name, field in model.model_fields.items()
        if {SecretStr, Path} & {field.annotation, *get_args(field.annotation)}
        or any(
            word in name for word in ("url", "file", "folder", "auth", "sasl", "tls", "key", "token", "profile", "role")
        )
    }
    assert telling == security_settings(model)

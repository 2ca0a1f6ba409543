"""Settings from a URL, and errors that say how to fix what is wrong."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats.errors
import pytest

from anybroker.adapter import AdapterContext, BrokerUrl
from anybroker.errors import ConfigError, PublishOutcomeUnknown, Rejected, Unavailable
from anybroker_nats import NatsAdapter
from anybroker_nats.failures import ApiError, connect_failure, nats_errors, publish_failure, said
from anybroker_nats.options import connection_options
from anybroker_nats.settings import NatsSettings

Run = Callable[[Any], Any]
CONTEXT = AdapterContext("shop", "shop-1")
SEED = "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU"
"""From the tests of nkeys: it belongs to no one."""
CREDENTIALS = f"""-----BEGIN NATS USER JWT-----
eyJ0eXAiOiJKV1QifQ.e30.c2ln
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{SEED}
------END USER NKEY SEED------
"""


def url(scheme: str = "nats", username: str | None = None, password: str | None = None, path: str = "") -> BrokerUrl:
    return BrokerUrl(scheme, (("a", None), ("b", 1234)), username, password, path)


def test_options_come_as_strings() -> None:
    settings = NatsSettings.model_validate(
        {"replicas": "3", "storage": "memory", "confirm_acks": "true", "max_age": "60", "ping_interval": "10"}
    )
    assert (settings.replicas, settings.storage, settings.confirm_acks) == (3, "memory", True)
    assert (settings.max_age, settings.ping_interval) == (60.0, 10)
    with pytest.raises(ValueError, match="ping_interval"):
        NatsSettings.model_validate({"ping_interval": "120"})


def test_several_servers_with_their_ports() -> None:
    assert connection_options(url(), NatsSettings())[0] == [("a", 4222), ("b", 1234)]
    assert connection_options(url(), NatsSettings())[1:] == ({}, "url")


def test_each_way_to_authenticate(tmp_path: Path) -> None:
    file, seed_file = tmp_path / "user.creds", tmp_path / "user.nk"
    file.write_text(CREDENTIALS)
    seed_file.write_text(f"{SEED}\n")

    def given(address: BrokerUrl, **options: Any) -> Any:
        return connection_options(address, NatsSettings.model_validate(options))[1:]

    assert given(url(username="me", password="pass")) == ({"user": "me", "password": "pass"}, "url")
    assert given(url(), token="secret") == ({"token": "secret"}, "token")
    assert given(url(), nkey_seed=SEED) == ({"nkeys_seed_str": SEED}, "nkey_seed")
    assert given(url(), nkey_seed_file=seed_file) == ({"nkeys_seed": str(seed_file)}, "nkey_seed_file")
    assert given(url(), credentials_file=file) == ({"user_credentials": str(file)}, "credentials_file")
    options, _ = given(url("natss"))
    assert isinstance(options["tls"], ssl.SSLContext)


@pytest.mark.parametrize(
    ("where", "options", "setting"),
    [
        (BrokerUrl("nats", ()), {}, "url"),
        (url(path="/vhost"), {}, "url"),
        (url(username="a-token"), {}, "url"),
        (url(username="me", password="x"), {"token": "y"}, "url, token"),
        (url(), {"token": "y", "nkey_seed": SEED}, "token, nkey_seed"),
        (url(), {"nkey_seed": "s3cret"}, "nkey_seed"),
        (url(), {"nkey_seed": ""}, "nkey_seed"),
        (url(), {"nkey_seed_file": __file__}, "nkey_seed_file"),
        (url(), {"credentials_file": __file__}, "credentials_file"),
        (url(), {"credentials_file": "/no/such/file"}, "credentials_file"),
        (url(), {"tls_ca_file": "/no/such/file"}, "tls_ca_file"),
        (url("natss"), {"tls_ca_file": "/no/such/file"}, "tls_ca_file"),
    ],
)
def test_what_cannot_work_is_refused_before_connecting(where: BrokerUrl, options: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NatsAdapter(where, NatsSettings.model_validate(options), CONTEXT)
    assert caught.value.setting == setting
    assert caught.value.remedy
    assert "a-token" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("exc", "setting"),
    [
        (nats.errors.Error("nats: 'Authorization Violation'"), "nkey_seed"),
        (nats.errors.Error("nats: 'User Authentication Expired'"), "nkey_seed"),
        (nats.errors.SecureConnRequiredError(), "url"),
        (OSError("connection refused"), None),
        (nats.errors.TimeoutError(), None),
    ],
)
def test_only_what_a_person_has_to_fix_is_a_config_error(exc: Exception, setting: str | None) -> None:
    error = connect_failure(exc, "a:4222", "nkey_seed")
    assert error.__cause__ is exc
    assert "a:4222" in str(error)
    assert (error.setting if isinstance(error, ConfigError) else None) == setting


@pytest.mark.parametrize(
    ("code", "expected"), [(503, Unavailable), (500, PublishOutcomeUnknown), (400, Rejected), (413, Rejected)]
)
def test_what_an_answer_means_for_the_event(code: int, expected: type[Exception]) -> None:
    error = publish_failure("orders", ApiError({"code": code, "err_code": 1, "description": "no"}))
    assert type(error) is expected
    assert isinstance(error.__cause__, ApiError)


def test_the_error_of_a_stream_without_schedules_says_how_to_fix_it() -> None:
    error = publish_failure("orders", ApiError({"code": 400, "err_code": 10188, "description": "disabled"}))
    assert type(error) is Rejected
    assert "allow_msg_schedules" in str(error)


def test_errors_of_the_client_become_ours() -> None:
    for exc, expected in (
        (ApiError({"code": 400, "err_code": 10025, "description": "no"}), ConfigError),
        (ApiError({"code": 503, "err_code": 10008, "description": "no"}), Unavailable),
        (nats.errors.NoRespondersError(), Unavailable),
        (OSError(), Unavailable),
    ):
        with pytest.raises(expected) as caught, nats_errors("asking"):
            raise exc
        assert caught.value.__cause__ is exc
    assert said(OSError()) == "OSError"
    assert said(nats.errors.TimeoutError()) == "timeout"


def test_secrets_are_in_no_repr() -> None:
    settings = NatsSettings.model_validate(
        {"token": "s3cret-1", "nkey_seed": "s3cret-2", "tls_key_password": "s3cret-3"}
    )
    assert "s3cret" not in f"{settings!r} {settings}"


def test_native_needs_a_connection(run: Run) -> None:
    async def check() -> None:
        adapter = NatsAdapter(url(), NatsSettings(), CONTEXT)
        with pytest.raises(Unavailable, match="not connected"):
            assert adapter.native is None
        await adapter.close()
        await adapter.close()
        with pytest.raises(Unavailable, match="closed"):
            await adapter.connect()

    run(asyncio.wait_for(check(), 5))

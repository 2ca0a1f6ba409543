"""The URL of the store and its settings."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from anybroker.errors import ConfigError
from anybroker.idempotency._stores import make_store
from anybroker_redis import RedisStore


def test_defaults_and_settings_of_the_url() -> None:
    store = RedisStore("redis://host")
    assert (store.retain, store.durable) == (7 * 86_400.0, True)
    store = RedisStore("redis://host?retain=60&prefix=shop&timeout=2&eviction=ignore")
    assert store.retain == 60.0
    assert RedisStore("redis://host?retain=60", retain=90).retain == 90.0


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_bus_finds_it_by_its_url(scheme: str) -> None:
    store = make_store(f"{scheme}://user:secret@one:1,two:2/3?retain=60")
    assert isinstance(store, RedisStore)
    assert store.retain == 60.0
    assert repr(store) == f"<RedisStore {scheme}://user:***@one:1,two:2/3>"


@pytest.mark.parametrize(
    ("url", "settings", "text"),
    [
        ("redis://h?retian=1", {}, "idempotency redis.retian: there is no such setting. Did you mean 'retain'?"),
        ("redis://h?retain=0", {}, "idempotency redis.retain: Input should be greater than 0"),
        ("redis://h?retain=inf", {}, "idempotency redis.retain: Input should be a finite number"),
        ("redis://h", {"timeout": -1}, "idempotency redis.timeout: Input should be greater than 0"),
        ("redis://h?prefix=a{b}", {}, "idempotency redis.prefix: String should match"),
        ("redis://h?eviction=allow", {}, "idempotency redis.eviction: Input should be 'refuse' or 'ignore'"),
        ("redis://h/shop", {}, "idempotency: redis://h/shop: 'shop' is not a database's number"),
        ("redis://h?db=1", {}, "idempotency redis.db: is for a Unix socket. Write redis://host/0."),
        ("redis://", {}, "idempotency: redis:// names no server. Write redis://host:6379/0."),
        ("rediss:///run/redis.sock", {}, "names no server. Write rediss://host:6379/0."),
        ("redis://h?tls_ca_file=/x", {}, "tls_ca_file: is for TLS, and the URL redis://h does not use TLS"),
        ("rediss://h?tls_ca_file=/none.pem", {}, "tls_ca_file: /none.pem cannot be used"),
        ("nats://h", {}, "idempotency: nats://h is not a Redis URL"),
        ("h:6379", {}, "idempotency: 'h:6379' is not a broker URL"),
    ],
)
def test_wrong_settings(url: str, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisStore(url, **settings)
    assert text in str(caught.value)


def test_no_secret_is_shown() -> None:
    for url in ("redis://u:swordfish@h:x/0", "redis://u:swordfish@h/0?retian=swordfish", "u:swordfish@h"):
        with pytest.raises(ConfigError) as caught:
            RedisStore(url)
        assert "swordfish" not in str(caught.value)
        assert "swordfish" not in repr(caught.value)
    assert "swordfish" not in repr(RedisStore("redis://u:swordfish@h/0"))


def test_the_client_library_may_be_missing() -> None:
    program = (
        "import sys; sys.modules['redis'] = None\n"
        "from anybroker.idempotency._stores import make_store\n"
        "try: make_store('redis://h')\n"
        "except Exception as exc: print(type(exc).__name__, exc)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "ConfigError idempotency: redis:// needs the package 'redis', which is not installed" in said
    assert "pip install 'anybroker" in said

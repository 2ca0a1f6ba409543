"""What a start of the store says about a server that cannot be one."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trustme

from anybroker.errors import ConfigError
from anybroker.idempotency import Claim, StoreUnavailable
from anybroker_contract.brokers import Broker
from anybroker_redis import RedisStore

Run = Callable[[Coroutine[Any, Any, None]], None]
KEY = ("billing", "charge", "shop", "1")


async def refusal(url: str, **settings: Any) -> str:
    """What a ConfigError says."""
    store = RedisStore(url, **settings)
    with pytest.raises(ConfigError) as caught:
        await store.open()
    await store.close()
    return str(caught.value)


async def outage(url: str, **settings: Any) -> str:
    """What a StoreUnavailable says."""
    store = RedisStore(url, **settings)
    with pytest.raises(StoreUnavailable) as caught:
        await store.open()
    await store.close()
    return str(caught.value)


async def works(url: str, **settings: Any) -> None:
    store = RedisStore(url, **settings)
    await store.open()
    claim = await store.claim(KEY, "a", 20.0, 60.0)
    assert isinstance(claim, Claim)
    await store.release(claim)
    await store.close()


def test_wrong_or_missing_passwords(run_server: Any, run: Run) -> None:
    async def main() -> None:
        server = run_server("--requirepass", "swordfish")
        await server.ready()
        place = f"127.0.0.1:{server.port}"
        for user in ("", ":guess-1234@", "admin:guess-1234@"):
            text = await refusal(f"redis://{user}{place}/0")
            assert "refused the user or the password" in text
            assert "guess" not in text
            assert "swordfish" not in text
        await works(f"redis://:swordfish@{place}/0")
        await works(f"redis://default:swordfish@{place}")

    run(main())


def test_the_privileges_of_the_readme_are_enough_and_less_is_not(
    own_server: Broker, client: Any, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    readme = Path(__file__).parents[3] / "adapters" / "redis" / "README.md"
    line = next(line for line in readme.read_text(encoding="utf-8").splitlines() if line.startswith("ACL SETUSER"))
    _, _, name, *rules = line.split()
    place = own_server.url.removeprefix("redis://")

    async def main() -> None:
        async with client(own_server.url) as redis:
            secret = next(rule[1:] for rule in rules if rule.startswith(">"))
            await redis.execute_command("ACL", "SETUSER", name, *rules)
            await works(f"redis://{name}:{secret}@{place}")
            assert caplog.text == ""
            for rule in ("+evalsha", "+eval", "+time", "+get", "+set", "+del"):
                assert rule in rules
                await redis.execute_command("SCRIPT", "FLUSH")
                await redis.execute_command("ACL", "SETUSER", name, f"-{rule[1:]}")
                text = await refusal(f"redis://{name}:{secret}@{place}")
                assert "the user lacks a privilege" in text
                assert "ACL SETUSER" in text
                await redis.execute_command("ACL", "SETUSER", name, rule)
            assert "the user lacks a privilege" in await refusal(f"redis://{name}:{secret}@{place}?prefix=others")
            await redis.execute_command("ACL", "SETUSER", name, "-config|get")
            await works(f"redis://{name}:{secret}@{place}")
            assert caplog.text == ""
            await redis.execute_command("ACL", "SETUSER", name, "-info")
            store = RedisStore(f"redis://{name}:{secret}@{place}")
            for _ in range(2):
                await store.open()
                await store.close()
            assert caplog.text.count("does not tell its maxmemory-policy") == 1
            assert "say so by eviction=ignore in the store's URL" in caplog.text
            caplog.clear()
            await works(f"redis://{name}:{secret}@{place}?eviction=ignore")
            assert caplog.text == ""

    run(main())


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_evicts_is_refused(own_server: Broker, client: Any, run: Run, policy: str) -> None:
    async def main() -> None:
        async with client(own_server.url) as redis:
            await redis.config_set("maxmemory-policy", policy)
            text = await refusal(own_server.url)
            assert f"evicts keys when its memory is full (maxmemory-policy {policy})" in text
            assert "Set maxmemory-policy noeviction" in text
            await works(own_server.url, eviction="ignore")

    run(main())


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [
        ("appendonly", "no", "keeps no append-only file (appendonly no)"),
        ("appendfsync", "no", "leaves it to the system when its append-only file reaches the disk (appendfsync no)"),
    ],
)
def test_what_a_restart_loses_is_said_once(
    own_server: Broker, client: Any, run: Run, caplog: pytest.LogCaptureFixture, setting: str, value: str, text: str
) -> None:
    async def main() -> None:
        async with client(own_server.url) as redis:
            await redis.config_set(setting, value)
            store = RedisStore(own_server.url)
            for _ in range(2):
                await store.open()
                await store.close()
            assert caplog.text.count(text) == 1
            assert [record.levelno for record in caplog.records] == [logging.WARNING]

    run(main())


def test_a_database_that_does_not_exist(server: Broker, run: Run) -> None:
    async def main() -> None:
        url = server.url.removesuffix("/0")
        assert "there is no such database" in await refusal(f"{url}/4000")
        await works(f"{url}/3")

    run(main())


def test_no_server_and_one_that_does_not_answer(own_server: Broker, run: Run) -> None:
    async def main() -> None:
        own_server.freeze()
        assert "no answer in time" in await outage(own_server.url, timeout=0.2)
        own_server.thaw()
        own_server.kill()
        assert "127.0.0.1" in await outage(own_server.url, timeout=5.0)

    run(main())


def test_a_replica_is_not_enough_and_the_primary_is_found(own_server: Broker, run_server: Any, run: Run) -> None:
    async def main() -> None:
        port = own_server.url.rpartition(":")[2].partition("/")[0]
        replica = run_server("--replicaof", f"127.0.0.1 {port}")
        dead = run_server()
        await replica.ready()
        dead.kill()
        assert "a read-only replica" in await outage(f"redis://127.0.0.1:{replica.port}/0")
        hosts = f"127.0.0.1:{dead.port},127.0.0.1:{replica.port}"
        assert "a read-only replica" in await outage(f"redis://{hosts}/0")
        await works(f"redis://{hosts},127.0.0.1:{port}/0")

    run(main())


HELLO = (
    b"*8\r\n$7\r\nversion\r\n$%d\r\n%b\r\n$4\r\nmode\r\n$%d\r\n%b\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$2\r\nid\r\n:1\r\n"
)


def hello(version: bytes, mode: bytes = b"standalone") -> dict[bytes, bytes]:
    return {b"HELLO": HELLO % (len(version), version, len(mode), mode)}


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        (hello(b"6.2.14"), "is Redis 6.2.14. Use Redis 7.0 or later, or Valkey."),
        ({}, "is older than Redis 7.0"),
        (hello(b"7.2.0", b"sentinel"), "is a Sentinel. Name the servers that it watches: redis://one,two,three/0."),
        ({b"HELLO": b"HTTP/1.1 400 Bad Request\r\n"}, "does not answer as Redis does"),
    ],
)
def test_servers_that_cannot_be_the_store(run: Run, pretend: Any, answers: dict[bytes, bytes], text: str) -> None:
    async def main() -> None:
        async with pretend(answers) as port:
            assert text in await refusal(f"redis://127.0.0.1:{port}/0")

    run(main())


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "the server is still loading its data"),
        (b"-ERR max number of clients reached\r\n", "max number of clients reached"),
        (b"-MASTERDOWN Link with MASTER is down\r\n", "a replica that has lost its primary"),
    ],
)
def test_servers_that_may_be_the_store_later(run: Run, pretend: Any, answer: bytes, text: str) -> None:
    async def main() -> None:
        async with pretend({b"HELLO": answer}) as port:
            assert text in await outage(f"redis://127.0.0.1:{port}/0")

    run(main())


def test_a_unix_socket(run_server: Any, run: Run, tmp_path: Path) -> None:
    path = os.path.relpath(tmp_path / "s")  # a socket's path is short
    if len(path) > 90:
        path = str(tmp_path / "s")

    async def main() -> None:
        server = run_server("--unixsocket", str(tmp_path / "s"))
        await server.ready()
        await works(f"redis://{tmp_path}/s?db=2")
        assert "No such file" in await outage(f"redis://{tmp_path}/none")

    run(main())


def test_tls(run_server: Any, run: Run, tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    mine = authority.issue_cert("client.example")
    mine.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")

    async def main() -> None:
        files = ("--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem", "--tls-ca-cert-file", "ca.pem")
        absolute = [str(tmp_path / each) if each.endswith(".pem") else each for each in files]
        plain = run_server()
        server = run_server(*absolute, tls=True)
        port = server.port
        await asyncio.gather(server.ready(), plain.ready())
        ca, client = f"tls_ca_file={tmp_path}/ca.pem", f"tls_cert_file={tmp_path}/client.pem"
        await works(f"rediss://127.0.0.1:{port}/0?{ca}&{client}")
        assert "tls_ca_file: the certificate of" in await refusal(
            f"rediss://127.0.0.1:{port}/0?tls_ca_file={tmp_path}/other.pem&{client}"
        )
        assert "refused the client's certificate, or requires one" in await refusal(f"rediss://127.0.0.1:{port}/0?{ca}")
        assert "is for another host" in await refusal(f"rediss://localhost:{port}/0?{ca}&{client}")
        await works(f"rediss://localhost:{port}/0?{ca}&{client}&tls_check_hostname=false")
        # A server without TLS waits for the rest of what it takes for a command.
        assert "no answer in time" in await outage(f"rediss://127.0.0.1:{plain.port}/0?{ca}", timeout=0.5)

    run(main())


def test_a_store_belongs_to_one_event_loop(server: Broker, prefix: str) -> None:
    store = RedisStore(server.url, prefix=prefix)

    async def opens() -> None:
        await store.open()

    async def claims() -> None:
        await store.open()
        assert isinstance(await store.claim(KEY, "a", 0.001, 60.0), Claim)
        await store.close()

    one, two = asyncio.Runner(), asyncio.Runner()
    with two:
        with one:
            one.run(opens())
            with pytest.raises(ConfigError, match="is open in another event loop"):
                two.run(opens())
            one.run(store.close())
        two.run(claims())

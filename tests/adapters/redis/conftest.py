"""A real server for the tests of the Redis store, and stores on it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from anybroker.adapter import BrokerUrl
from anybroker_contract.brokers import Broker, start_brokers
from anybroker_redis import RedisStore

_prefixes = (f"test-{os.getpid()}-{n}" for n in count())


def start() -> Broker:
    """Required where tests may install what is missing, as in CI."""
    found = start_brokers(["redis"])["redis"]
    if not isinstance(found, Broker):
        if os.environ.get("ANYBROKER_TEST_INSTALL") == "1":
            pytest.fail(str(found))
        pytest.skip(str(found))
    return found


@pytest.fixture(scope="session")
def server() -> Iterator[Broker]:
    """A server that tests share: none stops it or changes its configuration."""
    found = start()
    yield found
    found.stop()


@pytest.fixture
def own_server() -> Iterator[Broker]:
    """A server that a test may stop, freeze and configure."""
    found = start()
    if not found.can_restart:
        pytest.skip("the named server cannot be stopped")
    yield found
    found.stop()


class Server:
    """A redis-server with options of the test's own, which has ended when the test has."""

    def __init__(self, folder: Path, options: tuple[str, ...], tls: bool) -> None:
        program = shutil.which("redis-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            pytest.skip("there is no redis-server on this machine (apt-get install redis-server)")
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = listening.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log"
        ports = ("--port", "0", "--tls-port", str(self.port)) if tls else ("--port", str(self.port))
        self._command = (
            program, "--bind", "127.0.0.1", *ports, "--dir", str(folder), "--save", "",
            "--logfile", str(self._log), "--appendonly", "yes", *options,
        )  # fmt: skip
        self.process = subprocess.Popen(self._command)

    async def ready(self) -> None:
        """Returns when it takes connections."""
        async with asyncio.timeout(20):
            while "Ready to accept connections" not in (self._log.read_text() if self._log.exists() else ""):
                assert self.process.poll() is None, self._log.read_text()
                await asyncio.sleep(0.01)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def run_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a redis-server of this machine with these options."""
    servers: list[Server] = []

    def begin(*options: str, tls: bool = False) -> Server:
        servers.append(Server(tmp_path / f"redis-{len(servers)}", options, tls))
        return servers[-1]

    yield begin
    for each in servers:
        each.kill()


@asynccontextmanager
async def pretending(answers: Mapping[bytes, bytes]) -> AsyncIterator[int]:
    """The port of a server that gives these answers, by the first word of a command; to others ``-ERR``."""

    talking: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talking.add(task)
        while header := await reader.readline():
            words = []
            for _ in range(int(header[1:])):
                length = int((await reader.readline())[1:])
                words.append((await reader.readexactly(length + 2))[:-2])
            writer.write(answers.get(words[0].upper(), b"-ERR unknown command\r\n"))
        writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        if talking:
            await asyncio.wait(talking)  # the store has closed its connections


@pytest.fixture
def pretend() -> Callable[[Mapping[bytes, bytes]], AbstractAsyncContextManager[int]]:
    """The function, since a test cannot import it from here."""
    return pretending


Opened = Callable[..., AbstractAsyncContextManager[RedisStore]]


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test uses."""
    return next(_prefixes)


@pytest.fixture
def opened(prefix: str) -> Opened:
    """Opens a store on a server, by its URL, under the test's own prefix."""

    @asynccontextmanager
    async def open_(url: str | BrokerUrl, **settings: Any) -> AsyncIterator[RedisStore]:
        store = RedisStore(url, **({"prefix": prefix} | settings))
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    return open_


@pytest.fixture
def client() -> Callable[[str], AbstractAsyncContextManager[Redis]]:
    """A plain client, to look at the server and to change it."""

    @asynccontextmanager
    async def connect(url: str) -> AsyncIterator[Redis]:
        redis = Redis.from_url(url)
        try:
            yield redis
        finally:
            await redis.aclose()

    return connect

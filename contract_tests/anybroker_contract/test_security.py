"""TLS and credentials: each right way in works, each wrong one is one clear error, and no secret is ever shown."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from anybroker import Bus
from anybroker.adapter import AdapterSettings, BrokerUrl
from anybroker.errors import AnybrokerError, ConfigError, StateError, Unavailable

from ._kit import Kit, counted
from .marks import needs_harness
from .secured import Secured

SECONDS = 10.0
"""By when a wrong way in must have been refused."""


@pytest.fixture(autouse=True)
def _environment(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in secured.environment.items():
        monkeypatch.setenv(name, value)


@needs_harness("secured")
@pytest.mark.timeout(120)
async def test_every_right_way_in_publishes_and_consumes(kit: Kit, secured: Secured) -> None:
    """With each kind of credentials over TLS, what is published arrives, and a second Bus of the group takes over."""
    assert secured.good
    for way, url in secured.good.items():
        topic = kit.topic()
        log = kit.log()
        for number in range(2):
            bus = kit.bus(target=url)
            kit.subscribe(bus, topic, log=log)
            async with bus:
                await bus.publish(topic, counted(number, key="k", writer=way.replace(" ", "-")))
                await log.wait_started(number + 1)


@needs_harness("secured")
@pytest.mark.timeout(120)
async def test_every_wrong_way_in_is_one_error_that_says_how_to_fix_it(kit: Kit, secured: Secured) -> None:
    """A wrong password, authority, host name or certificate: one ConfigError within 10 s that names setting and remedy,
    and no task or thread keeps running."""
    assert secured.wrong
    for way, refused in secured.wrong.items():
        bus = kit.bus(target=refused.url)
        kit.subscribe(bus, kit.topic())
        before = running()
        error, seconds = await failure_of(bus)
        assert seconds < SECONDS, way
        assert type(error) is ConfigError, f"{way}: {error!r}"
        assert error.setting == refused.setting, f"{way}: {error}"
        assert error.problem, way
        assert error.remedy, f"{way}: {error}"
        assert "\n" not in str(error), way
        await nothing_more(before, way)


@needs_harness("secured")
async def test_a_port_with_tls_and_a_url_without_it(kit: Kit, secured: Secured) -> None:
    """A URL without TLS to a port that has it: one error within 10 s that says TLS."""
    bus = kit.bus(target=secured.without_tls)
    before = running()
    error, seconds = await failure_of(bus)
    assert seconds < SECONDS
    assert isinstance(error, ConfigError | Unavailable), repr(error)
    assert "tls" in str(error).lower()
    await nothing_more(before, "without TLS")


@needs_harness("secured")
@pytest.mark.timeout(120)
async def test_no_secret_is_shown_while_all_goes_well(kit: Kit, secured: Secured) -> None:
    """Logs at DEBUG (the client library's too), repr and str of Bus, settings, adapter and client, and counters: none
    shows a password, token or key."""
    for way, url in secured.good.items():
        topic = kit.topic()
        bus = kit.bus(target=url)
        log = kit.subscribe(bus, topic)
        with logged() as lines:
            before = list(shown(bus))
            async with bus:
                await bus.publish(topic, counted(0))
                await log.wait_done(["w-0"])
                during = list(shown(bus))
            after = list(shown(bus))
        none_of(secured, way, [*before, *during, *after, *lines])


@needs_harness("secured")
@pytest.mark.timeout(120)
async def test_no_secret_is_shown_when_it_fails(kit: Kit, secured: Secured) -> None:
    """The error of each wrong login, its whole chain with traceback, and everything that was logged: none has a
    secret."""
    wrong = {way: refused.url for way, refused in secured.wrong.items()}
    for way, url in {**wrong, "without TLS": secured.without_tls}.items():
        bus = kit.bus(target=url)
        with logged() as lines:
            error, _ = await failure_of(bus)
        chain = list(chain_of(error))
        texts = [text for exc in chain for text in (str(exc), repr(exc), repr(exc.args), repr(vars(exc)))]
        texts += traceback.format_exception(error)
        none_of(secured, way, [*texts, *lines, *shown(bus)])


@needs_harness("secured")
async def test_no_secret_in_a_setting_that_is_refused(kit: Kit, secured: Secured) -> None:
    """A URL with secrets and a typing error (an unknown option, an open bracket): the ConfigError shows no secret."""
    for way, url in secured.good.items():
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        broken = (
            f"{url}{'&' if parts.query else '?'}no_such_option=1",
            url.replace(host, f"[{host}", 1),
            url.replace("://", ":", 1),
        )
        for text in broken:
            with pytest.raises(ConfigError) as caught:
                await kit.bus(target=text).start()
            none_of(secured, way, traceback.format_exception(caught.value))


@needs_harness("secured")
@pytest.mark.timeout(120)
async def test_a_process_that_is_refused_shows_no_secret(kit: Kit, secured: Secured) -> None:
    """The command line exits with 2 and one line, also with its traceback; a program that logs everything and dies of
    the error shows no secret either."""
    program = (
        "import asyncio, logging, sys\n"
        "logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)\n"
        "from anybroker import Bus\n"
        "bus = Bus(source='contract')\n"
        "print(bus, bus.settings)\n"
        "asyncio.run(bus.start())\n"
    )
    commands = (
        ("-m", "anybroker.cli", "backlog", "some-topic", "g"),
        ("-m", "anybroker.cli", "backlog", "some-topic", "g", "--traceback"),
        ("-X", "dev", "-c", program),
    )
    ways = [way for way in ("password", "authority") if way in secured.wrong]
    assert ways
    for way in ways:
        for command in commands:
            status, out, err = await run(command, secured.wrong[way].url)
            none_of(secured, way, [out, err])
            assert status == (2 if "anybroker.cli" in command else 1), out + err
            assert "ConfigError" in err or secured.wrong[way].setting in err
            if command is commands[0]:
                logs = ("anybroker: ERROR: ", "anybroker: WARNING: ")  # what a client library has to say
                # Without the progress that it shows where it is slow.
                own = [line for line in err.splitlines() if line.startswith("anybroker: ")]
                assert len([line for line in own if not line.startswith(logs)]) == 1, err


# ------------------------------------------------------------------------------------------------------- looking


async def failure_of(bus: Bus) -> tuple[Any, float]:
    """The error that its start raises, and after how many seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(AnybrokerError) as caught:
        await bus.start()
    return caught.value, loop.time() - began


def running() -> tuple[set[asyncio.Task[Any]], set[threading.Thread]]:
    """Every task and thread there is now."""
    return asyncio.all_tasks(), set(threading.enumerate())


async def nothing_more(before: tuple[set[asyncio.Task[Any]], set[threading.Thread]], way: str) -> None:
    """Fail if tasks or threads go on that were not there before; asyncio's own threads wait for more work."""
    tasks = asyncio.all_tasks() - before[0]
    if tasks:
        _, tasks = await asyncio.wait(tasks, timeout=1.0)
    assert not tasks, f"{way}: {tasks}"
    threads = [item for item in set(threading.enumerate()) - before[1] if not item.name.startswith("asyncio_")]
    for thread in threads:
        await asyncio.to_thread(thread.join, 2.0)
    assert [thread.name for thread in threads if thread.is_alive()] == [], way


def shown(bus: Bus) -> Iterator[str]:
    """All that a Bus and what it is made of say of themselves."""
    objects: list[Any] = [bus, bus.settings, bus.stats, bus.problems]
    objects += [part for subscription in bus.subscriptions for part in (subscription, subscription.stats)]
    try:
        adapter: Any = bus.adapter
    except StateError as exc:
        objects.append(exc)  # not started
        adapter = None
    while adapter is not None:
        objects += [adapter, adapter.capabilities]
        objects += [item for item in vars(adapter).values() if isinstance(item, AdapterSettings | BrokerUrl)]
        try:
            objects.append(adapter.native)
        except AnybrokerError as exc:
            objects.append(exc)  # not connected
        adapter = getattr(adapter, "inner", None)
    for item in objects:
        yield repr(item)
        yield str(item)


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """The error, and all that it came from."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        exc = waiting.pop()
        if exc is None or id(exc) in seen:
            continue
        seen.add(id(exc))
        yield exc
        waiting += [exc.__cause__, exc.__context__]
        if isinstance(exc, BaseExceptionGroup):
            waiting += exc.exceptions


class _Lines(logging.Handler):
    """Keeps every record as text, its arguments and traceback included."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """One more."""
        self.lines.append(self.format(record))
        self.lines.append(repr(record.args))


@contextmanager
def logged() -> Iterator[list[str]]:
    """What all loggers say at DEBUG, whatever their own levels are."""
    handler = _Lines()
    root = logging.getLogger()
    loggers = [root, *(item for item in root.manager.loggerDict.values() if isinstance(item, logging.Logger))]
    levels = [(item, item.level) for item in loggers]
    for item in loggers:
        item.setLevel(logging.DEBUG if item is root else logging.NOTSET)
    root.addHandler(handler)
    try:
        yield handler.lines
    finally:
        root.removeHandler(handler)
        for item, level in levels:
            item.setLevel(level)


def none_of(secured: Secured, way: str, texts: list[str]) -> None:
    """Fail if one of the texts has a secret in it."""
    assert secured.secrets
    for text in texts:
        for number, secret in enumerate(secured.secrets):
            if secret in text:  # no assert, which would show it again
                at = text.index(secret)
                around = text[max(0, at - 500) : at + 500].replace(secret, "<SECRET>")
                pytest.fail(f"{way}: secret {number} is shown: …{around}…")


async def run(command: tuple[str, ...], url: str) -> tuple[int, str, str]:
    """Run Python with these arguments and the URL in its environment; exit status, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        env={**os.environ, "ANYBROKER_URL": url},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(40):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")

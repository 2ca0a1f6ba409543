"""The other commands, their help, their errors, their exit codes and their progress."""

from __future__ import annotations

import asyncio
import builtins
import importlib.metadata
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import pytest

from anybroker import Bus, ConfigError, Unavailable
from anybroker.cli._output import Progress, log_to_stderr, table
from anybroker.memory import MemoryAdapter

COMMANDS = [
    ("dlq",),
    ("dlq", "list"),
    ("dlq", "show"),
    ("dlq", "replay"),
    ("dlq", "discard"),
    ("backlog",),
    ("adapters",),
    ("describe",),
    ("observe",),
    ("observe", "rules"),
    ("observe", "dashboard"),
    ("run",),
]


# ------------------------------------------------------------------------------------------------ help and errors


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
def test_help_has_examples(anybroker: Any, command: tuple[str, ...]) -> None:
    ended = anybroker(*command, "--help")
    assert ended.code == 0
    _, _, examples = ended.out.partition("examples:\n")
    assert f"anybroker {' '.join(command)}".rstrip() in examples
    assert ended.err == ""


def test_version(anybroker: Any) -> None:
    assert anybroker("--version").out == f"anybroker {importlib.metadata.version('anybroker')}\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "anybroker: the following arguments are required: COMMAND. Try: anybroker --help"),
        (("dlq",), "anybroker dlq: the following arguments are required: COMMAND. Try: anybroker dlq --help"),
        (("dlq", "list", "orders"), "anybroker dlq list: the following arguments are required: GROUP."),
        (("dlq", "list", "o", "b", "--limit", "0"), "argument --limit: invalid number of 1 or more value: '0'."),
        (("dlq", "list", "o", "b", "--patience", "nan"), "invalid number of seconds over 0 value: 'nan'."),
        (("backlog", "orders", "billing", "--color"), "anybroker: unrecognized arguments: --color."),
        (("fly",), "anybroker: argument COMMAND: invalid choice: 'fly' (choose from "),
        (("observe",), "anybroker observe: the following arguments are required: COMMAND. Try: anybroker observe"),
        (("observe", "alerts"), "argument COMMAND: invalid choice: 'alerts' (choose from "),
        (("run", "x:y", "--log-level", "loud"), "argument --log-level: invalid choice: 'loud'"),
    ],
)
def test_wrong_usage_is_one_line_and_2(anybroker: Any, arguments: tuple[str, ...], text: str) -> None:
    ended = anybroker(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert text in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "code", "text"),
    [
        ("sqlit:///shop.db", 2, "anybroker: url: there is no file shop.db. Give --url, ANYBROKER_URL, or 'url' in"),
        ("sqlit://shop", 2, "anybroker: url: no adapter for 'sqlit'://. Did you mean 'sqlite'?"),
        ("sqlite:///missing.db", 2, "anybroker: url: there is no file missing.db."),
        ("memory://", 2, "anybroker: --url: the memory adapter has no 'processes'. Ask inside the program: bus.dead_"),
        ("nonsense", 2, "anybroker: url: 'nonsense' is not a broker URL."),
        ("kafka://u:hunter2@127.0.0.1:1?connect=no", 2, "anybroker: kafka.connect: there is no such setting."),
    ],
)
def test_wrong_brokers(anybroker: Any, folder: Path, url: str, code: int, text: str) -> None:
    for command in (("backlog", "orders", "billing"), ("dlq", "list", "orders", "billing")):
        ended = anybroker(*command, "--url", url)
        assert (ended.code, ended.out) == (code, "")
        assert ended.err.startswith(text)
        assert ended.err.count("\n") == 1
        assert "hunter2" not in ended.err
    assert list(folder.iterdir()) == []


def test_without_a_url_it_is_the_embedded_broker_if_it_is_there(anybroker: Any) -> None:
    ended = anybroker("backlog", "orders", "billing")
    assert (ended.code, ended.out) == (2, "")
    assert "there is no file anybroker.db. Give --url" in ended.err


def test_a_broker_that_is_away_is_1(anybroker: Any, shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(self: Any, *_: Any) -> None:
        raise Unavailable("nobody answers at\nlocalhost")

    shop.fill()
    monkeypatch.setattr("anybroker_sqlite.SqliteAdapter.connect", away)
    ended = anybroker("backlog", "orders", "billing", "--url", shop.url)
    assert (ended.code, ended.out, ended.err) == (1, "", "anybroker: Unavailable: nobody answers at localhost\n")


@pytest.mark.parametrize("shown", [False, True])
def test_a_bug_is_one_line_too_unless_it_is_asked_for(
    anybroker: Any, shop: Any, monkeypatch: pytest.MonkeyPatch, shown: bool
) -> None:
    async def broken(self: Any, *_: Any) -> None:
        raise ZeroDivisionError("a bug")

    shop.fill()
    monkeypatch.setattr("anybroker_sqlite.SqliteAdapter.backlog", broken)
    ended = anybroker("backlog", "orders", "billing", "--url", shop.url, *(["--traceback"] if shown else []))
    assert (ended.code, ended.out) == (1, "")
    last = ended.err.splitlines()[-1]
    assert last == "anybroker: unexpected ZeroDivisionError: a bug (--traceback shows where)"
    assert ("Traceback" in ended.err) is shown


def test_interrupted(anybroker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("anybroker.cli._adapters.schemes", lambda: interrupt(None))
    ended = anybroker("adapters")
    assert (ended.code, ended.err) == (130, "anybroker: interrupted\n")


def _buffered() -> dict[str, str]:
    """As most users run it, whatever the tests are run with."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def test_the_reader_of_the_output_goes_away() -> None:
    command = f"{sys.executable} -m anybroker.cli adapters | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False, env=_buffered()
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_nothing_is_left_to_be_written_when_a_command_has_ended() -> None:
    """A reader that goes away by then would make the interpreter's end fail."""
    command = "import os, sys; from anybroker.cli import main; code = main({}); os._exit(code)"
    for arguments in (["adapters"], ["adapters", "--json"]):
        ended = subprocess.run(
            [sys.executable, "-c", command.format(arguments)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=_buffered(),
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "memory" in ended.stdout, arguments
        assert ended.stdout.endswith("\n")


# --------------------------------------------------------------------------------------------- backlog, adapters


def test_backlog(anybroker: Any, shop: Any) -> None:
    async def publish() -> None:
        async with Bus(shop.url, source="front", topics={"orders": {"groups": ["billing"]}}) as bus:
            for number in range(3):
                await bus.publish("orders", number, type="order.v1")

    asyncio.run(publish())
    ended = anybroker("backlog", "orders", "billing", "--url", shop.url)
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(r"orders/billing: 3 waiting, 0 in flight, the oldest for \d+ s\n", ended.out)
    found = anybroker("backlog", "orders", "billing", "--url", shop.url, "--json").json
    assert 0 < found.pop("age") < 60
    assert found == {
        "topic": "orders",
        "group": "billing",
        "waiting": 3,
        "in_flight": 0,
        "lag": 3,
    }


def test_adapters(anybroker: Any) -> None:
    ended = anybroker("adapters")
    assert (ended.code, ended.err) == (0, "")
    rows = {row.split()[0]: row.split()[1:] for row in ended.out.splitlines() if row}
    assert rows["memory://"] == ["anybroker.memory", "yes"]
    assert rows["sqlite://"] == ["anybroker_sqlite", "yes"]
    heads = rows["capability"]
    durable = dict(zip(heads, rows["durable"], strict=True))
    assert (durable["memory"], durable["sqlite"], durable["kafka"]) == ("absent", "native", "native")


def test_adapters_as_json(anybroker: Any) -> None:
    found = {item["scheme"]: item for item in anybroker("adapters", "--json").json}
    memory = found["memory"]
    assert memory["ready"] is True
    assert memory["capabilities"] == {**MemoryAdapter.capabilities.table(), "acknowledgement": "per message"}
    assert memory["limits"] == {"max_event_bytes": None, "max_delay": None}


def test_an_adapter_whose_client_is_missing(anybroker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(scheme: str) -> Any:
        if scheme == "kafka":
            raise ConfigError("url", "kafka:// needs the package 'aiokafka'", "pip install 'anybroker[kafka]'")
        if scheme == "sqlite":
            raise ImportError("a broken package")
        return MemoryAdapter

    monkeypatch.setattr("anybroker.cli._adapters.adapter_class", load)
    ended = anybroker("adapters")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert next(line for line in lines if line.startswith("kafka")).endswith("pip install 'anybroker[kafka]'")
    assert next(line for line in lines if line.startswith("sqlite")).endswith("cannot be loaded: a broken package")
    found = {item["scheme"]: item for item in anybroker("adapters", "--json").json}
    assert (found["kafka"]["ready"], found["kafka"]["remedy"]) == (False, "pip install 'anybroker[kafka]'")


# -------------------------------------------------------------------------------------------------------------- run

SERVICE = """
import sys
import time
import urllib.request
from anybroker import Bus

bus = Bus(source="service")

@bus.subscribe("orders", group="billing", start="earliest")
async def charge(number: int) -> None:
    print("charged", number, flush=True)

def make_bus():
    return bus

number = 7
"""


def test_run_until_sigterm(folder: Path, shop: Any) -> None:
    (folder / "service.py").write_text(SERVICE)
    process = subprocess.Popen(
        [sys.executable, "-m", "anybroker.cli", "run", "service:make_bus"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ANYBROKER_URL": shop.url},
    )
    try:
        asyncio.run(_publish(shop.url))
        assert process.stdout is not None
        assert process.stdout.readline() == "charged 1\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 0, err
    assert out == ""
    assert "running service:make_bus: orders/billing" in err
    assert f"started on {shop.url}" in err
    assert "SIGTERM: draining" in err
    assert "Traceback" not in err


LOGGING_SERVICE = """
import logging
from anybroker import Bus, Event
from anybroker.middleware import retry

bus = Bus(source="service")

@bus.subscribe("orders", group="billing", start="earliest", middleware=[retry(attempts=2, first=0.0)])
async def charge(event: Event[int]) -> None:
    logging.getLogger("shop").info("charging", extra={"cents": event.data})
    if event.data == 1:
        raise ValueError("declined")
"""


def test_run_logs_json_with_the_facts_of_the_event(folder: Path, shop: Any) -> None:
    (folder / "service.py").write_text(LOGGING_SERVICE)
    process = subprocess.Popen(
        [sys.executable, "-m", "anybroker.cli", "run", "service:bus", "--log-format", "json"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ANYBROKER_URL": shop.url},
    )
    lines: list[dict[str, Any]] = []
    try:
        asyncio.run(_publish(shop.url))
        assert process.stderr is not None
        while not lines or lines[-1]["level"] != "ERROR":
            lines.append(json.loads(process.stderr.readline()))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 0
    own = [line for line in lines if line["logger"] == "shop"]
    again, dead = (line for line in lines if line["logger"] == "anybroker.handler")
    for attempt, line in enumerate(own, 1):
        assert (line["message"], line["level"], line["cents"]) == ("charging", "INFO", 1)
        assert (line["event_type"], line["topic"], line["group"], line["attempt"]) == (
            "order.v1",
            "orders",
            "billing",
            attempt,
        )
    assert (again["event_id"], again["level"]) == (dead["event_id"], "WARNING") == (own[0]["event_id"], "WARNING")
    assert "in charge" in dead["exception"]
    assert dead["time"].endswith("Z")


async def _publish(url: str) -> None:
    async with Bus(url, source="front", topics={"orders": {"groups": ["billing"]}}) as bus:
        await bus.publish("orders", 1, type="order.v1")


@pytest.mark.parametrize("command", ["run", "describe"])
@pytest.mark.parametrize(
    ("target", "content", "text"),
    [
        ("service", SERVICE, "MODULE:BUS: 'service' names no Bus. Write module:name, such as shop.service:bus."),
        ("service:", SERVICE, "MODULE:BUS: 'service:' names no Bus."),
        ("missing:bus", SERVICE, "MODULE:BUS: there is no module 'missing'. Name it as in 'import'"),
        ("service.part:bus", SERVICE, "MODULE:BUS: "),
        ("service:bsu", SERVICE, "MODULE:BUS: service has no 'bsu'. Did you mean 'bus'? Known: bus."),
        ("service:number", SERVICE, "MODULE:BUS: service:number is a int. Name a Bus, or a function"),
        ("service:sys", SERVICE, "MODULE:BUS: service:sys is a module."),
        ("service:bus", "import nothing_like_this", "importing service failed: ModuleNotFoundError: No module named"),
        ("service:bus", "\n\nbus = 1 / 0", "importing service failed: ZeroDivisionError: division by zero ("),
        ("service:bus", "def (", "importing service failed: SyntaxError: "),
        ("service:bus", "from anybroker import Bus\nbus = Bus(lease=0)", "anybroker: lease: Input should be greater"),
    ],
)
def test_what_cannot_be_run_is_2(
    anybroker: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, target: str, content: str, text: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("service", "service.part"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (folder / "service.py").write_text(content)
    ended = anybroker(command, target)
    assert (ended.code, ended.out) == (2, "")
    assert text in ended.err
    assert ended.err.count("\n") == 1
    sys.modules.pop("service", None)


def test_run_with_health_checks(folder: Path, shop: Any) -> None:
    (folder / "service.py").write_text(SERVICE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [sys.executable, "-m", "anybroker.cli", "run", "service:make_bus", "--health", address],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ANYBROKER_URL": shop.url},
    )
    try:
        deadline = time.monotonic() + 20.0
        while True:
            try:
                with urllib.request.urlopen(f"http://{address}/ready", timeout=5.0) as answer:
                    assert answer.read() == b"ok\n"
                break
            except OSError:  # not up, or not ready yet
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 0, err


def test_run_without_the_extra_says_that_there_are_no_metrics(
    anybroker: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("anybroker.cli._health.find_spec", lambda _: None)
    (folder / "bare_service.py").write_text(
        'from anybroker import Bus\nbus = Bus("kafka://127.0.0.1:1", source="s", connect_timeout=2)\n'
    )
    ended = anybroker("run", "bare_service:bus", "--health", "127.0.0.1:0")
    assert "/metrics has nothing to show: pip install 'anybroker[prometheus]'" in ended.err


def test_run_with_a_wrong_address_is_2(anybroker: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "service", raising=False)
    (folder / "service.py").write_text(SERVICE)
    ended = anybroker("run", "service:make_bus", "--health", "8080")
    assert ended.code == 2
    assert "'8080' is not host:port" in ended.err
    sys.modules.pop("service", None)


def test_an_error_in_the_program_says_where(anybroker: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "broken_service.py").write_text("\n\nbus = 1 / 0\n")
    assert "broken_service.py, line 3). --traceback shows more." in anybroker("run", "broken_service:bus").err
    assert "Traceback" in anybroker("run", "broken_service:bus", "--traceback").err


def test_a_bus_that_cannot_start(anybroker: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "lost_service.py").write_text(
        'from anybroker import Bus\nbus = Bus("kafka://127.0.0.1:1", source="s", connect_timeout=2)\n'
    )
    ended = anybroker("run", "lost_service:bus")
    assert ended.code == 1
    assert ended.err.splitlines()[-1].startswith("anybroker: Unavailable: ")
    assert "Traceback" not in ended.err


def test_where_the_log_is_json_warnings_and_the_end_are_too(
    anybroker: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "warned_service.py").write_text(
        "import warnings\nfrom anybroker import Bus\nwarnings.warn('old')\n"
        'bus = Bus("kafka://127.0.0.1:1", source="s", connect_timeout=2)\n'
    )
    ended = anybroker("run", "warned_service:bus", "--log-format", "json", "--traceback")
    assert ended.code == 1
    warned, *_, last = map(json.loads, ended.err.splitlines())
    assert (warned["level"], warned["message"]) == ("WARNING", "old")
    assert last["level"] == "CRITICAL"
    assert last["message"].startswith("Unavailable: ")
    assert "Traceback" in last["exception"]


# --------------------------------------------------------------------------------------------------------- output


class Terminal:
    """Makes the captured streams look like a terminal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_with_its_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], until: Any, terminal: bool
) -> None:
    monkeypatch.setattr("anybroker.cli._output._QUIET", 0.01)
    monkeypatch.setattr("anybroker.cli._output._EVERY", 0.01)
    monkeypatch.setattr("anybroker.cli._output._EVERY_LINE", 0.01)
    if terminal:
        Terminal(monkeypatch)

    async def main() -> None:
        async with Progress("replayed") as progress:
            progress(1_200)
            progress(34)
            await until(lambda: progress._shown)

    asyncio.run(main())
    out, err = capsys.readouterr()
    assert out == ""
    assert "replayed: 1,234 in 0 s (" in err
    assert "/s)" in err
    assert err.endswith("\r\033[K" if terminal else "\n")


def test_no_progress_for_what_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with Progress("replayed") as progress:
            progress(1)

    asyncio.run(main())
    assert capsys.readouterr() == ("", "")


def test_a_table_on_a_terminal_is_richs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    Terminal(monkeypatch)
    table(("id", "reason"), [("o-1", "[bold]no markup[/bold]")])
    out = capsys.readouterr().out
    assert "[bold]no markup[/bold]" in out
    assert len(out.splitlines()) == 2


def test_without_rich_it_is_plain_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(monkeypatch)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("rich"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    table(("id", "reason"), [("o-1", "no"), ("o-100", "yes")])
    assert capsys.readouterr().out == "id     reason\no-1    no\no-100  yes\n"


def test_warnings_are_one_line(anybroker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn() -> dict[str, Any]:
        warnings.warn("the file is old", UserWarning, stacklevel=1)
        return {}

    monkeypatch.setattr("anybroker.cli._adapters.schemes", warn)
    ended = anybroker("adapters", "--json")
    assert ended.err == "anybroker: warning: the file is old\n"
    assert ended.json == []


# -------------------------------------------------------------------------------------------------- what others wrote

EVIL = "\x9b2J\u202e\nanybroker: forged"


def test_an_error_and_its_traceback_steer_no_terminal(
    anybroker: Any, shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Any, *_: Any) -> None:
        raise Unavailable(EVIL) from ValueError(EVIL)

    shop.fill()
    monkeypatch.setattr("anybroker_sqlite.SqliteAdapter.backlog", broken)
    for more in ((), ("--traceback",)):
        ended = anybroker("backlog", "orders", "billing", "--url", shop.url, *more)
        assert ended.code == 1
        assert all(line.isprintable() for line in ended.err.splitlines())
        assert [line for line in ended.err.splitlines() if line.startswith("anybroker: ")] == [
            r"anybroker: Unavailable: \x9b2J\u202e anybroker: forged"
        ]


def test_what_other_libraries_log_steers_no_terminal(
    anybroker: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        for form, log in (("%(message)s", logging.getLogger("other")), ("x: %(message)s", logging.getLogger("x"))):
            log_to_stderr(logging.INFO, form, force=True)
            log.info("%s", EVIL)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [r"\x9b2J\u202e", "  anybroker: forged", r"x: \x9b2J\u202e", "  anybroker: forged"]


def test_a_tables_heads_are_no_markup(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    Terminal(monkeypatch)
    table(("id", "[bold]x[/bold]"), [("o-1", ":smile: [link=http://x]y[/link] \x9b")])
    out = capsys.readouterr().out
    assert "[bold]x[/bold]" in out
    assert r":smile: [link=http://x]y[/link] \x9b" in out


# ------------------------------------------------------------------------------------------------ a URL with a password


@pytest.mark.parametrize(
    "command", [("dlq", "list"), ("dlq", "show"), ("dlq", "replay"), ("dlq", "discard"), ("backlog",)]
)
def test_help_says_that_a_url_can_be_seen(anybroker: Any, command: tuple[str, ...]) -> None:
    text = " ".join(anybroker(*command, "--help").out.split())
    assert "Every user of the machine can see it in the list of processes" in text
    assert "--url-file FILE" in text


def test_a_url_in_a_file(anybroker: Any, shop: Any, folder: Path) -> None:
    shop.fill({"refuse": "x"})
    file = folder / "url"
    file.touch(0o600)
    file.write_text(f"  {shop.url}\n")
    ended = anybroker("backlog", "orders", "billing", "--url-file", file)
    assert (ended.code, ended.out, ended.err) == (0, "orders/billing: 0 waiting, 0 in flight\n", "")
    ended = anybroker("dlq", "list", "orders", "billing", "--url-file", file, "--patience", "0.2", "--json")
    assert (ended.code, [item["id"] for item in ended.json], ended.err) == (0, ["o-0"], "")


def test_a_url_file_that_others_can_read_is_warned_of(shop: Any, folder: Path) -> None:
    shop.fill()
    file = folder / "url"
    file.write_text(shop.url)
    file.chmod(0o644)
    command = [sys.executable, "-m", "anybroker.cli", "backlog", "orders", "billing", "--url-file", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr) == (
        0,
        f"anybroker: WARNING: {file} can be used by other users of this machine (mode 0644). "
        f"Unless that is intended: chmod go= '{file}'\n",
    )


def test_a_url_from_a_shells_pipe(shop: Any) -> None:
    shop.fill()
    command = f"{sys.executable} -m anybroker.cli backlog orders billing --url-file <(echo {shop.url})"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("content", "mode", "text"),
    [
        (b"", 0o600, "--url-file: url holds 0 words. Write the URL into it, and nothing else."),
        (b"kafka://u:hunter2@h\nkafka://h", 0o600, "--url-file: url holds 2 words."),
        (b"\xff", 0o600, "--url-file: url cannot be read: "),
        (b"nonsense:hunter2@", 0o600, "url: 'str' is not a broker URL."),
        (b"kafka://u:hunter2@127.0.0.1:1", 0o602, "--url-file: url can be written by other users (mode 0602)."),
        (None, 0, "--url-file: url cannot be read: [Errno 2] No such file or directory: 'url'."),
    ],
)
def test_wrong_url_files(anybroker: Any, folder: Path, content: bytes | None, mode: int, text: str) -> None:
    if content is not None:
        (folder / "url").write_bytes(content)
        (folder / "url").chmod(mode)
    ended = anybroker("backlog", "orders", "billing", "--url-file", "url")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"anybroker: {text}")
    assert "hunter2" not in ended.err
    assert ended.err.count("\n") == 1


def test_one_url_is_enough(anybroker: Any) -> None:
    ended = anybroker("backlog", "orders", "billing", "--url", "memory://", "--url-file", "url")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "not allowed with argument --url" in ended.err


def test_a_file_that_was_only_found(anybroker: Any, shop: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings are its own URL's, and no other's."""
    shop.fill()
    settings = '[adapters.sqlite]\nwake_folder = "elsewhere"\n'
    (folder / "anybroker.toml").write_text(f'url = "{shop.url}"\n{settings}')
    assert anybroker("backlog", "orders", "billing").code == 0
    (folder / "anybroker.toml").write_text(settings)
    monkeypatch.setenv("ANYBROKER_URL", shop.url)
    ended = anybroker("backlog", "orders", "billing")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith(
        f"anybroker: adapters.sqlite.wake_folder: is set in {folder}/anybroker.toml, which was "
    )
    monkeypatch.setenv("ANYBROKER_CONFIG", "anybroker.toml")
    assert anybroker("backlog", "orders", "billing").code == 0

"""What newer Pythons removed, or warn of, is in none of our files: CONTRIBUTING.md, "Newer Pythons"."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import TypedDict

from anybroker import Bus, ConfigError, MemoryBroker, event_type
from anybroker.middleware import middleware, publish_middleware

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("src", "adapters", "contract_tests", "tests", "examples", "benchmarks", "docs")
    for path in (ROOT / folder).rglob("*.py")
)

GONE = {
    "asyncio": {  # 3.14 removed child watchers and warns of policies and of iscoroutinefunction, which end with 3.16
        *("AbstractChildWatcher", "FastChildWatcher", "MultiLoopChildWatcher", "SafeChildWatcher"),
        *("get_child_watcher", "set_child_watcher", "AbstractEventLoopPolicy", "DefaultEventLoopPolicy"),
        *("WindowsSelectorEventLoopPolicy", "WindowsProactorEventLoopPolicy", "get_event_loop_policy"),
        *("set_event_loop_policy", "iscoroutinefunction"),
        "get_event_loop",  # raises since 3.14 where no loop runs
    },
    "uvloop": {"EventLoopPolicy", "install"},
    "ast": {"Num", "Str", "Bytes", "NameConstant", "Ellipsis"},
    "argparse": {"FileType"},
    "codecs": {"open"},
    "collections.abc": {"ByteString"},
    "glob": {"glob0", "glob1"},
    "importlib.abc": {"ResourceReader", "Traversable", "TraversableResources"},
    "locale": {"getdefaultlocale"},
    "pkgutil": {"find_loader", "get_loader", "ImpImporter", "ImpLoader"},
    "pty": {"master_open", "slave_open"},
    "sqlite3": {"version", "version_info"},
    "typing": {"ByteString", "no_type_check_decorator"},
    "urllib.request": {"URLopener", "FancyURLopener"},
}
MODULES_GONE = {"sre_compile", "sre_constants", "sre_parse", "imp", "pipes", "telnetlib", "cgi", "crypt", "nntplib"}
METHODS_GONE = {"utcnow", "utcfromtimestamp"}  # of datetime, whatever it was imported as
START_METHOD = {"multiprocessing", "ProcessPoolExecutor"}  # the default is forkserver since 3.14
SQL = {"execute", "executemany"}


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _leaves_finally(body: list[ast.stmt], in_loop: bool = False) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.Return) or (isinstance(node, ast.Break | ast.Continue) and not in_loop):
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = in_loop or isinstance(node, ast.For | ast.AsyncFor | ast.While)
            for field in ("body", "orelse", "finalbody"):
                yield from _leaves_finally(getattr(node, field, []), inner)
            for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
                yield from _leaves_finally(part.body, inner)


def problems(source: str) -> list[str]:
    """What a newer Python would not do, or would warn of, by line."""
    found: list[str] = []

    def say(node: ast.AST, what: str) -> None:
        found.append(f"{getattr(node, 'lineno', 0)}: {what}")

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            for name in node.names:
                path = f"{module}.{name.name}".lstrip(".")
                if {path.partition(".")[0], name.name} & (MODULES_GONE | START_METHOD):
                    say(node, path)
                if name.name in GONE.get(module, ()):
                    say(node, path)
        elif isinstance(node, ast.Attribute):
            path = _dotted(node)
            owner, _, name_ = path.rpartition(".")
            if name_ in METHODS_GONE or name_ in GONE.get(owner, ()):
                say(node, path)
        elif isinstance(node, ast.Try):
            for leaving in _leaves_finally(node.finalbody):
                say(leaving, "leaves a finally block")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            path, name_ = _dotted(node.func), node.func.attr
            if path == "sqlite3.connect" and len(node.args) > 1:
                say(node, "sqlite3.connect with more than one positional argument")
            if (
                name_ in ("create_function", "create_aggregate", "set_authorizer", "set_trace_callback")
                and node.keywords
            ):
                say(node, f"{name_} by keyword")
            if name_ in SQL and len(node.args) > 1 and not isinstance(node.args[1], ast.Dict | ast.DictComp):
                text = "".join(
                    part.value
                    for part in ast.walk(node.args[0])
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                )
                if any(text[at + 1 : at + 2].isdigit() for at, char in enumerate(text) if char == "?"):
                    say(node, "numbered placeholders with a sequence")
    return found


def test_no_file_uses_what_newer_pythons_removed_or_warn_of() -> None:
    assert len(FILES) > 300, "the folders were not found"
    found: list[str] = []
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a SyntaxWarning of the Python that runs this
            compile(source, str(path), "exec", dont_inherit=True)
        found += [f"{path.relative_to(ROOT)}:{problem}" for problem in problems(source)]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio\nasyncio.set_event_loop_policy(None)",
        "from asyncio import DefaultEventLoopPolicy",
        "import asyncio\nasyncio.get_event_loop()",
        "from datetime import datetime\nimport datetime as d\nd.datetime.utcnow()",
        "import multiprocessing",
        "from concurrent.futures import ProcessPoolExecutor",
        "import sqlite3\nsqlite3.connect('a.db', 5.0)",
        "db.execute('SELECT ?1', (1,))",
        "db.execute(f'SELECT ?1 FROM {table}', rows)",
        "db.create_function(name='f', narg=1, func=f)",
        "def f():\n try:\n  g()\n finally:\n  if x:\n   return 1",
        "while True:\n try:\n  g()\n finally:\n  break",
    ],
)
def test_the_check_finds_it(source: str) -> None:
    assert len(problems(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n try:\n  g()\n finally:\n  for x in y:\n   break",
        "def f():\n try:\n  g()\n finally:\n  def h():\n   return 1",
        "db.execute('SELECT ?1', {'1': 1})",
        "db.execute('SELECT ?', (1,))",
        "import sqlite3\nsqlite3.connect('a.db', timeout=5.0)",
    ],
)
def test_the_check_leaves_alone_what_goes_on(source: str) -> None:
    assert problems(source) == []


def test_the_fields_of_a_typed_dict_are_known_without_its_annotations() -> None:
    """Since Python 3.14 asking for them evaluates them, and one may be for type checkers only (PEP 649)."""

    class Placed(TypedDict):
        customer: str

    Placed.__annotations__ = {}
    with pytest.raises(ConfigError, match=r"has no field 'costumer'\. It has customer\."):
        event_type("placed.v1", key="costumer")(Placed)
    assert event_type("placed.v1", key="customer")(Placed) is Placed


TYPES_FOR_CHECKERS_ONLY = """
async def passing(delivery: Delivery, call_next: Handler) -> None:
    await call_next(delivery)

async def adding(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
    return await call_next(outgoing)

async def handle(order: Order) -> None: ...
"""


def test_functions_annotated_with_types_for_type_checkers_only() -> None:
    functions: dict[str, Any] = {}
    future = "" if sys.version_info >= (3, 14) else "from __future__ import annotations\n"
    exec(compile(future + TYPES_FOR_CHECKERS_ONLY, "service.py", "exec", dont_inherit=True), functions)
    middleware(functions["passing"])
    publish_middleware(functions["adding"])
    with pytest.raises(ConfigError, match="an annotation cannot be resolved: name 'Order'"):
        Bus(MemoryBroker(), source="shop").subscribe("orders", group="g")(functions["handle"])

"""Which module imports which: no circle anywhere, of the core the rooms that an adapter may know, nothing private.

``python -m tests.import_graph`` prints the graph.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
from tests.import_graph import CORE, ROOT, arrows, circles, imported, modules, packages, way_round

PACKAGES = {name: modules(name, folder) for name, folder in packages().items()}
CONTRACT = "anybroker_contract"
ADAPTERS = sorted(PACKAGES.keys() - {CORE, CONTRACT})
ROOMS = {
    f"anybroker.{room}"
    for room in ("adapter", "capabilities", "cloudevents", "errors", "idempotency", "kit", "outbox", "printable")
}
"""What an adapter may import of the core, submodules included."""
OUTSIDE = {
    **{name: sorted(files.values()) for name, files in PACKAGES.items() if name != CORE},
    **{name: sorted((ROOT / name).rglob("*.py")) for name in ("benchmarks", "examples")},
}
"""The files that use public names of the core only, by package or folder."""
BREAKS_THE_CORE = ROOT / "contract_tests" / CONTRACT / "mutants" / "core.py"
"""The one file that may name private parts of the core: it puts faults into them, so that tests must find them."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@cache
def core_names() -> frozenset[str]:
    """The private names of the core."""
    return frozenset(private_names(PACKAGES[CORE].values()))


OF_CLIENTS = ("producer._sender",)
"""Private names of the client libraries that the core happens to have too: aiokafka's producer has no other way."""


def private_names(files: Iterable[Path]) -> set[str]:
    """The private names that these files define: functions, classes, variables, attributes and slots."""
    names: set[str] = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_bytes())):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    names.add(name)
                case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                    names.add(name)
                case ast.Constant(value=str(name)):
                    names.add(name)
                case _:
                    pass
    return {name for name in names if is_private(name)}


def private_uses(path: Path, of: Collection[str]) -> Iterator[str]:
    """Imports of private modules and names of the core in a file, and attributes of others with one of these names."""
    tree = ast.parse(path.read_bytes())
    for base, name in imported(tree, "outside", False):
        parts = [*base.split("."), *([name] if name else ())]
        if parts[0] == CORE and any(map(is_private, parts)):
            yield f"{path.name} imports {'.'.join(parts)}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in of and ast.unparse(node.value) not in ("self", "cls"):
            yield f"{path.name}:{node.lineno} {ast.unparse(node)}"


def write(folder: Path, files: dict[str, str]) -> dict[str, Path]:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return modules("p", folder)


def test_all_packages_are_looked_at() -> None:
    assert {"anybroker", "anybroker_contract", "anybroker_kafka", "anybroker_sqlite"} <= PACKAGES.keys()
    assert all("from" in path.read_text(encoding="utf-8") for path in PACKAGES["anybroker_kafka"].values())


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle(package: str) -> None:
    graph = arrows(PACKAGES[package])
    assert [" -> ".join(way_round(graph, group)) for group in circles(graph)] == []


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_imports_the_interface_and_the_kit_only(adapter: str) -> None:
    others = [
        f"{module} -> {target}"
        for module, path in PACKAGES[adapter].items()
        for base, name in imported(ast.parse(path.read_bytes()), module, path.name == "__init__.py")
        if (target := ".".join((*base.split("."), name or "")[:2])).split(".")[0] == CORE and target not in ROOMS
    ]
    assert others == []


@pytest.mark.parametrize("package", OUTSIDE)
def test_nothing_private_of_the_core_is_used_outside_of_it(package: str) -> None:
    files = [path for path in OUTSIDE[package] if path != BREAKS_THE_CORE]
    assert files
    core = core_names() - private_names(files)
    assert [use for path in files for use in private_uses(path, core) if not use.endswith(OF_CLIENTS)] == []


def test_a_private_use_is_found(tmp_path: Path) -> None:
    path = tmp_path / "wire.py"
    path.write_text(
        "from anybroker.cloudevents._event import Event\nfrom anybroker.errors import _clipped\n"
        "import anybroker._tls, anybroker.adapter, aiokafka._any\n"
        "class Wire:\n    def f(self, event):\n        return self._attributes, event._attributes, event._sent\n",
        encoding="utf-8",
    )
    assert "_attributes" in core_names()
    assert list(private_uses(path, {"_attributes"})) == [
        "wire.py imports anybroker.cloudevents._event.Event",
        "wire.py imports anybroker.errors._clipped",
        "wire.py imports anybroker._tls",
        "wire.py:6 event._attributes",
    ]


def test_imports_for_type_checkers_and_inside_functions_are_arrows(tmp_path: Path) -> None:
    files = write(
        tmp_path,
        {
            "__init__.py": "from .a import one\n",
            "a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .inner import b\n",
            "inner/__init__.py": "",
            "inner/b.py": "def f():\n    import p.inner.c\n",
            "inner/c.py": "from ..a import one\nfrom . import missing\n",
        },
    )
    graph = arrows(files)
    assert graph == {
        "p": {"p.a"},
        "p.a": {"p.inner.b"},
        "p.inner": set(),
        "p.inner.b": {"p.inner.c"},
        "p.inner.c": {"p.a", "p.inner"},
    }
    assert circles(graph) == [["p.a", "p.inner.b", "p.inner.c"]]
    assert way_round(graph, circles(graph)[0]) == ["p.a", "p.inner.b", "p.inner.c", "p.a"]


def test_every_circle_is_found_the_largest_first() -> None:
    graph = {"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"e"}, "e": {"c"}, "f": {"a", "c"}}
    assert circles(graph) == [["c", "d", "e"], ["a", "b"]]

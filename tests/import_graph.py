"""Which module imports which, in the library, its adapters and its contract suite.

``python -m tests.import_graph`` prints the numbers and every circle, with ``--arrows`` every arrow.

It is read from the source: imports for type checkers and imports inside functions are arrows, too. ``from .a import b``
is an arrow to ``a.b`` where that is a module, else to ``a``. Python imports the packages of a module before the module;
that is not an arrow.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]

CORE = "anybroker"


def packages(root: Path = ROOT) -> dict[str, Path]:
    """The folder of every importable package of the repository, by its name."""
    folders = [root / "src", *sorted((root / "adapters").iterdir()), root / "contract_tests"]
    return {
        inside.name: inside
        for folder in folders
        if folder.is_dir()
        for inside in sorted(folder.iterdir())
        if (inside / "__init__.py").is_file()
    }


def modules(package: str, folder: Path) -> dict[str, Path]:
    """The file of every module of a package, by the module's full name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[str, str | None]]:
    """Every import of a module: what it is imported from, in full, and the name that is taken of it, if one is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = module.split(".")
                up = up[: len(up) - node.level + is_package]
                base = ".".join((*up, base) if base else up)
            for alias in node.names:
                yield base, alias.name


def arrows(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """For every module, those of the same collection that it imports."""
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        targets = graph[module] = set()
        for base, name in imported(ast.parse(path.read_bytes()), module, path.name == "__init__.py"):
            target = f"{base}.{name}"
            if name is None or target not in files:
                target = base
            if target in files:
                targets.add(target)
        targets.discard(module)
    return graph


def circles(graph: Mapping[str, Collection[str]]) -> list[list[str]]:
    """The groups of two or more modules in which each can be reached from each, the largest first."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    open_: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        open_.append(module)
        for target in sorted(graph[module]):
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in open_:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            at = open_.index(module)
            if len(open_) - at > 1:
                found.append(sorted(open_[at:]))
            del open_[at:]

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return sorted(found, key=lambda group: (-len(group), group))


def way_round(graph: Mapping[str, Collection[str]], group: Iterable[str]) -> list[str]:
    """The shortest way from the first module of a circle back to it."""
    inside = set(group)
    first = min(inside)
    ways = [[first]]
    seen = set[str]()
    while ways:
        way = ways.pop(0)
        for target in sorted(graph[way[-1]]):
            if target == first:
                return [*way, first]
            if target in inside and target not in seen:
                seen.add(target)
                ways.append([*way, target])
    raise ValueError(f"no way leads from {first} back to it")


def main() -> None:
    """Print the graph of every package, and of all of them together."""
    parser = argparse.ArgumentParser(prog="python -m tests.import_graph", description=main.__doc__)
    parser.add_argument("--arrows", action="store_true", help="print every arrow, too")
    parser.add_argument("--root", type=Path, default=ROOT, help="another checkout")
    arguments = parser.parse_args()
    together: dict[str, Path] = {}
    each = {name: modules(name, folder) for name, folder in packages(arguments.root).items()}
    for files in each.values():
        together |= files
    for name, files in [*each.items(), ("together", together)]:
        graph = arrows(files)
        groups = circles(graph)
        print(f"{name}: {len(graph)} modules, {sum(map(len, graph.values()))} arrows, {len(groups)} circles")
        if files is together:
            continue
        for group in groups:
            print(f"  circle of {len(group)}: {', '.join(group)}")
            print(f"    {' -> '.join(way_round(graph, group))}")
    if arguments.arrows:
        for module, targets in sorted(arrows(together).items()):
            for target in sorted(targets):
                print(f"{module} -> {target}")


if __name__ == "__main__":
    main()

"""Every importable package is in the wheel, and tells type checkers that it is typed."""

from __future__ import annotations

import tomllib

import pytest
from tests.import_graph import ROOT, packages

PACKAGES = packages()


@pytest.mark.parametrize("package", PACKAGES)
def test_it_is_typed(package: str) -> None:
    assert (PACKAGES[package] / "py.typed").is_file()


def test_the_wheel_has_all_of_them() -> None:
    """With all files in their folders: ``.ci/run`` looks into the wheel itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert sorted(wheel["packages"]) == sorted(str(folder.relative_to(ROOT)) for folder in PACKAGES.values())
    assert wheel.keys() == {"packages"}

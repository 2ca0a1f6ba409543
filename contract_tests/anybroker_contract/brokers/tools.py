"""Running other programs to their end: Maven, pip, initdb, debootstrap."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .context import Context
from .errors import Missing
from .places import once
from .process import Keeper, tail

__all__ = ["plain_environ", "python_environment", "run_tool", "which"]

LOOK_SECONDS = 0.05

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def which(program: str, *folders: str) -> str | None:
    """The program's path, from PATH and then from the given folders (Debian keeps servers out of PATH)."""
    if found := shutil.which(program):
        return found
    return shutil.which(program, path=":".join(folders)) if folders else None


def plain_environ(context: Context, folder: Path, **more: str) -> dict[str, str]:
    """The environment of a server: its own home, no proxy, no locale, nothing of the user's."""
    return {
        "PATH": context.environ.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        **more,
    }


def run_tool(
    context: Context,
    argv: Sequence[str],
    *,
    what: str,
    remedy: str = "",
    seconds: float = 600.0,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a program to its end; it ends with us, whatever happens to us.

    Raises ``Missing`` (with the line that says why) when it fails or takes longer than ``seconds``.
    """
    with Keeper("anybroker-tool-") as keeper:
        keeper.run(argv, env=env if env is not None else context.environ, cwd=cwd)
        deadline = time.monotonic() + seconds
        while keeper.running():
            context.check()
            if time.monotonic() > deadline:
                raise Missing(f"{what} took more than {seconds:.0f} s", remedy)
            time.sleep(LOOK_SECONDS)
        if keeper.exit_code() != 0:
            raise Missing(f"{what} failed: {_complaint(tail(keeper.log, 200))}", remedy)


def _complaint(log: str) -> str:
    """The line of a log that says what went wrong: the first that says ERROR, else the last."""
    lines = [line for line in map(str.strip, COLOURS.sub("", log).splitlines()) if line]
    return next((line for line in lines if "ERROR" in line), lines[-1])


def python_environment(context: Context, requirement: str) -> Path:
    """The folder of a separate virtual environment, in the cache, that has one pinned requirement.

    Its own, because ministack pins a botocore that the tests must not get.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"

    def build(folder: Path) -> None:
        context.say(f"installing {requirement} into the cache")
        remedy = f"pip install {requirement}"
        run_tool(context, [sys.executable, "-m", "venv", str(folder)], what="python -m venv", remedy=remedy)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", requirement]
        run_tool(context, pip, what=f"pip install {requirement}", remedy=remedy)

    return once(f"{requirement.replace('==', '-')}-py{version}", context, build)

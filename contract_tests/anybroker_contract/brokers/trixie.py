"""A small Debian 13 in the cache, for servers that this machine has only in an older version."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from .context import Context
from .errors import Missing
from .install import debian_program
from .places import once
from .tools import run_tool

__all__ = ["enter", "trixie_root"]

SUITE = "trixie"

# Its own mount namespace: what is mounted here disappears with the last process in it, however that ends.
ENTER = """
set -e
root=$1 folder=$2
shift 2
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount --bind "$folder" "$root/mnt"
exec chroot "$root" "$@"
"""


def trixie_root(context: Context, packages: Sequence[str], lacking: str) -> Path:
    """The folder of a Debian 13 with these packages, made once (about a minute and 350 MB).

    Raises ``Missing``, beginning with ``lacking``, when that is not possible here.
    """
    remedy = "apt-get install debootstrap, as root (or set ANYBROKER_TEST_INSTALL=1)"
    if platform.system() != "Linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        raise Missing(f"{lacking}; Debian 13's needs root on Linux, and unshare", remedy)

    def build(folder: Path) -> None:
        debootstrap = debian_program(context, "debootstrap", "debootstrap", "/usr/sbin")
        context.say(f"making a Debian 13 with {', '.join(packages)} in the cache (once, a minute or more)")
        options = ["--variant=minbase", f"--include={','.join(packages)}"]
        run_tool(
            context,
            # It mounts below the folder while it works: in its own namespace, so that nothing stays mounted.
            ["unshare", "--mount", "--", debootstrap, *options, SUITE, str(folder)],
            what="debootstrap",
            remedy=remedy,
            seconds=1200.0,
        )
        (folder / "etc" / "hosts").write_text("127.0.0.1 localhost\n")

    return once(f"{SUITE}-{'-'.join(packages)}", context, build)


def enter(root: Path, folder: Path, argv: Sequence[str]) -> list[str]:
    """The command that runs ``argv`` below that root, where ``folder`` is ``/mnt``; it keeps its environment."""
    return ["unshare", "--mount", "--", "/bin/sh", "-c", ENTER, "enter", str(root), str(folder), *argv]

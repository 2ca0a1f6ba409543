"""Debian's packages, installed only where somebody allowed it: ``ANYBROKER_TEST_INSTALL=1``, as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading

from .context import Context
from .errors import Missing
from .places import locked
from .tools import which

__all__ = ["ALLOW", "debian_program", "install"]

ALLOW = "ANYBROKER_TEST_INSTALL"

_updated = threading.Event()

# A shell script, because what it changes must be put back also when the tests are killed meanwhile: nobody interrupts
# it (it has its own session), and it restores on its way out. 101 is "action forbidden by policy".
SCRIPT = """
set -e
policy=/usr/sbin/policy-rc.d
restore() { rm -f "$policy"; if [ -e "$policy.anybroker" ]; then mv "$policy.anybroker" "$policy"; fi; }
trap restore EXIT
if [ -e "$policy" ] && [ ! -e "$policy.anybroker" ]; then mv "$policy" "$policy.anybroker"; fi
printf '#!/bin/sh\\nexit 101\\n' >"$policy"
chmod 755 "$policy"
if [ -n "$UPDATE" ]; then apt-get -q update; fi
apt-get -q -y -o DPkg::Lock::Timeout=300 --no-install-recommends install "$@"
"""


def debian_program(context: Context, program: str, package: str, *places: str) -> str:
    """The path of a program, from PATH or the places where Debian puts it; installs its package where allowed.

    Raises ``Missing``, which names the command that gets it.
    """
    if found := which(program, *places):
        return found
    install(context, [package], f"no {program} on this machine")
    if found := which(program, *places):
        return found
    raise Missing(f"Debian's {package} has no {program} where it was looked for", f"apt-get install {package}")


def install(context: Context, packages: list[str], lacking: str) -> None:
    """Install packages without starting their services; raises ``Missing`` when not allowed or not possible.

    ``lacking`` is the reason that is given then. Not interrupted by anything once it runs.
    """
    remedy = f"apt-get install {' '.join(packages)} (or set {ALLOW}=1)"
    if context.environ.get(ALLOW) != "1":
        raise Missing(lacking, remedy)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(f"{lacking}, and {ALLOW}=1 needs root and apt-get", remedy)
    with locked("apt", context):
        context.say(f"installing {', '.join(packages)} with apt-get")
        with tempfile.TemporaryFile() as log:
            done = subprocess.run(
                ["/bin/sh", "-c", SCRIPT, "install", *packages],
                env={
                    **context.environ,
                    "DEBIAN_FRONTEND": "noninteractive",
                    "UPDATE": "" if _updated.is_set() else "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C here must not leave dpkg half-way
                check=False,
            )
            log.seek(0)
            lines = log.read().decode(errors="replace").splitlines()
    if done.returncode != 0:
        raise Missing(f"{lacking}, and apt-get failed: {lines[-1] if lines else done.returncode}", remedy)
    _updated.set()

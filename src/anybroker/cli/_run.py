"""``anybroker run``."""

from __future__ import annotations

import argparse
import sys
import traceback
from importlib import import_module
from pathlib import Path

from ..bus import Bus
from ..config.settings import nearest
from ..errors import ConfigError
from ..printable import logger
from ._output import log_to_stderr

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Run a Bus until SIGTERM or Ctrl-C."""
    log_to_stderr(options.log_level.upper(), "%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    bus = _find(options.target)
    names = ", ".join(f"{subscription.topic}/{subscription.group}" for subscription in bus.subscriptions)
    logger("anybroker").info("running %s: %s", options.target, names or "no subscription")
    bus.run()
    return 0


def _find(target: str) -> Bus:
    """The Bus that ``module:name`` names. Raises ConfigError."""
    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name):
        raise ConfigError("MODULE:BUS", f"{target!r} names no Bus", "Write: anybroker run shop.service:bus")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (module_name == exc.name or module_name.startswith(f"{exc.name}.")):
            raise _import_failed(module_name, exc) from exc
        raise ConfigError(
            "MODULE:BUS", f"there is no module {exc.name!r}", "Name it as in 'import', and start in its folder."
        ) from exc
    except ConfigError:
        raise
    except Exception as exc:
        raise _import_failed(module_name, exc) from exc
    if not hasattr(module, name):
        buses = [key for key, value in vars(module).items() if isinstance(value, Bus)]
        raise ConfigError("MODULE:BUS", f"{module_name} has no {name!r}", nearest(name, buses))
    found = getattr(module, name)
    if not isinstance(found, Bus) and callable(found):
        found = found()
    if not isinstance(found, Bus):
        raise ConfigError(
            "MODULE:BUS",
            f"{target} is a {type(found).__name__}",
            "Name a Bus, or a function without arguments that returns one.",
        )
    return found


def _import_failed(module: str, exc: Exception) -> ConfigError:
    last = traceback.extract_tb(exc.__traceback__)[-1]
    where = f"{last.filename}, line {last.lineno}"
    return ConfigError(
        "MODULE:BUS", f"importing {module} failed: {type(exc).__name__}: {exc} ({where})", "--traceback shows more."
    )

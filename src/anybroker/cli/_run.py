"""``anybroker run``."""

from __future__ import annotations

import argparse
import sys
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType

from ..bus import Bus
from ..config.settings import nearest
from ..errors import ConfigError
from ..observe import EventContext, JsonFormatter
from ..printable import logger
from ._health import serve_health
from ._output import CONSOLE, log_to_stderr

__all__ = ["find_bus", "load", "run"]

_log = logger("anybroker.bus")


def run(options: argparse.Namespace) -> int:
    """Run a Bus until SIGTERM or Ctrl-C."""
    form = JsonFormatter() if options.log_format == "json" else CONSOLE
    log_to_stderr(options.log_level.upper(), form, force=True, filters=[EventContext()])
    bus = find_bus(options.target)
    serve_health(bus, options.health)
    names = ", ".join(f"{subscription.topic}/{subscription.group}" for subscription in bus.subscriptions)
    _log.info("running %s: %s", options.target, names or "no subscription")
    bus.run()
    return 0


def load(target: str, what: str, kind: str, example: str) -> tuple[ModuleType, str]:
    """The module of ``module:name``, imported, and the name. Raises ConfigError."""
    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name):
        raise ConfigError(what, f"{target!r} names no {kind}", f"Write module:name, such as {example}.")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return import_module(module_name), name
    except ModuleNotFoundError as exc:
        if exc.name is None or not (module_name == exc.name or module_name.startswith(f"{exc.name}.")):
            raise _import_failed(what, module_name, exc) from exc
        raise ConfigError(
            what, f"there is no module {exc.name!r}", "Name it as in 'import', and start in its folder."
        ) from exc
    except ConfigError:
        raise
    except Exception as exc:
        raise _import_failed(what, module_name, exc) from exc


def find_bus(target: str) -> Bus:
    """The Bus that ``module:name`` names. Raises ConfigError."""
    module, name = load(target, "MODULE:BUS", "Bus", "shop.service:bus")
    if not hasattr(module, name):
        buses = [key for key, value in vars(module).items() if isinstance(value, Bus)]
        raise ConfigError("MODULE:BUS", f"{module.__name__} has no {name!r}", nearest(name, buses))
    target_bus = getattr(module, name)
    if not isinstance(target_bus, Bus) and callable(target_bus):
        target_bus = target_bus()
    if not isinstance(target_bus, Bus):
        raise ConfigError(
            "MODULE:BUS",
            f"{target} is a {type(target_bus).__name__}",
            "Name a Bus, or a function without arguments that returns one.",
        )
    return target_bus


def _import_failed(what: str, module: str, exc: Exception) -> ConfigError:
    last = traceback.extract_tb(exc.__traceback__)[-1]
    where = f"{last.filename}, line {last.lineno}"
    return ConfigError(
        what, f"importing {module} failed: {type(exc).__name__}: {exc} ({where})", "--traceback shows more."
    )

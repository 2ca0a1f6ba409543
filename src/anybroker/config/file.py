"""The toml file: which one is read, and who may have written it.

The working folder may hold a file that another user has put there. Its topics only change how events are handled. Which
server gets the events, what TLS trusts and which files are used matters more. Settings of that kind, marked with
:data:`anybroker.adapter.SECURITY`, are refused if another user may have written the file. They are also refused if the
file was only found in the working folder and the URL comes from elsewhere: such a file does not change what that URL
means.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from pathlib import Path
from tomllib import TOMLDecodeError, load
from typing import Any

from pydantic import BaseModel
from pydantic_settings import BaseSettings, InitSettingsSource

from ..adapter import SECURITY
from ..errors import ConfigError
from ..kit.file_access import other_writers
from ..printable import logger

__all__ = ["FOUND", "ConfigFile", "FileSource", "find_file", "security_settings"]

_log = logger("anybroker.bus")

_NAME = "anybroker.toml"
_VARIABLE = "ANYBROKER_CONFIG"


def security_settings(model: type[BaseModel]) -> frozenset[str]:
    """The fields of a model that are marked as security settings."""
    fields = model.model_fields.items()
    return frozenset(name for name, field in fields if field.json_schema_extra == SECURITY)


class ConfigFile:
    """A toml file that was read."""

    def __init__(self, path: Path, values: dict[str, Any], named: bool, problem: str | None) -> None:
        self.path = path
        self.values: Mapping[str, Any] = values
        self._named = named
        self._problem = problem
        """Why another user may have written it; None if nobody else can."""
        self._elsewhere: Mapping[str, Any] = {}

    def merged(self, values: Mapping[str, Any], elsewhere: Mapping[str, Any]) -> None:
        """Remember the file's settings, and those from elsewhere that take precedence."""
        self.values, self._elsewhere = values, elsewhere

    def check(self, marked: Collection[str], *table: str, over: Collection[str] = ()) -> None:
        """Raise ConfigError if a marked setting in a table of the file would be used, and the file may not set it.
        ``over``: the options of the URL's query, which take precedence over the file."""
        why, remedy = self._objection()
        if why is None:
            return
        mine, others = _table(self.values, table), _table(self._elsewhere, table)
        for name in sorted(marked):
            if name in mine and name not in others and name not in over:
                variable = "__".join(("ANYBROKER", *table, name)).upper().replace("ANYBROKER__", "ANYBROKER_", 1)
                raise ConfigError(
                    ".".join((*table, name)),
                    f"is set in {self.path}, which {why}",
                    f"{remedy}, or set {variable} instead.",
                )

    def _objection(self) -> tuple[str | None, str]:
        """Why security settings are refused, and the remedy."""
        if self._problem is not None:
            return self._problem, "Make it yours, and writable by you alone (chown, chmod go-w)"
        url = self._elsewhere.get("url")
        if self._named or url is None or url == self.values.get("url"):
            return None, ""
        return (
            "was only found in the working folder, and the broker's URL comes from elsewhere",
            f"If you want it: name the file with {_VARIABLE}",
        )


def _table(values: Mapping[str, Any], path: Collection[str]) -> Mapping[str, Any]:
    for name in path:
        value = values.get(name)
        values = value if isinstance(value, Mapping) else {}
    return values


def find_file() -> ConfigFile | None:
    """The file that ``ANYBROKER_CONFIG`` names, or ``anybroker.toml`` in the working folder if it exists. Raises
    ConfigError for a named file that does not exist, or a file that cannot be read."""
    name = os.environ.get(_VARIABLE)
    path = Path(name or _NAME)
    if not path.is_file():
        if name:
            raise ConfigError(_VARIABLE, f"there is no file {name!r}", "Name an existing toml file.")
        return None
    try:
        problem = other_writers(os.lstat(path))  # for a symbolic link: who made it
        with path.open("rb") as file:
            problem = other_writers(os.fstat(file.fileno())) or problem
            values = load(file)
    except (TOMLDecodeError, UnicodeDecodeError, RecursionError, OSError) as exc:
        raise ConfigError(str(path), f"cannot be read: {exc}", "Fix the file, or name another one.") from exc
    path = path.absolute()
    _log.info("settings are read from %s", path)
    return ConfigFile(path, values, bool(name), problem)


FOUND: ContextVar[ConfigFile | None] = ContextVar("anybroker config file")
"""The file of the settings that were loaded last in this context."""


class FileSource(InitSettingsSource):
    """The file among the sources of ``BusSettings``."""

    def __init__(self, settings_cls: type[BaseSettings], file: ConfigFile) -> None:
        super().__init__(settings_cls, dict(file.values))
        self._file = file

    def __call__(self) -> dict[str, Any]:
        """The file's settings by field name. Arguments and environment, which take precedence, are known by now."""
        values = super().__call__()
        self._file.merged(values, self.current_state)
        return values

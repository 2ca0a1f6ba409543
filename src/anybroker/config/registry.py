"""Finding an adapter by the scheme of a URL, in the entry-point group ``anybroker.adapters``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..adapter import Adapter, AdapterContext, AdapterSettings, BrokerUrl
from ..errors import ConfigError
from .settings import BusSettings, nearest, validate

__all__ = ["adapter_class", "make_adapter", "schemes"]

GROUP = "anybroker.adapters"


def schemes() -> dict[str, EntryPoint]:
    """All installed adapters by URL scheme."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def adapter_class(scheme: str) -> Any:
    """The adapter's class. Raises ConfigError for an unknown scheme, or for a client library that is not installed."""
    known = schemes()
    entry = known.get(scheme)
    if entry is None:
        raise ConfigError("url", f"no adapter for {scheme!r}://", nearest(scheme, known))
    try:
        return entry.load()
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing == entry.module.partition(".")[0]:
            raise
        raise ConfigError(
            "url",
            f"{scheme}:// needs the package {missing!r}, which is not installed",
            f"pip install '{_extra(entry)}'",
        ) from exc


def _extra(entry: EntryPoint) -> str:
    """What to install: the extra named like the adapter's package (``anybroker_x`` has the extra ``x``)."""
    package = entry.module.partition(".")[0]
    name = entry.dist.name if entry.dist is not None else package
    prefix = f"{name}_"
    return f"{name}[{package.removeprefix(prefix)}]" if package.startswith(prefix) else name


def make_adapter(url: BrokerUrl, configured: BusSettings | None, context: AdapterContext) -> Adapter:
    """The adapter of the URL with its settings: the URL's query over the configuration's table of the scheme. Raises
    ConfigError."""
    chosen = adapter_class(url.scheme)
    options: Mapping[str, Any] = {}
    if configured is not None:
        configured.check_file(url.scheme, chosen.Settings, url.options)
        options = configured.adapters.get(url.scheme, {})
    settings: AdapterSettings = validate(chosen.Settings, {**options, **url.options}, f"{url.scheme}")
    adapter: Adapter = chosen(url, settings, context)
    return adapter

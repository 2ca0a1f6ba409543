"""Making the adapter of a Bus: found by the scheme of its URL, in the entry-point group ``anybroker.adapters``."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Mapping
from hashlib import blake2b
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

from pydantic import SecretStr

from ..adapter import Adapter, AdapterContext, AdapterSettings, BrokerUrl
from ..errors import ConfigError
from .settings import DEFAULT_URL, BusSettings, nearest, parse_url, validate

__all__ = ["AdapterFactory", "adapter_class", "load_entry", "make_adapter", "make_adapter_of", "schemes"]

GROUP = "anybroker.adapters"


class AdapterFactory(Protocol):
    """What a Bus accepts instead of a URL: an object that makes the adapter, such as a MemoryBroker."""

    def make_adapter(self, context: AdapterContext) -> Adapter:
        """The adapter, not connected."""
        ...


def check_factory(given: AdapterFactory) -> AdapterFactory:
    """ConfigError for what makes no adapter."""
    if isinstance(given, type) or not hasattr(given, "make_adapter"):
        raise ConfigError(
            "url", f"{_name_of(given)} is neither a URL nor makes an adapter", "Give a URL or a MemoryBroker()."
        )
    return given


def _name_of(given: object) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__


def schemes() -> dict[str, EntryPoint]:
    """All installed adapters by URL scheme."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def adapter_class(scheme: str) -> Any:
    """The adapter's class. Raises ConfigError for an unknown scheme, or for a client library that is not installed."""
    installed = schemes()
    entry = installed.get(scheme)
    if entry is None:
        raise ConfigError("url", f"no adapter for {scheme!r}://", nearest(scheme, installed))
    return load_entry(entry, "url", f"{scheme}://")


def load_entry(entry: EntryPoint, setting: str, what: str) -> Any:
    """What an entry point names. Raises ConfigError for a library that it needs and that is not installed."""
    try:
        return entry.load()
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing == entry.module.partition(".")[0]:
            raise
        raise ConfigError(
            setting,
            f"{what} needs the package {missing!r}, which is not installed",
            f"pip install '{_extra(entry)}'",
        ) from exc


def _extra(entry: EntryPoint) -> str:
    """What to install: the extra with the name of the adapter's package (``anybroker_x`` has the extra ``x``)."""
    package = entry.module.partition(".")[0]
    name = entry.dist.name if entry.dist is not None else package
    prefix = f"{name}_"
    return f"{name}[{package.removeprefix(prefix)}]" if package.startswith(prefix) else name


def make_adapter(url: BrokerUrl, configured: BusSettings | None, context: AdapterContext) -> Adapter:
    """The adapter of the URL with its settings, from the URL's query, then from the configuration's table of the
    scheme. Raises ConfigError."""
    chosen = adapter_class(url.scheme)
    options: Mapping[str, Any] = {}
    if configured is not None:
        configured.check_file(url.scheme, chosen.Settings, url.options)
        options = configured.adapters.get(url.scheme, {})
    settings: AdapterSettings = validate(chosen.Settings, {**options, **url.options}, f"{url.scheme}")
    adapter: Adapter = chosen(url, settings, context)
    return adapter


def make_adapter_of(settings: BusSettings, factory: AdapterFactory | None, source: str) -> Adapter:
    """The adapter of a Bus, not connected: from the factory or the URL; without either the embedded broker's, with a
    warning."""
    context = AdapterContext(
        service=source,
        instance=f"{source}-{os.getpid()}-{secrets.token_hex(4)}",
        lease=settings.lease,
        publish_deadline=settings.publish_deadline,
        connect_timeout=settings.connect_timeout,
        drain=settings.drain,
        deduplication_key=_hashed(settings.deduplication_key),
    )
    if factory is not None:
        return factory.make_adapter(context)
    url = settings.url
    if url is None:
        url = DEFAULT_URL
        file = Path(parse_url(url).path.lstrip("/")).resolve()
        warnings.warn(
            f"no broker URL: using the embedded broker in the file {file}. "
            "Set ANYBROKER_URL, or 'url' in anybroker.toml",
            UserWarning,
            stacklevel=4,
        )
    return make_adapter(parse_url(url), settings, context)


def _hashed(secret: SecretStr | None) -> bytes:
    """A key of a length that every keyed hash accepts; empty without a secret."""
    return b"" if secret is None else blake2b(secret.get_secret_value().encode(), digest_size=32).digest()

"""Reading the URL of a store that is a package of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel

from ..adapter import BrokerUrl
from ..config.settings import parse_url, validate
from ..errors import ConfigError

__all__ = ["read_store_url"]

_Model = TypeVar("_Model", bound=BaseModel)


def read_store_url(
    url: str | BrokerUrl, settings: type[_Model], given: Mapping[str, object] | None = None
) -> tuple[BrokerUrl, _Model]:
    """Take a store's URL apart, with its options as settings. What is ``given``, unless it is None, wins over the URL.

    Raises a ConfigError that never shows a secret: for a text that is not a URL, and for an option that does not exist
    (with the nearest one) or has a wrong value."""
    if not isinstance(url, BrokerUrl):
        try:
            url = parse_url(url)
        except ConfigError as exc:
            raise ConfigError("idempotency", exc.problem, exc.remedy) from None
    arguments = {name: value for name, value in (given or {}).items() if value is not None}
    return url, validate(settings, {**url.options, **arguments}, f"idempotency {url.scheme}")

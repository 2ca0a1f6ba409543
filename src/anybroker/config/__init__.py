"""Settings and where they come from (arguments, the environment, a toml file, the URL), and the adapter of a scheme."""

from __future__ import annotations

from .settings import DEFAULT_URL, BusSettings, TopicSettings, load_settings, nearest, parse_url, validate

__all__ = ["DEFAULT_URL", "BusSettings", "TopicSettings", "load_settings", "nearest", "parse_url", "validate"]

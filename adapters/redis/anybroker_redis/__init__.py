"""The idempotency store in Redis. See the README beside this package."""

from __future__ import annotations

from .settings import RedisSettings
from .store import RedisStore

__all__ = ["RedisSettings", "RedisStore"]

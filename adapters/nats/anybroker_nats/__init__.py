"""NATS JetStream for anybroker. See the README beside this package."""

from __future__ import annotations

from .adapter import NatsAdapter

__all__ = ["NatsAdapter"]

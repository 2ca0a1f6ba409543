"""Replaying a bounded part of what a topic keeps: ``await bus.replay(topic, …)``."""

from __future__ import annotations

from .outcome import Replayed, ReplayFailure, ReplayProgress

__all__ = ["ReplayFailure", "ReplayProgress", "Replayed"]

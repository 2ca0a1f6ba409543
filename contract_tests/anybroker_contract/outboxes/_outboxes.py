"""What the suite of outboxes is run on."""

from __future__ import annotations

from .._subjects import Kind
from .harness import OutboxHarness
from .harnesses import BUILT_IN, PACKAGES

__all__ = ["OUTBOXES"]

OUTBOXES = Kind("outbox", "outboxes", OutboxHarness, BUILT_IN, PACKAGES)

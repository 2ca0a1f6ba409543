"""The event: see :mod:`anybroker.cloudevents`."""

from __future__ import annotations

from .cloudevents import ABSENT, Event, declared_key, declared_type, event_type, new_id, trusted_event

__all__ = ["ABSENT", "Event", "declared_key", "declared_type", "event_type", "new_id", "trusted_event"]

"""The event: see :mod:`anybroker.cloudevents.event`."""

from __future__ import annotations

from .cloudevents.event import ABSENT, Event, declared_key, declared_type, event_type, new_id, trusted_event

__all__ = ["ABSENT", "Event", "declared_key", "declared_type", "event_type", "new_id", "trusted_event"]

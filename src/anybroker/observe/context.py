"""Which event a record of a log is about: the same attributes in the library's own records and in the handlers'."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping

from ..delivery import current_delivery
from ..engine.facts import FIELDS, about_delivery

__all__ = ["EventContext", "add_event_context"]


class EventContext(logging.Filter):
    """Gives each record that is logged inside a handler the attributes ``event_id``, ``event_type``, ``source``,
    ``topic``, ``group``, ``attempt``, ``trace_id`` and ``correlation_id`` of the event that is handled.

    Add it to a handler of ``logging``, not to a logger: ``handler.addFilter(EventContext())``. It lets every record
    pass. Attributes that a record has already stay; outside a handler, and in a batch handler, they are ``""``.
    ``correlation_id`` is the event's ``correlationid``, or its id where it has none: what the handler publishes has the
    same.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let it pass."""
        delivery = current_delivery.get()
        mine = dict.fromkeys(FIELDS, "") if delivery is None else about_delivery(delivery)
        has = record.__dict__
        for name, value in mine.items():
            has.setdefault(name, value)
        return True


def add_event_context(
    logger: object, name: str, event_dict: MutableMapping[str, object], /
) -> MutableMapping[str, object]:
    """The same as a processor of structlog. What is not known is left out."""
    delivery = current_delivery.get()
    if delivery is not None:
        for field, value in about_delivery(delivery).items():
            if value != "":
                event_dict.setdefault(field, value)
    return event_dict

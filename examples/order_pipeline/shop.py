"""What the services share: the topics, and how each makes its Bus."""

from __future__ import annotations

from typing import Any

from anybroker import Bus, Event, TopicSettings
from anybroker.bus import AdapterFactory

from .faults import clumsy_customers
from .history import journal
from .leash import end_with_the_supervisor
from .seen import show
from .settings import demo

__all__ = ["ORDERS", "OUTCOMES", "PAYMENTS", "STOCK", "TOPICS", "about", "service"]

ORDERS, STOCK, PAYMENTS, OUTCOMES = (f"{demo().run}.{name}" for name in ("orders", "stock", "payments", "outcomes"))

TOPICS = {
    # A group that is declared gets every event from then on, so it does not matter which service starts first.
    ORDERS: TopicSettings(groups=("inventory",), retention=86_400),
    STOCK: TopicSettings(groups=("payment",), retention=86_400),
    PAYMENTS: TopicSettings(groups=("inventory", "shipping"), retention=86_400),
    OUTCOMES: TopicSettings(groups=("storefront",), retention=86_400),
}

shared: AdapterFactory | None = None
"""The broker of services that all run in one process; None: what the environment says."""


def service(name: str) -> Bus:
    """The Bus of one service. It does not know its broker: ``ANYBROKER_URL`` does."""
    bus = Bus(shared, source=name, topics=TOPICS, **_supervision())
    if demo().faults:
        show(bus, name, demo().folder)
    return bus


def about(event: Event) -> str:
    """What a placed order is about, in either event if the customer clicked twice."""
    return event.subject or event.id


def _supervision() -> dict[str, Any]:
    """In a run of the whole shop two middlewares watch and disturb the services, which do not know about it."""
    if not demo().faults:
        return {}
    if shared is None:
        end_with_the_supervisor()
    return {"middleware": [journal], "publish_middleware": [clumsy_customers]}

"""What the services share: the topics, and how each makes its Bus."""

from __future__ import annotations

from typing import Any

from anybroker import Bus, TopicSettings
from anybroker.bus import AdapterFactory

from .faults import lost_confirmation
from .history import journal
from .settings import demo

__all__ = ["ORDERS", "OUTCOMES", "PAYMENTS", "STOCK", "TOPICS", "service"]

ORDERS, STOCK, PAYMENTS, OUTCOMES = (f"{demo().run}.{name}" for name in ("orders", "stock", "payments", "outcomes"))

TOPICS = {
    # Groups that are declared get every event from then on, so it does not matter which service starts first.
    ORDERS: TopicSettings(groups=("inventory",)),
    STOCK: TopicSettings(groups=("payment",)),
    PAYMENTS: TopicSettings(groups=("inventory", "shipping")),
    OUTCOMES: TopicSettings(groups=("storefront",)),
}

shared: AdapterFactory | None = None
"""The broker that all services use which run in one process; None: what the environment says."""


def service(name: str) -> Bus:
    """The Bus of one service. Which broker it talks to is none of its business: ``ANYBROKER_URL`` says it."""
    return Bus(shared, source=name, topics=TOPICS, **_witnesses())


def _witnesses() -> dict[str, Any]:
    """In a supervised run, two middlewares watch (and disturb) every service."""
    if not demo().faults:
        return {}
    return {"middleware": [journal], "publish_middleware": [lost_confirmation]}

"""Behaviour around handlers and around publishing, one a file.

Decorators attach behaviour and return the function itself. The built-ins have fixed places in the chain, outermost
first: ``trace``, ``dead_letter``, ``retry_budget``, ``deadline``, ``retry``, ``concurrency``, ``rate_limit``,
``circuit``, ``timeout``, ``idempotent``; stacked in another order they are a ConfigError at the start that shows the
right one. :func:`middleware` makes one of a function; a :class:`Layer` of your own has what the built-ins have: a kind,
a place, and what the :class:`Chain` says.
"""

from ..engine.starting import cancelled_from_outside
from .circuit import Circuit, circuit
from .concurrency import concurrency
from .dead_letter import dead_letter
from .deadline import deadline
from .function import AnyMiddleware, middleware
from .idempotent import idempotent
from .layer import Chain, Handler, Layer, Middleware
from .outgoing import Outgoing, PublishHandler, PublishMiddleware, publish_middleware
from .rate_limit import rate_limit
from .retry import Uncounted, retry
from .retry_budget import retry_budget
from .timeout import timeout
from .trace import trace

__all__ = [
    "AnyMiddleware",
    "Chain",
    "Circuit",
    "Handler",
    "Layer",
    "Middleware",
    "Outgoing",
    "PublishHandler",
    "PublishMiddleware",
    "Uncounted",
    "cancelled_from_outside",
    "circuit",
    "concurrency",
    "dead_letter",
    "deadline",
    "idempotent",
    "middleware",
    "publish_middleware",
    "rate_limit",
    "retry",
    "retry_budget",
    "timeout",
    "trace",
]

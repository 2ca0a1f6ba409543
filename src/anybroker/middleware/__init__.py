"""Behaviour around handlers and around publishing, one a file.

Decorators attach behaviour and return the function itself. The built-ins have fixed places in the chain, outermost
first: ``trace``, ``dead_letter``, ``retry``, ``timeout``, ``idempotent``; stacked in another order they are a
ConfigError at the start that shows the right one.
"""

from ._base import Handler, Middleware
from .dead_letter import dead_letter
from .function import middleware
from .idempotent import idempotent
from .outgoing import Outgoing, PublishHandler, PublishMiddleware, publish_middleware
from .retry import retry
from .timeout import timeout
from .trace import trace

__all__ = [
    "Handler",
    "Middleware",
    "Outgoing",
    "PublishHandler",
    "PublishMiddleware",
    "dead_letter",
    "idempotent",
    "middleware",
    "publish_middleware",
    "retry",
    "timeout",
    "trace",
]

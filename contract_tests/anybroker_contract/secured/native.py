"""Starting a secured broker as processes of this machine. Docker is not used for these."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..brokers.context import Context
from ..brokers.errors import Missing
from ..brokers.native import Install, NativeBroker
from ..harness import BrokerUnavailable

__all__ = ["launch"]


def launch(name: str, find: Callable[[Context], tuple[Install, str]]) -> NativeBroker:
    """Start it and return when it answers. Raises ``BrokerUnavailable`` where it is not on this machine,
    ``BrokerFailed`` where it does not start."""
    context = Context(name, environ=dict(os.environ))
    try:
        install, detail = find(context)
    except Missing as missing:
        raise BrokerUnavailable(missing.reason, missing.remedy) from missing
    return NativeBroker.launch(context, install, f"{detail}, native")

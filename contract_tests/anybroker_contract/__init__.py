"""The contract suite of anybroker: one suite, every adapter, no broker named in a test.

    pytest -p anybroker_contract.plugin --pyargs anybroker_contract --adapter acme.testing:AcmeBroker

What the author of an adapter needs is :class:`BrokerHarness`; what the author of a test needs, the marks
:func:`requires`, :func:`refuses` and :func:`needs_harness`, and the fixture ``kit``.
"""

from importlib.util import find_spec

if find_spec("pytest") is None:
    raise ModuleNotFoundError(
        "the contract suite and its brokers need: pip install 'anybroker[contract]'", name="pytest"
    )

from .harness import BrokerHarness, BrokerUnavailable
from .marks import needs_harness, refuses, requires, tier

__all__ = ["BrokerHarness", "BrokerUnavailable", "needs_harness", "refuses", "requires", "tier"]

"""The contract suite of idempotency stores: one suite, every store, no store named in a test.

    pytest -p anybroker_contract.stores.plugin --pyargs anybroker_contract.stores --store acme.testing:AcmeStores

What the author of a store needs is :class:`StoreHarness`; what the author of a test needs, the marks :func:`requires`
and :func:`needs_harness`, and the fixture ``kit``.
"""

from .harness import BrokerUnavailable, StoreHarness
from .marks import needs_harness, requires, tier

__all__ = ["BrokerUnavailable", "StoreHarness", "needs_harness", "requires", "tier"]

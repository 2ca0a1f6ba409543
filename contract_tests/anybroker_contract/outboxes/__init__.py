"""The contract suite of outboxes: one suite, every database, no database named in a test.

    pytest -p anybroker_contract.outboxes.plugin --pyargs anybroker_contract.outboxes --outbox acme.testing:AcmeOutboxes

What the author of an :class:`~anybroker.outbox.OutboxTable` and its sink needs is :class:`OutboxHarness`; what the
author of a test needs, the marks :func:`requires` and :func:`needs_harness`, and the fixture ``kit``.
"""

from .harness import BrokerUnavailable, Outbox, OutboxHarness, Writer
from .marks import needs_harness, requires, tier

__all__ = ["BrokerUnavailable", "Outbox", "OutboxHarness", "Writer", "needs_harness", "requires", "tier"]

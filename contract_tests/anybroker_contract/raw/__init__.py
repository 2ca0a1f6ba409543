"""Programs that do not use anybroker, for the tests of interoperability: one a broker, with the broker's own client.

What such a program sends was made by the Python SDK for CloudEvents, or is built here from the words of the
specification and of its bindings.
"""

from __future__ import annotations

from .api import Mode, Quirk, RawClient, RawMessage

__all__ = ["Mode", "Quirk", "RawClient", "RawMessage"]

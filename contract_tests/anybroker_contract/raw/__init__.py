"""Programs that do not use anybroker, for the tests of interoperability: one for each broker, with its own client.

What such a program sends was made by the Python SDK for CloudEvents, or is built here from the text of the
specification and its bindings.
"""

from __future__ import annotations

from .api import Mode, Quirk, RawClient, RawMessage

__all__ = ["Mode", "Quirk", "RawClient", "RawMessage"]

"""What the suite of stores is run on."""

from __future__ import annotations

from .._subjects import Kind
from .harness import StoreHarness
from .harnesses import BUILT_IN, PACKAGES

__all__ = ["STORES"]

STORES = Kind("store", "stores", StoreHarness, BUILT_IN, PACKAGES)

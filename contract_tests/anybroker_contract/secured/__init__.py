"""Brokers with TLS and credentials, as processes of this machine, for the security tests."""

from .api import Refused, Secured

__all__ = ["Refused", "Secured"]

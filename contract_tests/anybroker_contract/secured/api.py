"""For the security tests: a broker with TLS and credentials, and every right and wrong way to connect to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["Refused", "Secured"]


@dataclass(frozen=True)
class Refused:
    """A URL with one thing wrong in it."""

    url: str
    setting: str
    """What the error's ``setting`` must name, so that a person looks in the right place."""


@dataclass(frozen=True)
class Secured:
    """A broker started for the security tests, shared by those of one process."""

    good: Mapping[str, str]
    """URLs that must work, by what lets them in: ``SCRAM-SHA-256``, ``token``, ``client certificate``."""
    wrong: Mapping[str, Refused]
    """URLs that must be refused, by what is wrong. If the broker can: ``password``, ``user``, ``authority`` (the
    client trusts another one), ``host name`` (the certificate is for another one), ``expired``, ``client
    certificate``."""
    without_tls: str
    """The right credentials at a port that speaks TLS, with a URL without TLS."""
    secrets: tuple[str, ...]
    """What must not be shown anywhere: the distinctive part of each password, token and key, wrong ones too. Without
    characters that a URL encodes, so that it is found in either form."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What must be set in the environment for these URLs."""
    stop: Callable[[], None] = lambda: None
    """End it; called once."""

"""How a broker's public container image is run; no Docker in here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Image", "Settings"]


@dataclass(frozen=True)
class Settings:
    """What one container is started with."""

    environ: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] = ()
    """Empty: the image's own."""


@dataclass(frozen=True)
class Image:
    """One broker's image, with the address fixed before it starts: ``host`` and ``port`` as clients see them."""

    tag: str
    url: Callable[[str, int], str]
    ready: Callable[[str, int], object]
    """One attempt to be answered; raises ``OSError`` or ``NotYet``."""
    settings: Callable[[str, int], Settings]
    inside: int | None
    """The port inside the container; ``None``: the same as outside."""
    survives_kill: bool = True

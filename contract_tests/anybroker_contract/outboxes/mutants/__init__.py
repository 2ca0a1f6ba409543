"""Deliberately broken outboxes and relays, and the command that shows which tests find them."""

from .breaking import Flaw
from .catalogue import MUTANTS, Mutant, flaw_of

__all__ = ["MUTANTS", "Flaw", "Mutant", "flaw_of"]

"""Deliberately broken stores, and the command that shows which tests find them."""

from .breaking import Flaw, broken
from .catalogue import MUTANTS, Mutant, break_store

__all__ = ["MUTANTS", "Flaw", "Mutant", "break_store", "broken"]

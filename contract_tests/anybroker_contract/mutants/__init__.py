"""Deliberately broken adapters, and the run that shows that the suite finds each of them.

python -m anybroker_contract.mutants --adapter memory
"""

from .catalogue import MUTANTS, Mutant, break_broker

__all__ = ["MUTANTS", "Mutant", "break_broker"]

"""Messages of an attacker who may write to a topic, and what happens to them and to the good ones between them.

``python -m anybroker_contract.hostile`` prints the table of ``docs/hostile.md``.
"""

from __future__ import annotations

from .attack import Attack, Outcome
from .messages import hostile_messages

__all__ = ["Attack", "Outcome", "hostile_messages"]

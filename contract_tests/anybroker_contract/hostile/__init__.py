"""Messages of somebody who may write to a topic and means harm, and what becomes of them and of the good ones between.

``python -m anybroker_contract.hostile`` prints the table of ``docs/hostile.md``.
"""

from __future__ import annotations

from .attack import Attack, Outcome
from .messages import hostile_messages

__all__ = ["Attack", "Outcome", "hostile_messages"]

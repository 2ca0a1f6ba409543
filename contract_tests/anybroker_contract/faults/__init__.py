"""Faults: real brokers and member processes, killed, stopped and cut from outside; a history of what happened; and
checkers that are pure functions over it.

    python -m anybroker_contract.faults --broker kafka --scenario broker-kill --events 100000

``history`` says what is recorded, ``checkers`` what must hold, ``scenarios`` what is done.
"""

from __future__ import annotations

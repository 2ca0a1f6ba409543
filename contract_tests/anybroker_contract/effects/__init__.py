"""Exactly one effect: a shop, relays, workers and a last service as processes on PostgreSQL and a broker, killed at
named points and at random while both servers are restarted; a history of what happened, and what the tables say at the
end.

    python -m anybroker_contract.effects --broker nats --events 100000

``programs`` is what the processes do, ``points`` where they can be killed, ``plan`` what is done to them, ``checkers``
what must hold, ``mutants`` the ways of doing it wrong that have to be found.
"""

from __future__ import annotations

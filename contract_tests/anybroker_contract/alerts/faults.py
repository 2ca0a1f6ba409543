"""Which fault trips which rule, and what else an on-call person sees of it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAULTS", "Fault"]


@dataclass(frozen=True)
class Fault:
    """What one service does wrong."""

    service: str
    text: str
    trips: tuple[str, ...]
    """The rules that must fire for it."""
    may_trip: tuple[str, ...] = ()
    """Rules that may fire for it too, since they tell the truth. Any other is an error."""
    says: str | None = None
    """A regular expression: a line of the service's log at WARNING or above. None: the service says nothing there."""
    ready: bool = True
    """What ``/ready`` says meanwhile."""
    live: bool = True
    """What ``/live`` says meanwhile."""
    last: bool = False
    """Whether it is what happens to every service when the broker is killed, after all else was seen."""


_BEHIND = ("AnybrokerLagOld", "AnybrokerLagGrowing")

FAULTS = (
    Fault("healthy", "nothing is wrong", ()),
    Fault(
        "failing",
        "the handler fails every event",
        ("AnybrokerErrorRate", "AnybrokerDeadLetters"),
        says=r"ERROR anybroker\.handler: failing/failing: dead-lettered.*ValueError: the handler of this service",
    ),
    Fault(
        "mistyped",
        "events are published under a mistyped type",
        ("AnybrokerErrorRate",),
        says=r"WARNING anybroker\.handler: mistyped/mistyped: .*com\.example\.alerts\.cuonted\.v1",
    ),
    Fault(
        "slow",
        "a handler takes long",
        (),
        _BEHIND,
        says=r"WARNING anybroker\.handler: slow/slow: the handler .* has been running for",
    ),
    Fault(
        "behind",
        "more is published than is handled",
        _BEHIND,
        ("AnybrokerKeyStuck",),
    ),
    Fault(
        "deserted",
        "events are published, and nothing consumes them",
        ("AnybrokerNoConsumer", *_BEHIND),
    ),
    Fault(
        "stuck",
        "the handler of one event never ends",
        ("AnybrokerKeyStuck",),
        _BEHIND,
        says=r"WARNING anybroker\.handler: stuck/stuck: the handler .* has been running for",
    ),
    Fault(
        "interrupted",
        "what the handler depends on is down",
        ("AnybrokerCircuitOpen",),
        (*_BEHIND, "AnybrokerKeyStuck", "AnybrokerErrorRate"),
        says=r"ERROR anybroker\.handler: the circuit 'dependency' opens, .*ConnectionError: it is down",
    ),
    Fault(
        "blocked",
        "a handler blocks the event loop",
        ("AnybrokerNotReady",),
        (*_BEHIND, "AnybrokerNoConsumer", "AnybrokerKeyStuck"),
        says=r"WARNING anybroker\.loop: .*blocked",
        ready=False,
        live=False,
    ),
    Fault(
        "unsure",
        "the broker does not confirm every tenth event",
        ("AnybrokerOutcomesUnknown",),
    ),
    Fault(
        "jammed",
        "the broker accepts nothing of what is in the outbox",
        ("AnybrokerOutboxOld", "AnybrokerNotReady"),
        says=r"WARNING anybroker\.health: publish: not ready: the topic 'jammed' accepts no events",
        ready=False,
    ),
    Fault(
        "cut",
        "the broker goes away",
        ("AnybrokerNotReady",),
        (*_BEHIND, "AnybrokerKeyStuck", "AnybrokerNoConsumer", "AnybrokerOutcomesUnknown"),
        says=r"WARNING anybroker\.health: .*: not ready: ",
        ready=False,
        last=True,
    ),
)

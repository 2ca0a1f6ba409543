"""The table of all metrics: what both exporters and ``docs/metrics.md`` are made from.

Where OpenTelemetry's conventions for messaging have a metric it is theirs, by name, unit and attributes; the others
begin with ``anybroker.``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["INSTRUMENTS", "Instrument", "Kind", "by_name", "label"]

Kind = Literal["counter", "gauge", "histogram"]

_ADVISED: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds. What the conventions advise for durations."""
_WAITS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Seconds. An event may wait for longer than a handler runs."""

_SYSTEM: Final = ("messaging.system",)
_GROUP: Final = (*_SYSTEM, "messaging.destination.name", "messaging.consumer.group.name")


@dataclass(frozen=True, slots=True, eq=False)
class Instrument:
    """One metric."""

    name: str
    """In OpenTelemetry."""
    kind: Kind
    unit: str
    attributes: tuple[str, ...]
    """By their names in OpenTelemetry. A series without one has no value for it; in Prometheus it is empty."""
    description: str
    alarm: str = ""
    """When to wake somebody; empty: never by this one alone."""
    merge: Literal["sum", "max", "min"] = "sum"
    """What it is of two Buses of one process with the same attributes."""
    bounds: tuple[float, ...] = ()
    """Of a histogram: the upper ends of its buckets, each included, without infinity."""

    @property
    def prometheus(self) -> str:
        """Its name there: what the usual conversion makes of it."""
        unit = {"s": "_seconds"}.get(self.unit, "")
        return label(self.name) + unit + ("_total" if self.kind == "counter" else "")


def label(attribute: str) -> str:
    """The name of an attribute in Prometheus."""
    return attribute.replace(".", "_")


def _of_group(
    name: str, kind: Kind, unit: str, description: str, alarm: str = "", merge: Literal["sum", "max"] = "sum"
) -> Instrument:
    return Instrument(name, kind, unit, _GROUP, description, alarm, merge)


INSTRUMENTS: Final = (
    Instrument(
        "messaging.client.operation.duration",
        "histogram",
        "s",
        (
            *_SYSTEM,
            "messaging.destination.name",
            "messaging.operation.name",
            "messaging.operation.type",
            "error.type",
        ),
        "Seconds from the call of publish to the broker's confirmation, or to the error.",
        "its 99th percentile comes near publish_deadline",
        bounds=_ADVISED,
    ),
    Instrument(
        "messaging.client.sent.messages",
        "counter",
        "{message}",
        (*_SYSTEM, "messaging.destination.name", "messaging.operation.name", "error.type"),
        "Events published, dead letters too; with error.type those that failed.",
        "events with error_type",
    ),
    Instrument(
        "messaging.client.consumed.messages",
        "counter",
        "{message}",
        (*_GROUP, "messaging.operation.name"),
        "Deliveries that the broker handed over, copies and returned ones too.",
    ),
    Instrument(
        "messaging.process.duration",
        "histogram",
        "s",
        (*_GROUP, "messaging.operation.name", "cloudevents.event_type", "anybroker.outcome", "error.type"),
        "Seconds of each start of a handler, and what became of it.",
        "over 5 % of the starts are not handled",
        bounds=_ADVISED,
    ),
    Instrument(
        "anybroker.delivery.latency",
        "histogram",
        "s",
        _GROUP,
        "Seconds from an event's own time until it was handled: waiting, retries and delays included.",
        "its 99th percentile is over what the service promises",
        bounds=_WAITS,
    ),
    _of_group("anybroker.handlers.running", "gauge", "{handler}", "Handlers in flight.", "it stays at max_in_flight"),
    _of_group("anybroker.deliveries.buffered", "gauge", "{event}", "Deliveries received and not finished."),
    _of_group(
        "anybroker.deliveries.waiting",
        "gauge",
        "{event}",
        "Deliveries that wait for their turn in circuit, rate_limit or concurrency; among the buffered ones.",
    ),
    Instrument(
        "anybroker.circuit.open",
        "gauge",
        "{circuit}",
        (*_GROUP, "anybroker.name"),
        "1 while this circuit is open or half-open, so that its handlers pause, else 0.",
        "1 for 2 minutes",
        "max",
    ),
    _of_group(
        "anybroker.circuits.opened",
        "counter",
        "{circuit}",
        "How often a circuit of the group's handlers opened.",
        "it grows again and again: what the handlers depend on comes and goes",
    ),
    _of_group(
        "anybroker.lag.events",
        "gauge",
        "{event}",
        "Events that the group has not finished, in flight ones too. Asked every 15 s; absent when the broker does "
        "not answer for a minute.",
        "it grows for 15 minutes",
        "max",
    ),
    _of_group(
        "anybroker.lag.age",
        "gauge",
        "s",
        "Age of the oldest event that the group has not finished, where the broker can say.",
        "over what the service promises",
        "max",
    ),
    _of_group(
        "anybroker.unfinished.age",
        "gauge",
        "s",
        "For how long one event has been the oldest unfinished one of its lane in this process; 0 without one.",
        "over 5 minutes: a key is stuck",
        "max",
    ),
    _of_group("anybroker.dead_letters", "counter", "{event}", "Events dead-lettered.", "it grows"),
    _of_group(
        "anybroker.parked",
        "counter",
        "{event}",
        "Events set aside unstarted, behind an earlier dead letter of their key.",
        "it grows: a key waits for somebody",
    ),
    _of_group(
        "anybroker.dead_letters.depth", "gauge", "{event}", "Dead letters that wait for somebody.", "over 0", "max"
    ),
    _of_group(
        "anybroker.starts",
        "counter",
        "{start}",
        "Starts, those too in which an event was skipped or dead-lettered without a handler.",
    ),
    _of_group("anybroker.retries", "counter", "{start}", "Starts that failed and are made again."),
    _of_group(
        "anybroker.retries.slowed",
        "counter",
        "{start}",
        "How many of those wait longer, because a retry_budget is used up.",
        "it grows for 15 minutes: what handlers need is overloaded or away",
    ),
    _of_group("anybroker.expired", "counter", "{event}", "Events that deadline(expired='skip') did not handle."),
    _of_group("anybroker.duplicates.suppressed", "counter", "{event}", "Copies that @idempotent() did not handle."),
    _of_group(
        "anybroker.unhandled",
        "counter",
        "{event}",
        "Events of a type that no handler takes.",
        "it grows, and the topic has only types that are known",
    ),
    _of_group("anybroker.foreign", "counter", "{event}", "Messages that are not CloudEvents.", "it grows"),
    _of_group(
        "anybroker.lanes.held",
        "gauge",
        "{lane}",
        "Lanes that this process has.",
        "0 in all processes of the group: nobody consumes",
    ),
    _of_group(
        "anybroker.leases.lost",
        "counter",
        "{event}",
        "Events that went to another member while they were handled here.",
        "it grows: raise lease, or look at what blocks the event loop",
    ),
    _of_group("anybroker.reconnects", "counter", "{connection}", "Receivers opened after one that had died."),
    Instrument(
        "anybroker.publish.unknown",
        "counter",
        "{event}",
        _SYSTEM,
        "Publishes of which nobody knows whether the event is stored.",
        "it grows",
    ),
    Instrument(
        "anybroker.outbox.waiting",
        "gauge",
        "{event}",
        (*_SYSTEM, "anybroker.name"),
        "Events in the outbox that wait for a relay.",
        "it grows",
        "max",
    ),
    Instrument(
        "anybroker.outbox.age",
        "gauge",
        "s",
        (*_SYSTEM, "anybroker.name"),
        "Age of the oldest of them; 0 without one.",
        "over 5 minutes: no relay runs, or the broker is away",
        "max",
    ),
    Instrument(
        "anybroker.outbox.set_aside",
        "gauge",
        "{event}",
        (*_SYSTEM, "anybroker.name"),
        "Events of the outbox that the broker rejected for good.",
        "over 0",
        "max",
    ),
    Instrument(
        "anybroker.outbox.sent",
        "counter",
        "{event}",
        (*_SYSTEM, "anybroker.name"),
        "Events that the relay of this process has brought to the broker.",
    ),
    Instrument(
        "anybroker.problem",
        "gauge",
        "{problem}",  # not 1, of which the usual conversion makes a ratio
        (*_SYSTEM, "anybroker.name"),
        "1 while this name is in bus.problems.",
        "1 for 5 minutes",
        "max",
    ),
    Instrument(
        "anybroker.ready",
        "gauge",
        "{bus}",
        _SYSTEM,
        "1 while the Bus is ready, else 0.",
        "0 for 2 minutes",
        "min",
    ),
)

_BY_NAME: Final = {each.name: each for each in INSTRUMENTS}


def by_name(name: str) -> Instrument:
    """The one of this name. KeyError where there is none."""
    return _BY_NAME[name]

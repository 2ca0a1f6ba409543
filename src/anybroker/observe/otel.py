"""The same metrics through OpenTelemetry's API, for a process that has set up its SDK."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry import metrics as otel
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation

from ..engine.observing import Observer
from .instruments import INSTRUMENTS, Instrument
from .metrics import Attributes, Measured, Metrics, Recorder

__all__ = ["OpenTelemetryMetrics"]


class OpenTelemetryMetrics(Metrics):
    """``bus.observe(OpenTelemetryMetrics())``, before the start. Without an SDK it costs nothing, and does nothing.

    :param meter_provider: by default the one that is set globally when a Bus starts.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        super().__init__()
        self._provider = meter_provider
        self._histograms: dict[Instrument, Histogram] = {}

    def attached(self, bus: Measured) -> Observer:
        """A Bus starts: what is told of it; nothing where no SDK is set up."""
        provider = otel.get_meter_provider() if self._provider is None else self._provider
        if type(provider).__module__.startswith("opentelemetry.metrics"):  # the API's own: nobody listens
            return Observer()
        if not self._histograms:
            self._make(provider.get_meter("anybroker"))
        return super().attached(bus)

    def _make(self, meter: Meter) -> None:
        for each in INSTRUMENTS:
            if each.kind == "histogram":
                self._histograms[each] = _histogram(meter, each)
            elif each.kind == "counter":
                meter.create_observable_counter(each.name, [self._read(each)], each.unit, each.description)
            else:
                meter.create_observable_gauge(each.name, [self._read(each)], each.unit, each.description)

    def _read(self, wanted: Instrument) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> list[Observation]:
            return [
                Observation(value, _attributes(instrument, values))
                for instrument, values, value in self.numbers()
                if instrument is wanted
            ]

        return observe

    def _recorder(self, instrument: Instrument, attributes: Attributes) -> Recorder:
        return _Bound(self._histograms[instrument], _attributes(instrument, attributes))


class _Bound:
    """One series of a histogram of the SDK."""

    __slots__ = ("_attributes", "_record", "count")

    def __init__(self, histogram: Histogram, attributes: dict[str, str]) -> None:
        self._record = histogram.record
        self._attributes = attributes
        self.count = 0
        """How many values it has."""

    def record(self, value: float) -> None:
        """One more."""
        self.count += 1
        self._record(value, self._attributes)


def _histogram(meter: Meter, instrument: Instrument) -> Histogram:
    try:
        return meter.create_histogram(
            instrument.name,
            instrument.unit,
            instrument.description,
            explicit_bucket_boundaries_advisory=instrument.bounds,
        )
    except TypeError:  # before 1.30, which cannot be advised
        return meter.create_histogram(instrument.name, instrument.unit, instrument.description)


def _attributes(instrument: Instrument, values: Attributes) -> dict[str, str]:
    return {name: value for name, value in zip(instrument.attributes, values, strict=True) if value is not None}

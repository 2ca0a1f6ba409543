"""Metrics for Prometheus without an OpenTelemetry SDK: the extra ``anybroker[prometheus]``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from types import ModuleType
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .instruments import INSTRUMENTS, Instrument, label
from .metrics import Attributes, Distribution, Metrics

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

__all__ = ["PrometheusMetrics"]


class PrometheusMetrics(Metrics):
    """``bus.observe(PrometheusMetrics())``, before the start; then serve what :meth:`exposition` returns.

    :param registry: where to register, so that whatever exports that registry shows these metrics too, and
        :meth:`exposition` shows all that is in it. By default a registry of its own.

    Raises ConfigError where ``prometheus-client`` is not installed, and where the registry has these metrics already.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        super().__init__()
        self._client = _client()
        self.registry: CollectorRegistry = self._client.CollectorRegistry() if registry is None else registry
        """Where it is registered."""
        try:
            self.registry.register(self)
        except ValueError as exc:
            raise ConfigError(
                "PrometheusMetrics(registry)",
                f"the registry has metrics of these names already: {exc}",
                "Give one PrometheusMetrics to all Buses of the process, or each a registry of its own.",
            ) from exc

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """What a scrape is answered with, and its content type. ``accept``: the request's header of that name, which
        chooses between Prometheus' text and OpenMetrics; text where it makes no sense. May be called in any thread."""
        choose = self._client.exposition.choose_encoder
        try:
            encode, content_type = choose(accept)
        except Exception:  # noqa: BLE001 - the client's, for a header that is none
            encode, content_type = choose("")
        return encode(self.registry), content_type

    def describe(self) -> Iterator[Metric]:
        """The families without series. Called by the registry."""
        for instrument in INSTRUMENTS:
            yield self._family(instrument)

    def collect(self) -> Iterator[Metric]:
        """The families with the series that there are now. Called by the registry, in any thread."""
        families = {instrument: self._family(instrument) for instrument in INSTRUMENTS}
        for instrument, attributes, value in self.numbers():
            families[instrument].add_metric(_labels(attributes), value)
        for instrument, attributes, distribution in self.distributions():
            families[instrument].add_metric(_labels(attributes), *_cumulative(instrument, distribution))
        yield from families.values()

    def _family(self, instrument: Instrument):  # type: ignore[no-untyped-def] # three classes without a common add_metric
        core = self._client.metrics_core
        kinds = {
            "counter": core.CounterMetricFamily,
            "gauge": core.GaugeMetricFamily,
            "histogram": core.HistogramMetricFamily,
        }
        return kinds[instrument.kind](
            instrument.prometheus, instrument.description, labels=[label(name) for name in instrument.attributes]
        )


def _client() -> ModuleType:
    try:
        import prometheus_client
        import prometheus_client.exposition
    except ImportError as exc:
        raise ConfigError(
            "PrometheusMetrics", "needs the package prometheus-client", "pip install 'anybroker[prometheus]'"
        ) from exc
    return prometheus_client


def _labels(attributes: Attributes) -> list[str]:
    return [value or "" for value in attributes]


def _cumulative(instrument: Instrument, distribution: Distribution) -> tuple[list[tuple[str, float]], float]:
    """The buckets as Prometheus has them, each with what is below it, and the sum of the values."""
    ends = [*map(str, instrument.bounds), "+Inf"]
    return list(zip(ends, accumulate(list(distribution.counts)), strict=True)), distribution.total

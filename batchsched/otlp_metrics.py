"""Operations on their way to a collector, as histograms, by OpenTelemetry's own SDK. Imported only where metrics are on.

A thread of its own sends them once a minute (OTEL_METRIC_EXPORT_INTERVAL). They are sums since the start of the process: what did
not arrive is in the next ones.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData, PeriodicExportingMetricReader

from batchsched.operations import DURATION, TOKENS, Operation
from batchsched.otlp import Trouble, resource, signal_url
from batchsched.traces import Value
from batchsched.version import own_version

log = logging.getLogger(__name__)
_PATH = "/v1/metrics"


class OtlpMetrics:
    """Who takes operations (operations.py) and sends them by OTLP over HTTP. Arguments as those of Otlp."""

    def __init__(self, endpoint: str, where: str, service: str, about: Mapping[str, Value]) -> None:
        self._about = dict(about)
        self._trouble = Trouble("Metrics do not reach %s, and are sent later: %s", "Metrics reach %s again.", where)
        reader = PeriodicExportingMetricReader(_Exporter(signal_url(endpoint, _PATH), self._trouble))
        self._provider = MeterProvider(metric_readers=[reader], resource=resource(service), shutdown_on_exit=False)
        meter = self._provider.get_meter("batchsched", own_version("unknown"))
        self._took, self._tokens = (
            meter.create_histogram(of.name, of.unit, of.brief, explicit_bucket_boundaries_advisory=of.bounds)
            for of in (DURATION, TOKENS)
        )

    def ended(self, operation: Operation) -> None:
        """Count it."""
        try:
            self._ended(operation)
        except Exception:  # whatever it is: the work goes on without it
            log.exception("A request to '%s' could not be counted.", operation.model)

    def _ended(self, operation: Operation) -> None:
        about = {**self._about, **operation.about}
        self._took.record(operation.took_s, about | ({"error.type": operation.problem} if operation.problem else {}))
        for kind, tokens in (("input", operation.read), ("output", operation.written)):
            if tokens is not None:
                self._tokens.record(tokens, {**about, "gen_ai.token.type": kind})

    def close(self) -> None:
        """Send what is known, as far as that is quick."""
        self._trouble.end(self._provider.shutdown)


class _Exporter(OTLPMetricExporter):
    """The library's, with its trouble said once."""

    def __init__(self, url: str | None, trouble: Trouble) -> None:
        super().__init__(endpoint=url)
        self._trouble = trouble

    def export(self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **more: Any) -> MetricExportResult:
        """Send all of them."""
        result = super().export(metrics_data, timeout_millis, **more)
        self._trouble.tried(result is MetricExportResult.SUCCESS)
        return result

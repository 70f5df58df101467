"""The address where Prometheus reads the numbers of this process."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.exposition import start_http_server
from prometheus_client.registry import Collector

from pipeline.errors import ConfigError
from pipeline.telemetry.book import BOOK, Book, Histogram, Place
from pipeline.telemetry.names import BUCKETS, METRICS, STAGE_SECONDS, Metric

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where metrics are served: the first port from ``first`` to ``last`` that is free; 0: any."""

    host: str
    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return ``HOST:PORT``, ``HOST:FIRST-LAST`` or ``PORT``; raises ConfigError."""
        host, colon, ports = text.rpartition(":")
        first, _, last = ports.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise ConfigError(f"metrics: {text!r} is not HOST:PORT, HOST:FIRST-LAST or PORT")
        found = cls(
            host=host.strip("[]") if colon else "127.0.0.1",
            first=int(first),
            last=int(last or first),
        )
        if not found.host or not 0 <= found.first <= found.last < 65536:
            raise ConfigError(f"metrics: {text!r}: ports are 0 to 65535, and a host is needed")
        return found


class BookCollector(Collector):
    """Puts a book into the shape that Prometheus reads."""

    def __init__(self, book: Book, command: str = "") -> None:
        self._book = book
        self._command = command

    def describe(self) -> Iterable[Family]:
        """Return nothing: names are checked by our own table."""
        return ()

    def collect(self) -> Iterator[Family]:
        """Yield what is known now; a metric that has no value yet is left out."""
        families: dict[str, Any] = {}
        for place, totals in self._book.collect():
            for key, value in totals.values.items():
                metric = METRICS[key[0]]
                family = families.setdefault(metric.name, None) or _family(metric)
                families[metric.name] = family
                family.add_metric(_labels(metric, place, key[1:]), value)
            for stage, histogram in totals.stages.items():
                metric = METRICS[STAGE_SECONDS]
                family = families.get(metric.name) or _family(metric)
                families[metric.name] = family
                family.add_metric(
                    _labels(metric, place, (stage,)), _cumulated(histogram), histogram.total_s
                )
        yield from families.values()
        yield from self._own()

    def _own(self) -> Iterator[Family]:
        from importlib.metadata import version

        info = _family(METRICS["lichtstrom_build_info"])
        info.add_metric([version("lichtstrom"), self._command], 1.0)
        yield info
        folded = _family(METRICS["lichtstrom_folded_streams"])
        folded.add_metric([], self._book.folded)
        yield folded


def _family(metric: Metric) -> Any:
    kinds: dict[str, Any] = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    return kinds[metric.kind](metric.name, metric.text, labels=metric.labels)


def _labels(metric: Metric, place: Place, further: tuple[str, ...]) -> list[str]:
    """Return the values of the metric's labels: those of the place, others in their order."""
    rest = iter(further)
    return [
        getattr(place, name) if name in Place.__slots__ else next(rest) for name in metric.labels
    ]


def _cumulated(histogram: Histogram) -> list[tuple[str, float]]:
    total, found = 0, []
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), histogram.counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found


class MetricsServer:
    """Serves ``/metrics`` in a thread until it is closed.

    Raises ConfigError when no port is free.
    """

    def __init__(self, address: Address, *, book: Book = BOOK, command: str = "") -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(BookCollector(book, command))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._server, self._thread = _started(address, registry)
        self.url = f"http://{address.host}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Stop serving; may be called twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _started(address: Address, registry: CollectorRegistry) -> tuple[Any, Any]:
    for port in range(address.first, address.last + 1):
        try:
            return start_http_server(port, addr=address.host, registry=registry)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            reason = error.strerror or str(error)
            raise ConfigError(f"metrics: {address.host}:{port}: {reason}") from error
    where = f"{address.host}:{address.first}"
    where += f"-{address.last}" if address.last > address.first else ""
    raise ConfigError(
        f"metrics: {where} is taken by another process: choose another port, a range"
        " (HOST:FIRST-LAST: the first free one), or 0 for any"
    )

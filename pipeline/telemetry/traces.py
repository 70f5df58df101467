"""Spans of sampled frames, for a tracing system that takes OTLP (Jaeger, Tempo, a collector).

Ids derive from the stream's id and the frame's number, so that adapter, worker and sink name the
same trace without telling each other: nothing is added to records, and where tracing is off a
record costs one comparison.  docs/decisions/0013-traces-by-number.md has the reasons.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import urllib3

from pipeline.errors import ConfigError

log = logging.getLogger(__name__)
#: Spans that wait to be sent; more are dropped and counted, frames never wait for a trace.
_ROOM = 10_000
_SEND_EVERY_S = 1.0
_SEND_LIMIT_S = 5.0
#: OTLP's numbers of kinds (opentelemetry-proto, trace.proto, Span.SpanKind) and of an error.
PRODUCER, CONSUMER = 4, 5
_ERROR = 2


class Begun(Protocol):
    """What is needed of a stream's start record."""

    @property
    def stream_key(self) -> bytes:
        """The stream's id."""
        ...

    @property
    def lineage(self) -> Mapping[str, Any]:
        """Of a derived stream what it was made from."""
        ...


class TraceSettings(NamedTuple):
    """Where spans go, of which frames: those whose number ``every`` divides."""

    url: str
    every: int
    service: str


class Span(NamedTuple):
    """One step of one frame; ids as bytes, times in ns since 1970."""

    name: str
    kind: int
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    begun_ns: int
    ended_ns: int
    attributes: Mapping[str, str | int]
    error: str = ""


def origin_of(start: Begun) -> bytes:
    """Return the id of the stream that a derived one comes from in the end; its own, of others."""
    lineage = start.lineage
    text = str(lineage.get("origin_id") or lineage.get("source_id") or "")
    try:
        return bytes.fromhex(text) if text else start.stream_key
    except ValueError:
        return start.stream_key


def trace_id(start: Begun, number: int) -> bytes:
    """Return the id of the trace of a frame, of whatever stream of its origin."""
    return _digest(16, "trace", origin_of(start), number)


def publish_id(stream_key: bytes, number: int) -> bytes:
    """Return the id of the span in which a frame was published."""
    return _digest(8, "publish", stream_key, number)


def work_id(stream_key: bytes, number: int, group: str) -> bytes:
    """Return the id of the span in which a group worked on a frame with success."""
    return _digest(8, f"work {group}", stream_key, number)


def sink_id(stream_key: bytes, number: int, sink: str) -> bytes:
    """Return the id of the span in which a sink has written a frame."""
    return _digest(8, f"sink {sink}", stream_key, number)


def _digest(nbytes: int, kind: str, key: bytes, number: int) -> bytes:
    text = kind.encode() + b"\0" + key + number.to_bytes(8, "big", signed=True)
    return blake2b(text, digest_size=nbytes).digest()


def parent_of(start: Begun, number: int) -> bytes:
    """Return the span that a published frame follows: the work it results from, if any."""
    source, group = str(start.lineage.get("source_id") or ""), start.lineage.get("group")
    if not source or not group:
        return b""
    return work_id(bytes.fromhex(source), number, str(group))


class Tracer:
    """Takes spans from any thread and sends them from its own."""

    def __init__(self, settings: TraceSettings) -> None:
        if not settings.url.startswith(("http://", "https://", "file:")):
            raise ConfigError(f"traces: {settings.url!r} is neither http://HOST:PORT nor file:PATH")
        self.settings = settings
        self.dropped = 0
        self._waiting: queue.Queue[Span] = queue.Queue(_ROOM)
        self._stop = threading.Event()
        self._warned = False
        self._pool = urllib3.PoolManager(retries=False)
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def sampled(self, numbers: Iterable[int]) -> list[int]:
        """Return the numbers whose frames are traced."""
        every = self.settings.every
        return [number for number in numbers if number % every == 0]

    def add(self, span: Span) -> None:
        """Have a span sent; never waits."""
        try:
            self._waiting.put_nowait(span)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Send what waits and stop; blocks for some seconds at most.  May be called twice."""
        self._stop.set()
        self._thread.join(2 * _SEND_LIMIT_S)
        self._pool.clear()

    def _run(self) -> None:
        while not self._stop.wait(_SEND_EVERY_S):
            self._send()
        self._send()

    def _send(self) -> None:
        spans: list[Span] = []
        while not self._waiting.empty():
            spans.append(self._waiting.get_nowait())
        if not spans:
            return
        body = json.dumps(as_otlp(spans, self.settings.service))
        try:
            self._write(body)
            self._warned = False
        except (OSError, urllib3.exceptions.HTTPError) as error:
            self.dropped += len(spans)
            if not self._warned:
                log.warning("traces cannot be sent url=%s error=%s", self.settings.url, error)
            self._warned = True

    def _write(self, body: str) -> None:
        url = self.settings.url
        if url.startswith("file:"):
            with Path(url.removeprefix("file:").removeprefix("//")).open("a") as file:
                file.write(body + "\n")
            return
        answer = self._pool.request(
            "POST",
            url.rstrip("/") + "/v1/traces",
            body=body.encode(),
            headers={"Content-Type": "application/json"},
            timeout=_SEND_LIMIT_S,
        )
        if answer.status >= 300:
            raise OSError(f"status {answer.status}")


def as_otlp(spans: Sequence[Span], service: str) -> dict[str, Any]:
    """Return spans as OTLP's JSON (opentelemetry-proto, ExportTraceServiceRequest)."""
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes({"service.name": service})},
                "scopeSpans": [
                    {"scope": {"name": "lichtstrom"}, "spans": [_span(span) for span in spans]}
                ],
            }
        ]
    }


def _span(span: Span) -> dict[str, Any]:
    found: dict[str, Any] = {
        "traceId": span.trace_id.hex(),
        "spanId": span.span_id.hex(),
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(span.begun_ns),
        "endTimeUnixNano": str(span.ended_ns),
        "attributes": _attributes(span.attributes),
    }
    if span.parent_id:
        found["parentSpanId"] = span.parent_id.hex()
    if span.error:
        found["status"] = {"code": _ERROR, "message": span.error}
    return found


def _attributes(values: Mapping[str, str | int]) -> list[dict[str, Any]]:
    return [
        {"key": key, "value": {"intValue": str(v)} if isinstance(v, int) else {"stringValue": v}}
        for key, v in values.items()
    ]


def wall_ns(monotonic_s: float) -> int:
    """Return the time of day of a moment of the monotonic clock."""
    return time.time_ns() - int((time.monotonic() - monotonic_s) * 1e9)


class Tracing:
    """Whether this process traces; ``tracer`` is None while it does not."""

    tracer: Tracer | None = None

    def begin(self, settings: TraceSettings | None) -> None:
        """Trace from now on; None: do not."""
        self.end()
        self.tracer = Tracer(settings) if settings is not None else None

    def end(self) -> None:
        """Send what waits and stop; may be called twice."""
        tracer, self.tracer = self.tracer, None
        if tracer is not None:
            tracer.close()

    @property
    def settings(self) -> TraceSettings | None:
        """What processes that this one starts are to do."""
        return self.tracer.settings if self.tracer is not None else None


#: Of this process.
TRACING = Tracing()

"""Traces: ids that processes agree on without talking, OTLP as OpenTelemetry reads it."""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.telemetry.traces import (
    CONSUMER,
    Span,
    Tracer,
    TraceSettings,
    as_otlp,
    origin_of,
    parent_of,
    publish_id,
    trace_id,
    work_id,
)


@dataclass
class Begun:
    stream_key: bytes
    lineage: dict[str, Any] = field(default_factory=dict)


SOURCE = Begun(b"\1" * 8)
RESULT = Begun(b"\2" * 8, {"source_id": SOURCE.stream_key.hex(), "group": "g"})
SECOND = Begun(
    b"\3" * 8,
    {"source_id": RESULT.stream_key.hex(), "group": "h", "origin_id": SOURCE.stream_key.hex()},
)


def span(number: int = 7, error: str = "") -> Span:
    ids = trace_id(SOURCE, number), work_id(b"\1" * 8, number, "g"), publish_id(b"\1" * 8, number)
    return Span("work", CONSUMER, *ids, 10, 20, {"stream": "b/d/s", "frame": number}, error)


def test_results_and_their_results_belong_to_the_trace_of_the_source() -> None:
    assert origin_of(RESULT) == origin_of(SECOND) == SOURCE.stream_key
    assert trace_id(SOURCE, 7) == trace_id(RESULT, 7) == trace_id(SECOND, 7)
    assert parent_of(SOURCE, 7) == b""
    assert parent_of(RESULT, 7) == work_id(SOURCE.stream_key, 7, "g")
    assert parent_of(SECOND, 7) == work_id(RESULT.stream_key, 7, "h")


def test_no_two_frames_steps_or_groups_share_an_id() -> None:
    keys = (b"\1" * 8, b"\2" * 8)
    ids = [publish_id(k, n) for k in keys for n in range(100)]
    ids += [work_id(k, n, g) for k in keys for n in range(100) for g in ("g", "h")]
    assert len(set(ids)) == len(ids)
    assert len({trace_id(SOURCE, n) for n in range(100)}) == 100
    assert {len(i) for i in ids} == {8}
    assert len(trace_id(SOURCE, 0)) == 16


def test_a_lineage_that_names_no_stream_is_no_reason_to_fail() -> None:
    assert origin_of(Begun(b"\4" * 8, {"source_id": "not hex"})) == b"\4" * 8


def test_what_is_sent_is_what_opentelemetry_reads() -> None:
    from google.protobuf import json_format
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as Official
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

    told = as_otlp([span(7), span(8, error="ValueError: no")], "lichtstrom-worker")
    for each in told["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for name in ("traceId", "spanId", "parentSpanId"):
            # OTLP's JSON has ids in hex, where protobuf's has base64: the one difference
            each[name] = base64.b64encode(bytes.fromhex(each[name])).decode()
    data = json_format.ParseDict(told, TracesData())
    (resource,) = data.resource_spans
    assert resource.resource.attributes[0].value.string_value == "lichtstrom-worker"
    first, second = resource.scope_spans[0].spans
    assert first.trace_id == trace_id(SOURCE, 7)
    assert first.parent_span_id == publish_id(b"\1" * 8, 7)
    assert (first.kind, first.end_time_unix_nano) == (Official.SPAN_KIND_CONSUMER, 20)
    assert {a.key: a.value.int_value for a in first.attributes}["frame"] == 7
    assert second.status.message == "ValueError: no"


def test_a_tracer_appends_to_a_file_and_samples_by_the_number(tmp_path: Path) -> None:
    tracer = Tracer(TraceSettings(f"file:{tmp_path / 'spans.jsonl'}", 10, "s"))
    assert tracer.sampled(range(5, 31)) == [10, 20, 30]
    tracer.add(span())
    tracer.close()
    tracer.close()
    (line,) = (tmp_path / "spans.jsonl").read_text().splitlines()
    assert json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"] == "work"


def test_a_tracer_posts_to_a_collector() -> None:
    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        tracer = Tracer(TraceSettings(f"http://127.0.0.1:{server.server_port}", 1, "s"))
        tracer.add(span())
        tracer.close()
        server.shutdown()
        thread.join(10)
    ((path, body),) = got
    assert path == "/v1/traces"
    assert b'"service.name"' in body
    assert tracer.dropped == 0


def test_a_collector_that_is_away_costs_spans_and_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracer = Tracer(TraceSettings("http://127.0.0.1:9", 1, "s"))
    for number in range(3):
        tracer.add(span(number))
    tracer.close()
    assert tracer.dropped == 3
    assert len([r for r in caplog.records if "traces cannot be sent" in r.getMessage()]) == 1


def test_a_place_to_send_to_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match="'jaeger' is neither"):
        Tracer(TraceSettings("jaeger", 1, "s"))

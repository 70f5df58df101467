"""Metrics: what is kept of owners that come and go, how it is served; the log as JSON."""

from __future__ import annotations

import json
import logging
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.root import lichtstrom
from pipeline.errors import ConfigError
from pipeline.naming import StreamId
from pipeline.telemetry import logs
from pipeline.telemetry.book import Book, Histogram, Place
from pipeline.telemetry.names import BUCKETS, METRICS, STAGES
from pipeline.telemetry.serving import Address, MetricsServer

ROOT = Path(__file__).resolve().parents[2]
FRAMES, QUEUE = "lichtstrom_publish_frames_total", "lichtstrom_publish_queue_frames"


class Owner:
    def __init__(self, frames: int = 0, queued: int = 0) -> None:
        self.frames, self.queued = frames, queued

    def numbers(self) -> dict[str, float]:
        return {FRAMES: self.frames, QUEUE: self.queued}


def place(stream: str, detector: str = "d") -> Place:
    return Place(beamtime="b", detector=detector, stream=stream)


def values(book: Book, name: str) -> dict[str, float]:
    return {
        p.stream: totals.values[(name,)] for p, totals in book.collect() if (name,) in totals.values
    }


def test_a_counter_outlives_its_owner_and_a_gauge_does_not() -> None:
    book, owner = Book(), Owner(frames=3, queued=2)
    meter = book.watch(place("s"), owner, Owner.numbers)
    assert values(book, FRAMES) == {"s": 3}
    assert values(book, QUEUE) == {"s": 2}
    meter.close()
    meter.close()
    assert values(book, FRAMES) == {"s": 3}
    assert values(book, QUEUE) == {}
    again = Owner(frames=4)
    book.watch(place("s"), again, Owner.numbers)
    assert values(book, FRAMES) == {"s": 7}


def test_an_owner_that_is_gone_without_closing_is_not_kept_alive_and_keeps_its_counts() -> None:
    book, owner = Book(), Owner(frames=3, queued=2)
    book.watch(place("s"), owner, Owner.numbers)
    assert values(book, FRAMES) == {"s": 3}
    del owner
    assert values(book, FRAMES) == {"s": 3}
    assert values(book, QUEUE) == {}


def test_streams_beyond_the_newest_are_added_up_and_no_counter_ever_falls() -> None:
    book, owners, seen = Book(streams=3), [], 0.0
    for index in range(20):
        owners.append(Owner(frames=10))
        meter = book.watch(place(f"s{index}"), owners[-1], Owner.numbers)
        if index % 2:
            meter.close()
        found = values(book, FRAMES)
        assert sum(found.values()) == 10 * (index + 1)
        assert found.get("other", 0.0) >= seen
        seen = found.get("other", 0.0)
    assert values(book, FRAMES).keys() == {"s17", "s18", "s19", "other"}
    assert book.folded == 17
    owners[0].frames = 15  # one that was folded, and lives
    assert values(book, FRAMES)["other"] == 175


def test_detectors_beyond_the_newest_are_added_up_too() -> None:
    book, owners = Book(streams=2), []
    for index in range(10):
        owners.append(Owner(frames=1))
        book.watch(place("s", f"d{index}"), owners[-1], Owner.numbers)
    places = [p for p, _ in book.collect()]
    assert len(places) <= 2 + 2 + 1
    assert sum(totals.values[(FRAMES,)] for _, totals in book.collect()) == 10


def test_owners_of_one_stream_share_its_series() -> None:
    book, first, second = Book(), Owner(frames=3), Owner(frames=4)
    for owner in (first, second):
        book.watch(place("s"), owner, Owner.numbers).stage("work").note(0.5, 2)
    assert values(book, FRAMES) == {"s": 7}
    ((_, totals),) = book.collect()
    assert sum(totals.stages["work"].counts) == 4
    assert totals.stages["work"].total_s == 2.0


def test_a_latency_is_counted_below_its_bound_and_a_negative_one_as_none() -> None:
    histogram = Histogram()
    for seconds in (-1.0, BUCKETS[0], 0.06, 1e9):
        histogram.note(seconds)
    assert histogram.counts[0] == 2
    assert histogram.counts[BUCKETS.index(0.1)] == 1
    assert histogram.counts[-1] == 1


@pytest.fixture
def served() -> Iterator[tuple[Book, MetricsServer]]:
    book = Book()
    server = MetricsServer(Address.parse("0"), book=book, command="test")
    yield book, server
    server.close()


def scraped(server: MetricsServer) -> str:
    with urllib.request.urlopen(server.url, timeout=10) as answer:
        return answer.read().decode()


def test_what_is_served_is_what_prometheus_reads(served: tuple[Book, MetricsServer]) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    book, server = served
    owner = Owner(frames=3)
    book.watch(place('a "quoted"\nname'), owner, Owner.numbers).stage("work").note(0.06, 5)
    found = {f.name: f for f in text_string_to_metric_families(scraped(server))}
    sample = found["lichtstrom_publish_frames"].samples[0]
    assert (sample.value, sample.labels["stream"]) == (3.0, 'a "quoted"\nname')
    buckets = {
        s.labels["le"]: s.value
        for s in found["lichtstrom_stage_seconds"].samples
        if s.name.endswith("_bucket")
    }
    assert (buckets["0.05"], buckets["0.1"], buckets["+Inf"]) == (0.0, 5.0, 5.0)
    assert found["lichtstrom_build_info"].samples[0].labels["command"] == "test"


def test_a_taken_port_is_an_error_that_says_what_to_do_and_a_range_takes_the_next(
    served: tuple[Book, MetricsServer],
) -> None:
    port = int(served[1].url.split(":")[2].split("/")[0])
    with pytest.raises(ConfigError, match=rf"127.0.0.1:{port} is taken.*choose another port"):
        MetricsServer(Address.parse(str(port)))
    server = MetricsServer(Address.parse(f"127.0.0.1:{port}-{port + 20}"))
    assert f":{port}/" not in server.url
    server.close()


@pytest.mark.parametrize("text", ["", "host", "host:", ":9", "host:1-x", "host:70000", "h:9-8"])
def test_an_address_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="metrics: "):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "host", "first", "last"),
    [("9", "127.0.0.1", 9, 9), ("h:9-12", "h", 9, 12), ("[::1]:9", "::1", 9, 9)],
)
def test_an_address_is_a_port_a_host_and_port_or_a_range(
    text: str, host: str, first: int, last: int
) -> None:
    assert Address.parse(text) == Address(host=host, first=first, last=last)


def test_a_command_that_cannot_serve_its_metrics_fails_before_it_begins() -> None:
    command = ["worker", "m:f", "b/d/s", "--group", "g", "--metrics", "nowhere"]
    result = CliRunner().invoke(lichtstrom, command)
    assert result.exit_code == 1
    assert "metrics: 'nowhere' is not HOST:PORT" in result.output


LONG_RUNNING = [
    *("worker", "sink hdf5", "sink connect-writer", "adapter files", "adapter run"),
    *("values publish", "values epics", "simulate replay", "exporter"),
]


@pytest.mark.parametrize("command", LONG_RUNNING)
def test_every_command_that_runs_long_serves_metrics(command: str) -> None:
    result = CliRunner().invoke(lichtstrom, [*command.split(), "--help"])
    assert "--metrics" in result.output
    assert "--traces" in result.output


def test_every_metric_and_stage_is_documented_and_nothing_else_is() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(lichtstrom_\w+)` \| (\w+) \| ([^|]+) \| (.*) \|$", page, re.MULTILINE)
    assert {name for name, *_ in rows} == set(METRICS)
    for name, kind, labels, text in rows:
        metric = METRICS[name]
        assert (kind, text) == (metric.kind, metric.text)
        assert labels == (", ".join(metric.labels) or "none")
    assert {stage for stage in STAGES if f"| `{stage}` | {STAGES[stage]} |" in page} == set(STAGES)


# -- logs ---------------------------------------------------------------------------------------


@pytest.fixture
def json_log(capsys: pytest.CaptureFixture[str]) -> Iterator[logging.Logger]:
    before = logs.current()
    logs.set_up_logging(logs.LogSettings(logging.INFO, "json"))
    yield logging.getLogger("pipeline.some.module")
    if before is not None:
        logs.set_up_logging(before)
    else:
        logger = logging.getLogger("pipeline")
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)


def test_a_line_of_the_json_log_says_what_it_is_about(
    json_log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    json_log.info("stream ended stream=%s frames=%d", StreamId("b", "d", "s"), 7)
    json_log.warning("frame %d: attempt 1: no\nluck", 12, extra={"stream": "b/d/s", "group": "g"})
    try:
        int("what went wrong")
    except ValueError:
        json_log.exception("100 %")
    json_log.debug("not said")
    first, second, third = map(json.loads, capsys.readouterr().err.splitlines())
    assert first["message"] == "stream ended stream=b/d/s frames=7"
    assert (first["beamtime"], first["detector"], first["stream"]) == ("b", "d", "s")
    assert (first["level"], first["logger"]) == ("info", "pipeline.some.module")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert (second["group"], second["frame"], second["detector"]) == ("g", 12, "d")
    assert "what went wrong" in third["exception"]
    assert "frame" not in third
    assert logs.current() == logs.LogSettings(logging.INFO, "json")


def test_the_command_line_writes_its_log_as_it_is_asked(tmp_path: Path) -> None:
    before = logs.current()
    try:
        CliRunner().invoke(
            lichtstrom, ["-v", "--log-format", "json", "status", "--home", str(tmp_path)]
        )
        assert logs.current() == logs.LogSettings(logging.INFO, "json")
        CliRunner(env={"LICHTSTROM_LOG_FORMAT": "json"}).invoke(lichtstrom, ["status", "--json"])
        assert logs.current() == logs.LogSettings(logging.WARNING, "json")
        CliRunner().invoke(lichtstrom, ["-q", "status", "--home", str(tmp_path)])
        assert logs.current() == logs.LogSettings(logging.ERROR, "text")
    finally:
        if before is not None:
            logs.set_up_logging(before)

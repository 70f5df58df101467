"""One measurement, seen: metrics of every process, one trace through all of them, the exporter."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from pipeline.local.processes import wait_until
from pipeline.telemetry.names import METRICS

LIMIT_S = 90.0
LICHTSTROM = Path(sys.executable).with_name("lichtstrom")
_FUNCTION = """
def mean(frame):
    if frame.number == 3:
        raise ValueError("no luck")
    return {"mean": float(frame.array.mean())}
"""
_SAMPLE = re.compile(r"^(lichtstrom_\w+?)(?:_bucket|_sum|_count)?(\{.*\})? (\S+)$", re.MULTILINE)


class Watched:
    """A command with metrics and traces; what it logs is kept."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self._log = (folder / f"{name}.log").open("w+")
        self.spans_path = folder / f"{name}.spans"
        observed = ["--metrics", "0", "--traces", f"file:{self.spans_path}", "--trace-every", "5"]
        self.process = subprocess.Popen(
            [str(LICHTSTROM), "-v", "--log-format", "json", *arguments, *observed],
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text()

    @property
    def url(self) -> str:
        found = re.search(r"metrics: (http\S+)", self.log)
        return found[1] if found else ""

    def samples(self, beamtime: str) -> dict[str, float]:
        """The sum of each metric over the beamtime; of a histogram, of all its lines."""
        if not wait_until(lambda: bool(self.url), timeout_s=LIMIT_S):
            raise AssertionError(self.log)
        with urllib.request.urlopen(self.url, timeout=LIMIT_S) as answer:
            text = answer.read().decode()
        found: dict[str, float] = {}
        for name, labels, value in _SAMPLE.findall(text):
            if 'beamtime="' in labels and f'beamtime="{beamtime}"' not in labels:
                continue  # of other tests, on the same broker
            found[name] = found.get(name, 0.0) + float(value)
        return found

    def spans(self) -> list[dict[str, Any]]:
        lines = self.spans_path.read_text().splitlines() if self.spans_path.exists() else []
        return [
            span
            for line in lines
            for scope in json.loads(line)["resourceSpans"][0]["scopeSpans"]
            for span in scope["spans"]
        ]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)
        self._log.close()


@pytest.fixture
def commands(home_env: Path) -> Iterator[list[Watched]]:
    started: list[Watched] = []
    yield started
    for command in started:
        command.close()


def test_one_measurement_is_seen_by_its_metrics_its_log_and_one_trace(
    commands: list[Watched], tmp_path: Path, beamtime: str
) -> None:
    images, spool = tmp_path / "images", tmp_path / "spool"
    images.mkdir()
    (tmp_path / "function.py").write_text(_FUNCTION)
    numbers = itertools.count(1)

    def expose() -> None:
        number = next(numbers)
        partial = images / f"scan_{number:05d}.part"
        tifffile.imwrite(partial, np.full((32, 32), number, np.uint16))
        partial.rename(images / f"scan_{number:05d}.tif")

    def start(name: str, *arguments: str) -> Watched:
        commands.append(Watched(tmp_path, name, *arguments))
        return commands[-1]

    stream = f"{beamtime}/cam/scan"
    common = ("--beamtime", beamtime, "--detector", "cam", "--stream", "scan", "--streams", "1")
    watch = ("--watch", str(images), "--idle-end", "5", "--spool", str(spool))
    adapter = start("adapter", "adapter", "files", *watch, *common)
    group = ("--group", "g", "--out", "res", "--wait", "60", "--attempts", "2")
    worker = start("worker", "worker", f"{tmp_path / 'function.py'}:mean", stream, *group)
    sink = start("sink", "sink", "hdf5", stream, "--out", str(tmp_path), "--follow", "--wait", "60")
    exporter = start(
        "exporter", "exporter", "--every", "1", "--streams", "9", "--spool", str(spool)
    )
    names: set[str] = set()
    last: list[dict[str, float]] = []

    def is_seen() -> bool:
        expose()
        last[:] = [command.samples(beamtime) for command in commands]
        names.update(*last)
        of_adapter, of_worker, of_sink, of_exporter = last
        return (
            of_adapter.get("lichtstrom_publish_frames_total", 0) >= 5
            and of_worker.get("lichtstrom_worker_results_total", 0) >= 3
            and of_worker.get("lichtstrom_group_rejected_total", 0) == 1
            and of_sink.get("lichtstrom_sink_frames_total", 0) >= 5
            and of_exporter.get("lichtstrom_stream_head_frame", -1) >= 5
            and of_exporter.get("lichtstrom_group_dead_letters", 0) == 1
            and of_exporter.get("lichtstrom_group_members", 0) == 1
            # whatever dashboards and alerts read comes from some process
            and names >= METRICS.keys()
        )

    assert wait_until(is_seen, timeout_s=LIMIT_S), (
        sorted(METRICS.keys() - names),
        last,
        *(command.log for command in commands),
    )
    assert names <= METRICS.keys()
    _check_status(beamtime, tmp_path)
    for command in (adapter, worker, sink):
        assert command.process.wait(LIMIT_S) == 0, command.log
    exporter.process.terminate()
    exporter.process.wait(LIMIT_S)
    assert last[0]["lichtstrom_publish_missing_frames"] == 0
    assert last[0]["lichtstrom_publish_bytes_total"] >= 5 * 32 * 32 * 2

    _check_trace([command.spans() for command in (adapter, worker, sink)])
    _check_log(worker.log, beamtime)


def _check_status(beamtime: str, spool: Path) -> None:
    """``status`` says in a terminal what the exporter says, and more under --json than before."""
    arguments = ["status", "--beamtime", beamtime, "--spool", str(spool)]
    told = [
        subprocess.run(
            [str(LICHTSTROM), *arguments, *form],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=True,
        ).stdout
        for form in ([], ["--json"])
    ]
    facts = json.loads(told[1])
    assert facts["kafka"]
    rows = {row["stream"]: row for row in facts["streams"]}
    source = rows[f"{beamtime}/cam/scan"]
    assert source["head"] >= 5
    (group,) = source["groups"]
    assert (group["group"], group["dead_letters"]) == ("g", 1)
    assert group.keys() >= {"frames", "seconds", "retries", "records", "members"}
    assert facts["spools"] == [{"spool": str(spool), "segments": 0, "nbytes": 0}]
    for text in (f"{beamtime}/res/scan", "dead letters", "frames/s", "0 segments"):
        assert text in told[0]


def _check_trace(spans: list[list[dict[str, Any]]]) -> None:
    """Adapter, worker and sink name one trace for frame 5, and each span its parent."""
    of_frame = [[span for span in each if _frame(span) == 5] for each in spans]
    (published,), worked, (sunk,) = of_frame
    (work,) = [s for s in worked if s["name"] == "work"]
    (result,) = [s for s in worked if s["name"] == "publish"]
    everything = [published, work, result, sunk]
    assert len({span["traceId"] for span in everything}) == 1
    assert len({span["spanId"] for span in everything}) == 4
    assert "parentSpanId" not in published
    assert work["parentSpanId"] == sunk["parentSpanId"] == published["spanId"]
    assert result["parentSpanId"] == work["spanId"]
    assert all(int(s["startTimeUnixNano"]) <= int(s["endTimeUnixNano"]) for s in everything)
    numbers = [_frame(span) for each in spans for span in each]
    assert [number for number in numbers if number % 5] == []


def _frame(span: dict[str, Any]) -> int:
    return next(int(a["value"]["intValue"]) for a in span["attributes"] if a["key"] == "frame")


def _check_log(log: str, beamtime: str) -> None:
    """Every line is JSON but the address; the frame that failed is named with all that is known."""
    lines = [json.loads(line) for line in log.splitlines() if not line.startswith("metrics: ")]
    (given_up,) = [line for line in lines if "is given up" in line["message"]]
    assert (given_up["level"], given_up["frame"], given_up["group"]) == ("error", 3, "g")
    found = (given_up["beamtime"], given_up["detector"], given_up["stream"])
    assert found == (beamtime, "cam", "scan")


def test_what_several_writers_of_files_do_is_told_by_the_process_that_started_them(
    commands: list[Watched], tmp_path: Path, beamtime: str
) -> None:
    from pipeline.session import connect

    with connect() as session, session.publish(beamtime, "d", "s", frames_per_chunk=1) as out:
        for number in range(20):
            out.write(np.full((4, 4), number, np.uint16), number=number)
        out.flush()
        arguments = ("--out", str(tmp_path / "out"), "--follow", "--writers", "2")
        commands.append(Watched(tmp_path, "sink", "sink", "hdf5", f"{beamtime}/d/s", *arguments))
        (sink,) = commands
        written: list[float] = []

        def all_told() -> bool:
            written.append(sink.samples(beamtime).get("lichtstrom_sink_frames_total", 0.0))
            return written[-1] == 20

        assert wait_until(all_told, timeout_s=LIMIT_S), (written[-1], sink.log)
        assert sink.samples(beamtime)["lichtstrom_stage_seconds"] > 0
    assert sink.process.wait(LIMIT_S) == 0, sink.log
    # each writer traces on its own, into the same file
    assert {s["name"] for s in sink.spans()} == {"sink"}
    assert len(sink.spans()) == 4

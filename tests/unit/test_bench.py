"""The bench's rows, frames and table, without servers."""

from __future__ import annotations

import io
import json
import os
from datetime import UTC, datetime

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from pipeline.bench import ground as grounds
from pipeline.bench.bare import Objects, plain_write
from pipeline.bench.children import Child, Line, Usage, resident_nbytes
from pipeline.bench.connecting import connected
from pipeline.bench.ground import Ground, heat, prune
from pipeline.bench.images import SIZES, Images
from pipeline.bench.rows import Row, percentile, row
from pipeline.bench.runner import ROWS, chosen, measure, report
from pipeline.bench.startup import start_up
from pipeline.bench.table import drawn
from pipeline.cli.bench import command as bench
from pipeline.errors import InvalidArgumentError, PipelineError, RuntimeUnavailableError
from pipeline.naming import segment_key

IDS = [
    "publish.file.1200kB",
    "publish.s3.1200kB",
    "publish.file.64KiB",
    "publish.file.4KiB",
    "latency.file.200Hz",
    "latency.s3.200Hz",
    "sustain.file.2kHz",
    "random.1e4",
    "random.1e6",
    "random.1e7",
    "select.1e6",
    "cpu.publisher.1200kB",
    "memory.publisher",
    "memory.reader",
    "import.pipeline",
    "import.help",
]


class FrameOf:
    """What a reader gives, as far as the check looks at it."""

    def __init__(self, number: int, image: np.ndarray) -> None:
        self.number = number
        self.payload = memoryview(image.tobytes())


def echo(line: Line, text: str) -> None:
    line.say("started", text=text)
    line.wait()
    line.say("done")


def fail(line: Line, text: str) -> None:
    raise PipelineError(text)


def stumble(line: Line, text: str) -> None:
    raise KeyError(text)


def leave(line: Line, _: str) -> None:
    os._exit(3)


def test_all_the_rows_that_others_rely_on_are_there():
    assert set(IDS) <= set(ROWS)
    assert chosen(["random.1e4", "random.1e4"]) == ["random.1e4"]
    assert chosen([]) == list(ROWS)


def test_a_row_that_needs_connectors_says_why_it_is_skipped(tmp_path, monkeypatch):
    def up(*_, **__):
        raise RuntimeUnavailableError("no Maven here")

    monkeypatch.setattr("pipeline.local.up", up)
    told = []
    ground = Ground(home=tmp_path, info=None, quick=True, tell=told.append)
    found = connected(ground, "connect.raw.1200kB")
    assert (found.value, found.error) == (None, "")
    assert found.conditions == "skipped: no Maven here"
    assert told == ["connect.raw.1200kB skipped: no Maven here"]


def test_an_unknown_row_names_the_known_ones():
    with pytest.raises(InvalidArgumentError, match=r"publish\.file\.1200kB"):
        chosen(["publish.tape"])


def test_a_row_is_the_median_of_its_runs_beside_the_median_limit():
    found = row("x", [1.0, 9.0, 2.0], [4.0, 8.0, 1.0], unit="MB/s", conditions=["here"])
    assert (found.value, found.limit, found.ratio, found.runs) == (2.0, 4.0, 0.5, 3)
    assert found.conditions == "here; runs 1, 9, 2"


def test_percentiles_of_one_value_are_that_value():
    assert percentile([3.0], 99) == 3.0


def test_the_report_has_exactly_the_agreed_keys():
    rows = [row("x", [1.23456], [2.0], unit="ms", conditions=[]), Row(id="y", error="no disk")]
    found = json.loads(json.dumps(report(rows, datetime.now(UTC))))
    assert list(found) == ["version", "machine", "started", "rows"]
    assert list(found["rows"][0]) == (
        ["id", "value", "unit", "limit", "ratio", "p50", "p99", "runs", "conditions"]
    )
    assert found["rows"][0]["value"] == 1.235
    assert found["rows"][1]["error"] == "no disk"
    assert found["rows"][1]["value"] is None


def test_the_table_shows_rows_limits_and_failures():
    rows = [
        row("x", [1234.0], [2000.0], unit="MB/s", conditions=["why"]),
        Row(id="y", error="gone"),
    ]
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(drawn(rows, conditions=True))
    text = console.export_text()
    assert "1,234" in text
    assert "0.617" in text
    assert [line[0] for line in text.splitlines()[1:]] == ["x", "y"]  # why is said below the table


@pytest.mark.parametrize("label", SIZES)
def test_every_byte_of_a_frame_is_checked(label):
    images = Images(SIZES[label])
    image = images.make(7, given_ns=42).copy()
    assert image.nbytes == SIZES[label].nbytes
    assert Images(SIZES[label]).check(FrameOf(7, image), 7) == 42
    image[-1, -1] ^= 1
    with pytest.raises(PipelineError, match="frame 7 is not frame 7"):
        images.check(FrameOf(7, image), 7)


def test_a_frame_in_anothers_place_is_noticed():
    images = Images(SIZES["4KiB"])
    with pytest.raises(PipelineError, match="frame 5"):
        images.check(FrameOf(5, images.make(4)), 5)


def test_a_child_is_led_step_by_step():
    with Child(echo, "hello") as child:
        assert child.hear("started")["text"] == "hello"
        child.go_on()
        child.hear("done")


@pytest.mark.parametrize(
    ("role", "message"), [(fail, "spoilt"), (stumble, "KeyError"), (leave, "ended")]
)
def test_the_error_of_a_child_reaches_the_parent(role, message):
    with pytest.raises(PipelineError, match=message), Child(role, "spoilt") as child:
        child.hear("started")


def test_a_silent_child_is_given_up_and_ended():
    with pytest.raises(PipelineError, match="nothing heard"), Child(echo, "x") as child:
        child.hear("started")
        child.hear("done", timeout_s=0.01)


def test_plain_writes_give_a_rate_and_processor_time(tmp_path):
    rate, cpu = plain_write(Objects(sizes=[100_000, 5], folder=tmp_path, sync=True))
    assert rate > 0
    assert cpu >= 0
    assert sorted(p.stat().st_size for p in tmp_path.iterdir()) == [5, 100_000]


def test_heating_leaves_nothing_behind(tmp_path):
    heat(tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_only_objects_that_were_consumed_are_pruned(tmp_path):
    for first in (0, 4, 8):
        key = segment_key(
            "bucket/detector/key/",
            epoch=1,
            nonce="n",
            module=0,
            first=first,
            sequence=first,
            suffix=".bin",
        )
        path = tmp_path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    prune(tmp_path / "bucket", 7)
    left = sorted(int(path.name[3:15]) for path in tmp_path.rglob("*.bin"))
    assert left == [4, 8]


def test_usage_counts_from_its_making():
    facts = Usage().facts()
    assert facts["done_s"] >= facts["begun_s"]
    assert facts["cpu_s"] >= 0
    assert resident_nbytes() > 1_000_000


def test_too_little_disk_is_said_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(grounds, "DISK_NBYTES", 10**18)
    with pytest.raises(PipelineError, match=r"needs 1e\+09 GB of free disk"):
        list(measure(["import.help"], home=tmp_path, quick=True, tell=lambda _: None))


def test_start_up_times_whole_processes():
    found = start_up(None, "import.pipeline")
    assert found.unit == "ms"
    assert found.value > 0


def test_an_unknown_row_is_wrong_usage():
    done = CliRunner().invoke(bench, ["nonsense"])
    assert done.exit_code == 2
    assert "nonsense" in done.output


def test_a_failed_row_is_reported_and_the_exit_status_is_1(monkeypatch):
    monkeypatch.setattr(
        "pipeline.bench.runner.measure", lambda *_, **__: iter([Row(id="x", error="broken")])
    )
    done = CliRunner().invoke(bench, ["--json", "import.help"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["rows"][0]["error"] == "broken"
    assert "failed: broken" in CliRunner().invoke(bench, ["import.help"]).output

"""The sizing guide's arithmetic, held against what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.bench.sizing import Wanted, check, size
from pipeline.cli.root import lichtstrom
from pipeline.errors import InvalidArgumentError

#: Rows of `bench --json` on two quiet cores, 2026-11-23 (docs/performance.md).
MEASURED = Path(__file__).with_name("bench_quiet.json")


def test_what_was_measured_is_predicted_within_a_factor_of_two() -> None:
    rows = json.loads(MEASURED.read_text())["rows"]
    found = check(rows, cores=2)
    assert {row["id"] for row in found} == {row["id"] for row in rows}
    assert {r["id"]: r["ratio"] for r in found if not 0.5 <= r["ratio"] <= 2.0} == {}


def test_the_load_of_the_guide_takes_what_the_guide_says() -> None:
    found = size(Wanted(rate_gb_per_s=20, frame_mb=8, workers=1000, work_s=0.5))
    assert found["frames_per_s"] == 2500
    assert found["runners"] == 25
    assert found["partitions"] == 64
    assert found["brokers"] == 3
    # 1000 workers of half a second do 1800 of 2500 frames a second.
    assert found["workers_needed"] == 1389
    assert found["workers_carry_frames_per_s"] == 1800
    # More gateways for the network (20 GB/s in, 40 out) than for their processors alone.
    assert found["gateway_cores"] == pytest.approx(20 * 2.7 + 40 * 0.32)
    assert found["gateways"] == 7


def test_twice_the_rate_takes_twice_the_processors() -> None:
    one, two = (size(Wanted(rate_gb_per_s=rate, frame_mb=8)) for rate in (10, 20))
    for name in ("publisher_cores", "gateway_cores", "store_tb_per_day"):
        assert two[name] == pytest.approx(2 * one[name])


def test_small_frames_share_segments_and_a_file_store_needs_no_gateways() -> None:
    found = size(Wanted(rate_gb_per_s=1, frame_mb=0.064, store="file"))
    assert found["segments_per_s"] < found["frames_per_s"] / 50
    assert found["gateways"] == 0


@pytest.mark.parametrize("wrong", [{"rate_gb_per_s": 0}, {"frame_mb": -1}, {"workers": -1}])
def test_a_load_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidArgumentError):
        Wanted(**({"rate_gb_per_s": 1, "frame_mb": 1} | wrong))


def test_the_command_says_when_workers_are_too_few_and_checks_a_bench() -> None:
    run = CliRunner().invoke(lichtstrom, ["sizing", "--rate-GBs", "20", "--workers", "1000"])
    assert run.exit_code == 0, run.output
    assert "1000 workers carry 1,800 of 2,500 frames/s" in run.stderr
    checked = CliRunner().invoke(lichtstrom, ["sizing", "--check", str(MEASURED), "--json"])
    assert checked.exit_code == 0, checked.output
    assert all(0.5 <= row["ratio"] <= 2 for row in json.loads(checked.stdout))


def test_a_bench_beyond_the_factor_fails(tmp_path: Path) -> None:
    content = json.loads(MEASURED.read_text())
    content["rows"][0]["value"] *= 10
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(content))
    run = CliRunner().invoke(lichtstrom, ["sizing", "--check", str(path)])
    assert run.exit_code == 1
    assert content["rows"][0]["id"] in run.stderr
    path.write_text("[]")
    assert CliRunner().invoke(lichtstrom, ["sizing", "--check", str(path)]).exit_code == 1

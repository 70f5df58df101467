"""Rows of the bench on the real servers, with counts as small as they can be."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from pipeline.bench import lookup, rates, relay, resources
from pipeline.bench.ground import Ground
from pipeline.bench.runner import ROWS
from pipeline.cli.bench import command as bench
from pipeline.local.state import load_info

pytestmark = pytest.mark.service


@pytest.fixture
def ground(runtime_home) -> Ground:
    return Ground(home=runtime_home, info=load_info(runtime_home), quick=True, tell=print)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Cut what is moved: these tests are about the figures' being there, not their size."""
    for module in (rates, resources, lookup):
        monkeypatch.setattr(module, "GB", 20_000_000, raising=False)
    monkeypatch.setattr(relay, "_COUNT", 60)


@pytest.mark.parametrize(
    "name",
    ["publish.file.1200kB.disk", "publish.s3.1200kB", "publish.file.4KiB", "memory.reader"],
)
def test_a_rate_or_a_size_stands_beside_its_limit(ground, name):
    found = ROWS[name](ground, name)
    assert found.value is not None
    assert found.limit > 0
    assert "durability" in found.conditions
    assert not list((ground.home / "store").glob("lichtstrom-bench*"))


def test_frames_are_found_at_random_and_selected(ground):
    found = lookup.at_random(replace(ground, quick=True), "random.1e4")
    assert found.p99 >= found.p50 > 0
    chosen = lookup.selecting(ground, "select.1e4")
    assert chosen.unit == "frames/s"
    assert chosen.value > 0


def test_the_command_prints_what_design_says(runtime_home):
    done = CliRunner().invoke(
        bench, ["--quick", "--json", "--home", str(runtime_home), "latency.s3.200Hz"]
    )
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["rows"]
    assert row["id"] == "latency.s3.200Hz"
    assert row["unit"] == "ms"
    assert row["runs"] == 3

"""Dashboards and alert rules: they name metrics that exist, and people can read them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.telemetry.names import METRICS, STAGES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "compose/grafana/dashboards"
BOARDS = [FOLDER / f"{name}.json" for name in ("beamline", "dataflow", "health")]
RULES = ROOT / "compose/prometheus/rules/lichtstrom.yml"
#: Of Prometheus itself and of prometheus_client.
OTHERS = {
    *("up", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"),
}
_LIMIT_S = 60


def names_in(expression: str) -> set[str]:
    """The metrics that an expression reads, without suffixes of histograms."""
    plain = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|by \([^)]*\)', " ", expression)
    found = set(re.findall(r"\b(?:lichtstrom_\w+|process_\w+|up)\b", plain))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def panels(board: Path) -> list[dict[str, Any]]:
    return [p for p in json.loads(board.read_text())["panels"] if p["type"] != "row"]


def rules() -> list[tuple[str, str]]:
    return re.findall(r"- alert: (\w+)\n\s+expr: >-\n\s+(.*)\n", RULES.read_text())


def test_boards_have_ids_of_their_own() -> None:
    assert len({json.loads(board.read_text())["uid"] for board in BOARDS}) == 3


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.stem)
def test_a_board_reads_only_metrics_that_exist(board: Path) -> None:
    data = json.loads(board.read_text())
    queries = [v["definition"] for v in data["templating"]["list"] if v["type"] == "query"]
    queries += [target["expr"] for panel in panels(board) for target in panel["targets"]]
    for query in queries:
        assert names_in(query) - METRICS.keys() <= OTHERS, query
        for stage in re.findall(r'stage="(\w+)"', query):
            assert stage in STAGES, query


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.stem)
def test_a_board_can_be_read_by_people(board: Path) -> None:
    data = json.loads(board.read_text())
    assert data["description"]
    assert any(v["type"] == "datasource" for v in data["templating"]["list"])
    assert any(v["type"] == "query" for v in data["templating"]["list"])
    for panel in panels(board):
        assert panel["title"], panel
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"], panel["title"]
    assert len({panel["id"] for panel in data["panels"]}) == len(data["panels"])


def test_every_metric_is_to_be_seen_somewhere() -> None:
    text = "".join(board.read_text() for board in BOARDS) + RULES.read_text()
    assert [name for name in METRICS if name not in text] == []


def test_alerts_read_metrics_that_exist_and_have_a_run_book() -> None:
    found = rules()
    assert len(found) == RULES.read_text().count("- alert:") > 20
    page = (ROOT / "docs/operations.md").read_text()
    for name, expression in found:
        assert names_in(expression) - METRICS.keys() <= OTHERS, name
        section = page.partition(f"### {name}\n")[2].partition("\n### ")[0]
        assert f"`{expression}`" in section, name
        for part in ("**What it means.**", "**What to look at.**", "**What to do.**"):
            assert part in section, name
        assert f"runbook: docs/operations.md#{name.lower()}" in RULES.read_text()
    assert set(re.findall(r"^### (Lichtstrom\w+)$", page, re.MULTILINE)) == {n for n, _ in found}


@pytest.mark.parametrize("command", [("check", "rules"), ("test", "rules")], ids=" ".join)
def test_promtool_accepts_the_rules_and_their_tests(command: tuple[str, str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("ALERT RULES NOT CHECKED: no promtool here (Debian: apt install prometheus)")
    file = RULES if command[0] == "check" else ROOT / "tests/unit/alert_rules_test.yml"
    done = subprocess.run(
        [promtool, *command, str(file)],
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

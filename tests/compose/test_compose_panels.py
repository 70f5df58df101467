"""The reading of dashboards: what Grafana would send is what the check of the stack asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from compose_panels import queries


def dashboard(path: Path, *expressions: str, variables: tuple[dict[str, Any], ...] = ()) -> Path:
    panels = [
        {"type": "timeseries", "title": f"p{i}", "targets": [{"expr": text}]}
        for i, text in enumerate(expressions)
    ]
    path.write_text(json.dumps({"panels": panels, "templating": {"list": list(variables)}}))
    return path


def label_values(label: str, selector: str | None) -> list[str]:
    return ["c1", "c.2"] if (label, selector) == ("beamtime", "frames_total") else []


def test_every_spelling_of_a_variable_is_filled(tmp_path: Path) -> None:
    variable = {"name": "b", "type": "query", "query": "label_values(frames_total, beamtime)"}
    path = dashboard(
        tmp_path / "d.json",
        'rate(x{b="$b"}[$__rate_interval]) + y{b="${b}"} + z{b="${b:regex}"} + w{b="[[b]]"}',
        variables=(variable,),
    )
    (query,) = queries(path, label_values)
    assert query.expression == 'rate(x{b="c1"}[30s]) + y{b="c1"} + z{b="c1"} + w{b="c1"}'


def test_all_is_every_value_as_a_regular_expression(tmp_path: Path) -> None:
    variable = {
        "name": "b",
        "type": "query",
        "query": {"query": "label_values(frames_total, beamtime)"},
        "includeAll": True,
    }
    path = dashboard(tmp_path / "d.json", 'x{b=~"$b"}', variables=(variable,))
    assert queries(path, label_values)[0].expression == r'x{b=~"(c1|c\.2)"}'


def test_panels_inside_a_folded_row_are_asked_too(tmp_path: Path) -> None:
    inner = {"type": "stat", "title": "inner", "targets": [{"expr": "up"}]}
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"panels": [{"type": "row", "title": "r", "panels": [inner]}]}))
    assert [query.panel for query in queries(path, label_values)] == ["inner"]


@pytest.mark.parametrize(
    ("expression", "variables"),
    [
        ("x{b='$gone'}", ()),
        ("x", ({"name": "b", "type": "query", "query": "label_values(gone, beamtime)"},)),
        ("x", ({"name": "b", "type": "query", "query": "metrics(.*)"},)),
        ("x", ({"name": "b", "type": "adhoc", "query": ""},)),
    ],
    ids=["unknown variable", "no value", "not understood", "unknown type"],
)
def test_what_would_show_nothing_in_grafana_is_an_error(
    tmp_path: Path, expression: str, variables: tuple[dict[str, Any], ...]
) -> None:
    with pytest.raises(ValueError, match="variable"):
        queries(dashboard(tmp_path / "d.json", expression, variables=variables), label_values)


def test_a_dashboard_without_queries_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no panel has a query"):
        queries(dashboard(tmp_path / "d.json"), label_values)

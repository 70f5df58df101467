"""The queries of Grafana's dashboards, as Prometheus gets them, with variables filled."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What Grafana itself fills in, for a panel that shows the last minutes.
BUILT_IN = {
    "__rate_interval": "30s",
    "__interval": "15s",
    "__interval_ms": "15000",
    "__range": "2m",
    "__range_s": "120",
    "__range_ms": "120000",
}
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::\w+)?\}|(\w+)|)|\[\[(\w+)\]\]")
_LABEL_VALUES = re.compile(
    r"label_values\((?:(?P<metric>.+),)?\s*(?P<label>\w+)\s*\)\s*$", re.DOTALL
)

#: Returns the values of a label, of all series or of those that a selector matches.
LabelValues = Callable[[str, str | None], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One query of one panel."""

    dashboard: str
    panel: str
    expression: str

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel}: {self.expression}"


def queries(path: Path, label_values: LabelValues) -> list[Query]:
    """Return every panel's queries of one dashboard, variables filled as Grafana would.

    A variable with "all" takes every value, one without the first.  A dashboard without any query,
    or a query with an unknown variable, raises ValueError: either shows nothing in Grafana.
    """
    dashboard = json.loads(path.read_text())
    values = dict(BUILT_IN)
    for variable in dashboard.get("templating", {}).get("list", []):
        values[variable["name"]] = _value(variable, values, label_values)
    found = [
        Query(dashboard=path.stem, panel=panel["title"], expression=fill(target["expr"], values))
        for panel in _panels(dashboard.get("panels", []))
        for target in panel.get("targets", [])
    ]
    if not found:
        raise ValueError(f"{path}: no panel has a query")
    return found


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace ``$name``, ``${name}``, ``${name:format}`` and ``[[name]]``."""

    def one(match: re.Match[str]) -> str:
        name = next((group for group in match.groups() if group), None)
        if name is None:
            return match[0]
        if name not in values:
            raise ValueError(f"{text!r}: the dashboard has no variable {name!r}")
        return values[name]

    return _VARIABLE.sub(one, text)


def _panels(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in panels:
        if panel["type"] != "row":
            yield panel
        yield from _panels(panel.get("panels", []))  # of a row that is folded


def _value(
    variable: Mapping[str, Any], values: Mapping[str, str], label_values: LabelValues
) -> str:
    kind = variable["type"]
    if kind == "query":
        query = variable["query"]
        text = fill(query["query"] if isinstance(query, dict) else query, values)
        match = _LABEL_VALUES.match(text)
        if match is None:
            raise ValueError(f"variable {variable['name']}: {text!r} is no label_values(...)")
        options = label_values(match["label"], match["metric"])
        if variable.get("regex"):
            pattern = re.compile(variable["regex"].strip("/"))
            options = [value for value in options if pattern.search(value)]
        if not options:
            raise ValueError(f"variable {variable['name']}: {text} has no value")
        if variable.get("includeAll"):
            return variable.get("allValue") or "(" + "|".join(map(re.escape, options)) + ")"
        return options[0]
    if kind in {"custom", "interval", "constant", "textbox"}:
        return str(variable["query"]).split(",")[0].strip()
    if kind == "datasource":
        return "prometheus"
    raise ValueError(f"variable {variable['name']}: type {kind!r} is not known here")

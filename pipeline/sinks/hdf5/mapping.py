"""What a user wants in the file besides: a TOML file of paths and where their values come from.

::

    ["entry/sample/temperature"]
    from = "temperature_K"              # metadata of the stream, or an attribute of its first frame
    units = "K"

    ["entry/instrument/attenuator/attenuator_transmission"]
    value = 0.35
    class = "NXattenuator"              # of the group, where it is made for this

    ["entry/sample/transformations/kappa"]
    each = "kappa_deg"                  # an attribute of every frame
    units = "degree"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InvalidArgumentError
from pipeline.nexus.facts import Facts
from pipeline.nexus.text import as_text, link_name
from pipeline.nexus.tree import Field, Group, as_attribute
from pipeline.sinks.hdf5.finished import Finished
from pipeline.sinks.hdf5.sayings import MAPPED

_ATTRIBUTES = "entry/instrument/detector/attributes"
_KEYS = frozenset({"from", "value", "each", "units", "class"})
_SOURCES = ("from", "value", "each")


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedField:
    """One field: exactly one of ``source`` (a name), ``value`` and ``each`` (a name) is set."""

    path: tuple[str, ...]
    source: str = ""
    value: Any = None
    each: str = ""
    units: str = ""
    nx_class: str = "NXcollection"


def load_mapping(path: Path) -> Mapped:
    """Return what a mapping file says; raises InvalidArgumentError that says what is wrong."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidArgumentError("map", f"{path}: {error}") from error
    return Mapped([_field(path, name, table) for name, table in tables.items()])


def _field(file: Path, name: str, table: object) -> MappedField:
    where = f"{file}: {name!r}"
    parts = tuple(name.strip("/").split("/"))
    if not isinstance(table, Mapping):
        raise InvalidArgumentError("map", f"{where} must be a table, such as [{name!r}]")
    unknown = sorted(set(table) - _KEYS)
    if unknown:
        raise InvalidArgumentError("map", f"{where}: {unknown[0]!r} is none of {sorted(_KEYS)}")
    given = [key for key in _SOURCES if key in table]
    if len(given) != 1:
        raise InvalidArgumentError("map", f"{where} must have one of from, value, each")
    if len(parts) < 3 or parts[0] != "entry" or not all(parts):
        raise InvalidArgumentError("map", f"{where} must be a path like entry/sample/temperature")
    if parts[1] in ("data", "provenance"):
        raise InvalidArgumentError("map", f"{where}: entry/{parts[1]} is the sink's own")
    return MappedField(
        path=parts,
        source=str(table.get("from", "")),
        value=table.get("value"),
        each=str(table.get("each", "")),
        units=str(table.get("units", "")),
        nx_class=str(table.get("class", "NXcollection")),
    )


@dataclass(frozen=True, slots=True)
class Mapped:
    """What a file gets by a mapping."""

    fields: Sequence[MappedField]

    def __call__(self, tree: Group, _: Finished, facts: Facts) -> list[str]:
        """Add the fields to a file's tree, in the place of those it has; return those without."""
        return _add(tree, facts, self.fields)


def _add(tree: Group, facts: Facts, fields: Sequence[MappedField]) -> list[str]:
    without: list[str] = []
    for field in fields:
        name = "/".join(field.path)
        group = _parent(tree, field)
        more = {"units": field.units} if field.units else {}
        more[MAPPED] = field.source or "value"
        if field.each:
            if not _link_column(tree, group, field):
                without.append(name)
            continue
        value = facts.get(field.source) if field.source else field.value
        if value is None:
            without.append(name)
            continue
        plain = isinstance(value, int | float | str) and not isinstance(value, bool)
        group.field(field.path[-1], value if plain else as_text(value), **more)
    return without


def _link_column(tree: Group, group: Group, field: MappedField) -> bool:
    """Let a field be another name of the column of an attribute; False if no frame has it."""
    columns: Any = tree
    for name in _ATTRIBUTES.split("/"):
        columns = columns.nodes[name]
    column = columns.nodes.get(link_name(field.each))
    if not isinstance(column, Field):
        return False
    group.link(field.path[-1], f"/{_ATTRIBUTES}/{link_name(field.each)}")
    if field.units:
        column.attributes["units"] = as_attribute(field.units)
        column.attributes[MAPPED] = as_attribute(field.each)
    return True


def _parent(tree: Group, field: MappedField) -> Group:
    """Return the group of a field, made where there is none."""
    for name in field.path[:-1]:
        node = tree.nodes.get(name)
        tree = node if isinstance(node, Group) else tree.group(name, field.nx_class)
    return tree

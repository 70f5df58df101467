"""Documents that do not contradict each other, or the code."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import ROOT, anchors, blocks, headings, pages, prose

import pipeline
from pipeline import errors
from pipeline.connectors import errors as connect_errors

_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def links(path: Path) -> list[str]:
    return [a or b for a, b in _LINK.findall(prose(path))]


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"https?://", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name}: {link}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.name}: {link}; there are {anchors(path)}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached:
            continue
        reached.add(page)
        for link in links(page):
            path = (page.parent / link.partition("#")[0]).resolve()
            if path.suffix == ".md" and path.is_file():
                todo.append(path)
            elif path.is_dir():
                todo.extend(path.glob("*.md"))
    assert set(pages()) == reached


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_paths_of_the_code_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:pipeline|schemas|tests|docs|examples)/[\w./-]+\.\w+)`", page.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


# -- public names -------------------------------------------------------------------------------


def documented_names() -> set[str]:
    rows = re.findall(r"^\| `(\w+)[^`]*` \|", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    return set(rows)


def test_the_public_names_are_those_documented() -> None:
    assert documented_names() == set(pipeline.__all__)


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(pipeline, name) is not None for name in pipeline.__all__)
    assert set(pipeline.__all__) <= set(dir(pipeline))


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'conect'"):
        pipeline.conect  # type: ignore[attr-defined]  # noqa: B018


def test_every_error_is_public() -> None:
    tree = {
        name
        for name, value in {**vars(errors), **vars(connect_errors)}.items()
        if isinstance(value, type) and issubclass(value, errors.PipelineError)
    }
    assert tree <= set(pipeline.__all__)


def test_types_and_run_time_name_the_same_things() -> None:
    tree = ast.parse(Path(pipeline.__file__).read_text())
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline.")
        for alias in node.names
    }
    assert set(typed) | {"__version__"} == set(pipeline.__all__)
    for name, module in typed.items():
        assert getattr(importlib.import_module(module), name) is getattr(pipeline, name)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, pipeline; print(*(m for m in sys.modules if not m.startswith('_')))"
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()
    assert not {"numpy", "confluent_kafka", "obstore", "fastavro", "h5py", "click"} & set(out)


# -- schemas ------------------------------------------------------------------------------------


def described(section: str) -> list[tuple[str, str]]:
    """(field, type) of each row of a schema's table in docs/wire.md."""
    text = (ROOT / "docs/wire.md").read_text()
    found = re.search(rf"^##+ {section}\b.*?\n(.*?)(?=^##+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/wire.md has no section {section}"
    return re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", found[1], re.MULTILINE)


def plain(kind: object) -> str:
    """An Avro type as the tables write it."""
    if isinstance(kind, list):
        return " or ".join(plain(k) for k in kind)
    if isinstance(kind, dict):
        if kind["type"] == "array":
            return f"array of {plain(kind['items'])}"
        if kind["type"] == "map":
            return f"map of {plain(kind['values'])}"
        if kind["type"] == "fixed":
            return f"fixed {kind['size']}"
        return str(kind["name"])
    return str(kind)


OLD = re.compile(r"-v\d+$")


def schemas() -> list[Path]:
    return sorted((ROOT / "schemas").glob("*.avsc"))


@pytest.mark.parametrize("path", schemas(), ids=lambda p: p.stem)
def test_the_page_of_the_wire_lists_the_fields_of_every_schema(path: Path) -> None:
    todo = [json.loads(path.read_text())]
    while todo:
        schema = todo.pop()
        fields = [(f["name"], plain(f["type"])) for f in schema["fields"]]
        found = described(schema["name"])
        # An older version has the first fields of the newest: schemas only grow.
        assert (found[: len(fields)] if OLD.search(path.stem) else found) == fields
        for field in schema["fields"]:
            kind = field["type"]
            items = kind.get("items") if isinstance(kind, dict) else None
            if isinstance(items, dict) and items["type"] == "record":
                todo.append(items)


def test_every_schema_file_is_named_on_the_page_of_the_wire() -> None:
    text = (ROOT / "docs/wire.md").read_text()
    assert [p.name for p in schemas() if f"schemas/{p.name}" not in text] == []


# -- decisions ----------------------------------------------------------------------------------


def decisions() -> list[Path]:
    return sorted((ROOT / "docs/decisions").glob("*.md"))


def test_decisions_are_numbered_without_holes() -> None:
    numbers = [int(path.name[:4]) for path in decisions()]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("path", decisions(), ids=lambda p: p.stem)
def test_a_decision_says_context_choice_rejected_and_consequences(path: Path) -> None:
    title, *rest = headings(path)
    assert title.startswith(path.name[:4] + ": ")
    assert rest == ["Context", "Choice", "Rejected", "Consequences"]
    assert re.search(r"^20\d\d-\d\d-\d\d$", path.read_text(), re.MULTILINE)
    assert len(path.read_text().splitlines()) <= 80, "longer than a page"


# -- the picture --------------------------------------------------------------------------------


def test_a_block_that_is_not_run_says_why() -> None:
    for page in pages():
        for block in blocks(page, "python", "sh"):
            assert not block.not_run or len(block.not_run) > 10, str(block)

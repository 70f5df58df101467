"""Markdown as the tests of the documents see it: fenced blocks, links, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(
    r"^(?P<mark><!-- not run: (?P<why>[^>]+) -->\n)?^```(?P<language>[a-z]*)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block; ``not_run`` is the reason given above it, if there is one."""

    path: Path
    line: int
    language: str
    body: str
    not_run: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """All documents of the repository."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "compose").glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(pages)


def blocks(path: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a document in order; of some languages, or all."""
    return [b for b in _blocks(path) if not languages or b.language in languages]


def _blocks(path: Path) -> Iterator[Block]:
    text = path.read_text()
    for found in _FENCE.finditer(text):
        yield Block(
            path=path,
            line=text.count("\n", 0, found.start("language")) + 1,
            language=found["language"],
            body=found["body"],
            not_run=(found["why"] or "").strip(),
        )


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return _FENCE.sub("", path.read_text())


def headings(path: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """The anchors that a document's headings make."""
    plain = (re.sub(r"[`*]", "", heading).lower() for heading in headings(path))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}

"""What is wrong with a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
#: How many things of one kind are named in a file; the rest is counted.
MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, what, and what can be done."""

    file: str
    where: str
    what: str
    todo: str

    def __str__(self) -> str:
        return f"{self.file}: {self.where}: {self.what}; {self.todo}"


def first_of_each_file(findings: Iterable[Finding | T]) -> Iterator[Finding | T]:
    """Yield so many of each file as anybody reads, and last how many more there are.

    What is no finding is passed on.
    """
    counts: Counter[str] = Counter()
    for finding in findings:
        if not isinstance(finding, Finding):
            yield finding
            continue
        counts[finding.file] += 1
        if counts[finding.file] <= MOST_NAMED:
            yield finding
    for file, count in counts.items():
        if count > MOST_NAMED:
            what = f"{count - MOST_NAMED} more differences from the stream"
            yield Finding(file, "/", what, "take it from the stream again")

"""The account of a stream: what came, what did not, and what was wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NotRequired, TypedDict

import numpy as np

from pipeline.reading.merge import Floors
from pipeline.reading.ranges import Ranges, unique
from pipeline.reading.sample import sample_of
from pipeline.reading.table import FrameTable
from pipeline.records import Int64s, StreamInfo

#: Above the floor of all partitions holes are looked at number by number up to this width.
_MAX_SEARCHED = 1_000_000


class Account(TypedDict):
    """What ``verify --json`` prints; ranges are inclusive lists ``[first, last]``.

    ``received`` counts distinct good frames; ``expected`` is None unless the source says how many
    it made.  ``complete`` is true only for a stream that ended well and lacks nothing.

    ``sample`` is there only where frames were left out on purpose, which are not missing then:
    ``of`` (a stream's id), ``selection``, ``frames`` (of the source).
    """

    stream: str
    state: str
    expected: int | None
    received: int
    missing: list[list[int]]
    duplicate: list[list[int]]
    late: list[list[int]]
    corrupt: list[list[int]]
    conflict: list[list[int]]
    incomplete: list[list[int]]
    skipped: list[list[int]]
    rejected: list[list[int]]
    redelivered: int
    quarantined: list[dict[str, str]]
    complete: bool
    sample: NotRequired[dict[str, Any]]


def build_account(
    name: str, info: StreamInfo, table: FrameTable, *, corrupt: Iterable[int] = ()
) -> Account:
    """Return the account of all records in ``table``.

    Parameters
    ----------
    corrupt:
        Numbers whose payload could not be read as it was published.

    While the stream is open, only what has been passed by the floors counts as missing or
    incomplete.
    """
    merged = table.merged()
    copies = table.numbers[merged.rows]
    numbers = unique(copies)
    counts = np.diff(np.append(np.searchsorted(copies, numbers), len(copies)))
    every = len(info.start.module_indices)
    is_open = info.state == "open"
    whole = numbers[counts >= every]
    partial = Ranges.of(numbers[counts < every])
    skipped, rejected = Ranges.of(table.skipped), Ranges.of(table.rejected)
    for first, last in Ranges.of(numbers):
        skipped.remove(first, last)
        rejected.remove(first, last)
    sample = sample_of(info.start)
    missing = _holes(numbers, table)
    if sample is not None:
        missing = sample.missing
    if is_open:
        missing, partial = _passed(missing, table.floors), _passed(partial, table.floors)
    bad = unique(np.fromiter(corrupt, np.int64))
    received = int(len(whole) - np.isin(bad, whole).sum())
    account: Account = {
        "stream": name,
        "state": info.state,
        "expected": info.expected,
        "received": received,
        "missing": missing.lists(),
        "duplicate": Ranges.of(merged.duplicate).lists(),
        "late": Ranges.of(merged.late).lists(),
        "corrupt": Ranges.of(bad).lists(),
        "conflict": Ranges.of(merged.conflict).lists(),
        "incomplete": partial.lists(),
        "skipped": skipped.lists(),
        "rejected": rejected.lists(),
        "redelivered": merged.redelivered,
        "quarantined": [dict(entry) for entry in info.quarantined],
        "complete": False,
    }
    account["complete"] = _is_complete(account)
    if sample is not None:
        account["sample"] = {
            "of": sample.of,
            "selection": sample.selection,
            "frames": sample.frames,
        }
    return account


def _is_complete(account: Account) -> bool:
    if account["state"] != "complete":
        return False
    if account["missing"] or account["corrupt"] or account["conflict"]:
        return False
    if account["incomplete"] or account["rejected"] or account["quarantined"]:
        return False
    return account["expected"] is None or account["received"] == account["expected"]


def _holes(numbers: Int64s, table: FrameTable) -> Ranges:
    """Return what lies between the first and the last number known to exist and has not come."""
    ends = np.array([table.ceil] if table.ceil >= 0 else [], np.int64)
    present = np.concatenate((numbers, table.skipped, table.rejected))
    known = np.concatenate((present, ends))
    if not len(known):
        return Ranges()
    holes = Ranges([(int(known.min()), int(known.max()))])
    for first, last in Ranges.of(present):
        holes.remove(first, last)
    return holes


def _passed(ranges: Ranges, floors: Floors) -> Ranges:
    """Return the part of ``ranges`` that will not come any more."""
    everywhere = min(floors.lowest)
    found = Ranges()
    for first, last in ranges:
        found.add(first, min(last, everywhere - 1))
        rest = max(first, everywhere)
        if not floors.not_passed(rest, last + 1):
            found.add(rest, last)
        elif last - rest < _MAX_SEARCHED:
            numbers = np.arange(rest, last + 1)
            partitions = (numbers // floors.chunk) % floors.partitions
            for a, b in Ranges.of(numbers[np.array(floors.lowest)[partitions] > numbers]):
                found.add(a, b)
    return found

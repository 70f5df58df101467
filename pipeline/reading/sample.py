"""Samples: streams that hold a selection of another stream's frames, on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.frame import AttributeValue
from pipeline.reading.ranges import Ranges
from pipeline.records import Start

#: Name in a stream's lineage under which a sample says what it is of.
LINEAGE = "sample"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a sample is of.

    Parameters
    ----------
    of:
        The id of the stream it was taken from, 16 hex digits: a name may be used again.
    selection:
        How its frames were chosen, as it was said.
    frames:
        How many frames the source had when it was taken.
    missing:
        Chosen frames that the source lacked; holes elsewhere were not chosen.
    """

    of: str
    selection: str
    frames: int
    missing: Ranges

    def lineage(self) -> dict[str, AttributeValue]:
        """Return the facts as they stand in the start record."""
        facts: dict[str, Any] = {"of": self.of, "selection": self.selection}
        facts |= {"frames": self.frames, "missing": self.missing.lists()}
        return {LINEAGE: facts}


def sample_of(start: Start) -> Sample | None:
    """Return what a stream is a sample of; None for one that is whole."""
    found = start.lineage.get(LINEAGE)
    if not isinstance(found, Mapping) or not isinstance(found.get("of"), str):
        return None
    missing, frames = found.get("missing"), found.get("frames")
    holes = missing if isinstance(missing, list) else []
    return Sample(
        of=str(found["of"]),
        selection=str(found.get("selection", "")),
        frames=frames if isinstance(frames, int) else 0,
        missing=Ranges([(int(low), int(high)) for low, high in holes]),
    )

"""What became of the frames that a sink was given."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class SinkCounts:
    """What became of the frames that a sink was given.

    ``invalid`` holds the numbers whose pixels could not be written, with the reason: they do not
    decode, or have another shape or dtype than the first frame.
    """

    written: int = 0
    duplicate: int = 0
    invalid: dict[int, str] = field(default_factory=dict)
    #: How many could not be written; of several files, where modules share their numbers.
    refused: int = 0

    @classmethod
    def merged(cls, counts: Iterable[SinkCounts]) -> Self:
        """Return the counts of several files as one."""
        found = cls()
        for each in counts:
            found.written += each.written
            found.duplicate += each.duplicate
            found.refused += each.refused
            found.invalid.update(each.invalid)
        return found

    def note(self, number: int, reason: str, *, was_there: bool) -> None:
        """Count a frame that was put, with ``reason`` one whose pixels could not be."""
        if not reason:
            self.written += not was_there
            self.refused -= self.invalid.pop(number, None) is not None
            return
        self.written -= was_there
        self.refused += number not in self.invalid
        if not self.invalid:  # the first tells what is wrong; the end tells how many
            log.warning("frame cannot be written number=%d reason=%s", number, reason)
        self.invalid[number] = reason

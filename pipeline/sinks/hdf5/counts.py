"""What became of the frames that a sink was given."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

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

    def note(self, number: int, reason: str, *, was_there: bool) -> None:
        """Count a frame that was put, with ``reason`` one whose pixels could not be."""
        if not reason:
            self.written += not was_there
            self.invalid.pop(number, None)
            return
        self.written -= was_there
        if not self.invalid:  # the first tells what is wrong; the end tells how many
            log.warning("frame cannot be written number=%d reason=%s", number, reason)
        self.invalid[number] = reason

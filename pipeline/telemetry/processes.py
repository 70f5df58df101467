"""What the system knows of processes."""

from __future__ import annotations

import os
from collections.abc import Iterable


def resident_nbytes(pids: Iterable[int]) -> int:
    """Return the memory of processes, of those that can be looked at."""
    page, total = os.sysconf("SC_PAGE_SIZE"), 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm") as file:  # noqa: PTH123 -- one line of the kernel's
                total += int(file.read().split()[1]) * page
        except (OSError, ValueError, IndexError):
            continue
    return total

"""The attributes of the frames until the file is finished: JSON lines beside it.

Columns cannot be made while others read the file, and nobody knows the names before the last frame
came.  A line is [number, attributes]; a later one for the same number wins.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


class Journal:
    """Appends to ``path`` what frames say; whole lines survive the death of the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        _cut_torn_line(path)
        self._file = path.open("a", encoding="utf-8", errors="surrogatepass")

    def add(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Take what one frame says."""
        self._file.write(json.dumps([number, dict(attributes)], default=_plain) + "\n")

    def flush(self) -> None:
        """Hand what was added to the system."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close; may be called twice."""
        self._file.close()

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield what was flushed."""
        with self._path.open(encoding="utf-8", errors="surrogatepass") as lines:
            for line in lines:
                number, attributes = json.loads(line)
                yield number, attributes


def _plain(value: object) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def _cut_torn_line(path: Path) -> None:
    """Remove a last line that was not written to its end."""
    try:
        with path.open("r+b") as file:
            size = end = file.seek(0, 2)
            while end:
                begin = max(0, end - 65536)
                file.seek(begin)
                newline = file.read(end - begin).rfind(b"\n")
                if newline >= 0:
                    end = begin + newline + 1
                    break
                end = begin
            if end != size:
                file.truncate(end)
    except FileNotFoundError:
        return

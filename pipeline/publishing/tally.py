"""What a publisher remembers: counts, tokens of safe frames, the content of recent numbers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Numbers whose content is remembered, to tell a repeated frame from a contradiction at once;
#: readers find the others when they merge.
_REMEMBERED = 65_536
#: Length, checksum and digest of a frame.
Content = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Spooled:
    """The token of a draft's last frame that came from a spool file, which goes when it is safe."""

    path: Path
    token: Any


class Tally:
    """Counts and tokens; its own small lock, so that any thread may report."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: list[Any] = []
        self._published: list[Path] = []
        self.acknowledged = 0
        self.refused = 0
        self.repeated = 0

    def confirmed(self, tokens: Sequence[Any], frames: int) -> None:
        """Note frames as safe."""
        with self._lock:
            self.acknowledged += frames
            for token in tokens:
                given = token
                if isinstance(token, Spooled):
                    self._published.append(token.path)
                    given = token.token
                if given is not None:
                    self._tokens.append(given)

    def take(self) -> list[Any]:
        """Return the tokens confirmed since the last call."""
        with self._lock:
            tokens, self._tokens = self._tokens, []
            return tokens

    def take_published(self) -> list[Path]:
        """Return the spool files that are not needed any more."""
        with self._lock:
            paths, self._published = self._published, []
            return paths


class Known:
    """The content of the numbers last written, per module; bounded."""

    def __init__(self) -> None:
        self._content: OrderedDict[tuple[int, int], Content] = OrderedDict()

    def get(self, module: int, number: int) -> Content | None:
        """Return the content of a frame if it was written lately."""
        return self._content.get((module, number))

    def add(self, module: int, number: int, content: Content) -> None:
        """Remember one frame."""
        self._content[(module, number)] = content
        if len(self._content) > _REMEMBERED:
            self._content.popitem(last=False)

    def update(self, module: int, frames: Iterable[tuple[int, int, int, int]]) -> None:
        """Remember frames given as (number, length, checksum, digest)."""
        for number, *content in frames:
            self.add(module, number, (content[0], content[1], content[2]))

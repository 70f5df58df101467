"""The frames of one file that are to be published together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.codecs import byte_view
from pipeline.codecs.checksum import crc32c
from pipeline.ingest.runs import Print
from pipeline.ingest.sources import Shared
from pipeline.protocols import PlacedFrame, SourceFile


@dataclass(slots=True, eq=False)
class FileBatch:
    """Frames of a file that wait for being published with it."""

    file: SourceFile
    token: Shared
    frames: list[PlacedFrame] = field(default_factory=list)
    entries: list[Print] = field(default_factory=list)

    def print_of(self, placed: PlacedFrame) -> Print | None:
        """Return what a frame is known by; None if the file does not hold it."""
        view = byte_view(self.file.payload)
        end = placed.offset + placed.nbytes
        if placed.offset < 0 or placed.nbytes < 0 or end > view.nbytes:
            return None
        checksum = crc32c(view[placed.offset : end])
        return Print(checksum, placed.nbytes, placed.header.timestamp_ns)

    def add(self, placed: PlacedFrame, entry: Print) -> None:
        """Have one more published."""
        self.frames.append(placed)
        self.entries.append(entry)

    @property
    def checksums(self) -> list[int]:
        """CRC-32C of each frame."""
        return [entry.checksum for entry in self.entries]

    def drop(self, frame: tuple[int, int] | None) -> PlacedFrame:
        """Take out and return the last frame of this number and module, else the first of all."""
        keys = [(placed.header.number, placed.header.module) for placed in self.frames]
        index = max((at for at, key in enumerate(keys) if key == frame), default=0)
        del self.entries[index]
        return self.frames.pop(index)

    def take(self) -> Iterator[tuple[PlacedFrame, Print]]:
        """Return the frames that wait, and forget them."""
        taken = list(zip(self.frames, self.entries, strict=True))
        self.frames.clear()
        self.entries.clear()
        yield from taken

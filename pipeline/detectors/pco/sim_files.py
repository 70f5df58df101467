"""The file formats of PCO's programs, written for the simulator.

Nothing here is shared with the readers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

_SOFTWARE = b"PCO_Recorder simulated"
#: The private tag of the recorder; what its shorts mean is not public.
_PCO_RAW, _PCO_RAW_SHORTS = 50495, 449


def with_stamp(
    image: npt.NDArray[np.uint16], counter: int, moment: datetime, *, shift: int = 0
) -> npt.NDArray[np.uint16]:
    """Return the first row with the camera's binary time stamp in its first 14 pixels."""
    digits = f"{counter % 10**8:08d}{moment:%Y%m%d%H%M%S%f}"
    row: npt.NDArray[np.uint16] = image[0].copy()
    row[:14] = [int(digits[at : at + 2], 16) << shift for at in range(0, 28, 2)]
    return row


def b16_header(shape: tuple[int, int], *, nbytes: int = 1024) -> bytes:
    """Return the header of a B16 file: 1024 bytes now, 488 in older files."""
    rows, columns = shape
    fields = [nbytes + 2 * rows * columns, nbytes, columns, rows, -1]
    fields += [0, 0, 65535, 0, 0, 65535, 0, 65535, 0, 65535, 0]
    return (b"PCO-" + struct.pack("<16i", *fields)).ljust(nbytes, b"\0")


@dataclass(slots=True)
class TiffWriter:
    """Writes pages one behind the other, each directory ahead of its pixels as the recorder does.

    Parameters
    ----------
    file:
        Opened for writing at its start.
    big:
        BigTIFF, as ``.pcoraw`` is.
    """

    file: BinaryIO
    big: bool = False
    #: Where the offset of the next directory belongs.
    _link: int = 0
    _end: int = 0
    pages: int = 0

    def add(self, row: npt.NDArray[Any], rest: npt.NDArray[Any]) -> None:
        """Append a page: its first row, and the other rows."""
        start = self._end or 16
        shape = (1 + len(rest), len(row))
        head, link = self._directory(start, shape)
        if not self.pages:
            self.file.write(self._file_head(start))
        self.file.write(head)
        self.file.write(row.astype("<u2", copy=False).data)
        self.file.write(rest.astype("<u2", copy=False).data)
        self._end = start + len(head) + 2 * shape[0] * shape[1]
        if self.pages:  # only now the page is part of the file
            self.file.seek(self._link)
            self.file.write(struct.pack("<Q" if self.big else "<I", start))
            self.file.seek(self._end)
        self._link = link
        self.pages += 1

    def _file_head(self, start: int) -> bytes:
        if self.big:
            return b"II" + struct.pack("<HHHQ", 43, 8, 0, start)
        return (b"II" + struct.pack("<HI", 42, start)).ljust(start, b"\0")

    def _directory(self, start: int, shape: tuple[int, int]) -> tuple[bytes, int]:
        """Return everything of a page but its pixels, and where its link is in the file."""
        rows, columns = shape
        entries: list[tuple[int, int, int, int | bytes]] = [
            (254, 4, 1, 2 if self.pages else 0),
            (256, 4, 1, columns),
            (257, 4, 1, rows),
            (258, 3, 1, 16),
            (259, 3, 1, 1),
            (262, 3, 1, 1),
            (273, 16 if self.big else 4, rows, b""),
            (277, 3, 1, 1),
            (278, 4, 1, 1),  # one strip a row
            (279, 4, rows, struct.pack("<I", 2 * columns) * rows),
            (305, 2, 64, _SOFTWARE.ljust(64, b"\0")),
            (339, 3, 1, 1),
            (_PCO_RAW, 3, _PCO_RAW_SHORTS, bytes(2 * _PCO_RAW_SHORTS)),
        ]
        wide, inline = ("Q", 8) if self.big else ("I", 4)
        count = struct.pack("<Q" if self.big else "<H", len(entries))
        link = start + len(count) + len(entries) * (4 + 2 * inline)
        at = link + inline
        pixels = at + sum(len(value) for *_, value in entries if isinstance(value, bytes))
        pixels += rows * inline
        out, tail = [count], list[bytes]()
        for tag, kind, length, value in entries:
            if tag == 273:
                offsets = range(pixels, pixels + 2 * columns * rows, 2 * columns)
                field = struct.pack(f"<{rows}{wide}", *offsets)
            else:
                field = value if isinstance(value, bytes) else struct.pack("<I", value)
            if tag == 273 or isinstance(value, bytes):  # behind the directory
                tail.append(field)
                field, at = struct.pack("<" + wide, at), at + len(field)
            out.append(struct.pack("<HH" + wide, tag, kind, length) + field.ljust(inline, b"\0"))
        out.append(bytes(inline))
        return b"".join(out + tail), link

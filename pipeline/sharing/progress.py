"""What a group has done in one partition, and how that is written beside the committed offset.

The committed offset is that of the first record with a frame that is not done.  From there on one
bit a frame (a row of a record of this stream, in the order of the log) says what is done already;
the bits are the commit's metadata, so that whoever takes over redoes none of it.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections import deque
from dataclasses import dataclass

#: Kafka's limit (offset.metadata.max.bytes); what does not fit is delivered again after a change
#: of owners, never lost.
MAX_METADATA_NBYTES = 4096
_RAW, _DEFLATED = "1", "2"
#: Bytes that fit after base85 (5 characters for 4 bytes) and the marker.
_ROOM = (MAX_METADATA_NBYTES - 1) // 5 * 4
#: Metadata of others may claim anything; more rows than this are not believed.
_MAX_INFLATED = 1 << 20


def encode_done(done: bytearray) -> str:
    """Return flags (one byte each, 0 or 1) as commit metadata; trailing zeros cost nothing."""
    end = done.rfind(1) + 1
    if not end:
        return ""
    packed = _pack(done[:end])
    deflated = zlib.compress(packed, 1)
    if len(deflated) < len(packed) and len(deflated) <= _ROOM:
        return _DEFLATED + base64.b85encode(deflated).decode()
    return _RAW + base64.b85encode(packed[:_ROOM]).decode()


def decode_done(metadata: str | None) -> bytearray:
    """Undo :func:`encode_done`; metadata that is not ours says that nothing is done."""
    if not metadata:
        return bytearray()
    try:
        data = base64.b85decode(metadata[1:])
        if metadata[0] == _DEFLATED:
            data = zlib.decompressobj().decompress(data, _MAX_INFLATED)
        elif metadata[0] != _RAW:
            return bytearray()
    except (ValueError, zlib.error, binascii.Error):
        return bytearray()
    return bytearray((byte >> bit) & 1 for byte in data for bit in range(8))


def _pack(flags: bytearray) -> bytes:
    packed = bytearray((len(flags) + 7) // 8)
    for index, flag in enumerate(flags):
        if flag:
            packed[index >> 3] |= 1 << (index & 7)
    return bytes(packed)


@dataclass(slots=True, eq=False)
class Taken:
    """One record of the stream in a partition, its rows done or not."""

    offset: int
    done: bytearray
    open: int
    #: When the broker appended it, ms since 1970; 0: not known.
    appended_ms: int = 0


class PartitionProgress:
    """The done prefix of one partition; the caller holds a lock.

    Parameters
    ----------
    position:
        The committed offset.
    metadata:
        What was committed with it.
    """

    def __init__(self, position: int, metadata: str | None = None) -> None:
        #: Records below have been seen.
        self.position = position
        self._known = decode_done(metadata)
        self._records: deque[Taken] = deque()
        self._committed = (position, metadata or "")

    def passed(self, offset: int) -> None:
        """Note a record without frames for us."""
        self.position = max(self.position, offset + 1)

    def taken(self, offset: int, rows: int) -> Taken:
        """Note a record of ``rows`` frames; those that were done before are flagged already."""
        self.passed(offset)
        done = self._known[:rows]
        del self._known[:rows]
        done.extend(bytes(rows - len(done)))
        record = Taken(offset, done, rows - sum(done))
        self._records.append(record)
        return record

    @property
    def open(self) -> int:
        """Frames that were seen and are not done."""
        return sum(record.open for record in self._records)

    def commit(self) -> tuple[int, str]:
        """Return offset and metadata to commit now."""
        while self._records and not self._records[0].open:
            self._records.popleft()
        if not self._records:
            # Flags of rows not seen again yet must survive a commit that comes before them.
            return self.position, encode_done(self._known)
        flags = bytearray()
        for record in self._records:
            flags += record.done
        return self._records[0].offset, encode_done(flags + self._known)

    def news(self) -> tuple[int, str] | None:
        """Return what to commit, None if it was committed already."""
        found = self.commit()
        return None if found == self._committed else found

    def committed(self, what: tuple[int, str]) -> None:
        """Note that ``what`` was committed."""
        self._committed = what


def finish(record: Taken, row: int) -> None:
    """Flag a row as done; a second time has no effect."""
    if not record.done[row]:
        record.done[row] = 1
        record.open -= 1

"""What an earlier run of an adapter has published: found again by the facts in the catalogue.

A source (adapter, host, directory, prefix, wanted stream name) may have given several streams, one
after the other.  Each frame that the source shows again is either in one of them, or new.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.frame import INT64_MAX
from pipeline.naming import StreamId
from pipeline.records import StreamInfo

#: Frames kept in a dict before they are merged into the sorted arrays.
_MERGE_EVERY = 1 << 16
#: Leaves room for the run id and a suffix within a name's 200 characters.
_MAX_PREFIX = 150


def new_run_id() -> str:
    """Return a name for this run that no other has: UTC time and four random hex digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def run_stream(name: str | None, run_id: str) -> str:
    """Return the stream name of a series that nobody named otherwise."""
    return f"{name[:_MAX_PREFIX]}_{run_id}" if name else f"run_{run_id}"


@dataclass(frozen=True, slots=True)
class Print:
    """What tells whether two frames of one number are the same."""

    checksum: int
    nbytes: int
    timestamp_ns: int

    def same_content(self, other: Print) -> bool:
        """Tell whether the payloads are equal (a file's time may have changed)."""
        return (self.checksum, self.nbytes) == (other.checksum, other.nbytes)


class Published:
    """The frames of one stream by (number, module): 32 bytes a frame, however many there are."""

    _ROW = np.dtype(
        [("number", "i8"), ("module", "i4"), ("nbytes", "u4"), ("crc", "u4"), ("time", "i8")]
    )

    def __init__(self) -> None:
        self._rows: npt.NDArray[Any] = np.empty(0, self._ROW)
        # apart, because a search in a column of rows would copy it
        self._numbers = np.empty(0, np.int64)
        self._recent: dict[tuple[int, int], Print] = {}
        #: Time of the earliest frame.
        self.first_ns = INT64_MAX

    @classmethod
    def from_table(cls, table: Any) -> Published:
        """Take over what a stream's table of frames says."""
        published = cls()
        counting = table.merged().rows
        rows = np.zeros(len(counting), cls._ROW)
        rows["number"], rows["module"] = table.numbers[counting], table.modules[counting]
        rows["nbytes"], rows["crc"] = table.nbytes[counting], table.checksums[counting]
        rows["time"] = table.timestamps_ns[counting]
        published._sort(rows)
        if len(rows):
            published.first_ns = int(rows["time"].min())
        return published

    def __len__(self) -> int:
        return len(self._rows) + len(self._recent)

    def get(self, number: int, module: int) -> Print | None:
        """Return what was published under this number, None if nothing was."""
        found = self._recent.get((number, module))
        if found is not None:
            return found
        if not len(self._numbers) or number > self._numbers[-1]:
            return None  # new frames mostly are: no search
        at = int(np.searchsorted(self._numbers, number))
        while at < len(self._rows) and self._numbers[at] == number:
            row = self._rows[at]
            if row["module"] == module:
                return Print(int(row["crc"]), int(row["nbytes"]), int(row["time"]))
            at += 1
        return None

    def add(self, number: int, module: int, entry: Print) -> None:
        """Remember a frame that is handed to the publisher."""
        self._recent[number, module] = entry
        self.first_ns = min(self.first_ns, entry.timestamp_ns)
        if len(self._recent) >= _MERGE_EVERY:
            new = [
                (number, module, entry.nbytes, entry.checksum, entry.timestamp_ns)
                for (number, module), entry in self._recent.items()
            ]
            self._sort(np.concatenate([self._rows, np.array(new, self._ROW)]))
            self._recent.clear()

    def _sort(self, rows: npt.NDArray[Any]) -> None:
        numbers = np.ascontiguousarray(rows["number"])
        order = np.argsort(numbers, kind="stable")
        self._rows, self._numbers = rows[order], numbers[order]


@dataclass(slots=True, kw_only=True, eq=False)
class RunStream:
    """One stream of a run.

    Parameters
    ----------
    ended:
        It takes no more frames.
    on_disk:
        Its frames survive the loss of power, so that their sources may go.
    known:
        It stands in the catalogue.
    holder:
        host:pid of its writer, for people.
    frames:
        None until they are read back.
    """

    name: StreamId
    ended: bool = False
    on_disk: bool = False
    known: bool = False
    run_id: str = ""
    holder: str = ""
    quarantined: set[str] = field(default_factory=set)
    frames: Published | None = None

    @classmethod
    def found(cls, name: StreamId, info: StreamInfo) -> RunStream:
        """Return the stream that the catalogue describes."""
        claims = [module.claim.holder for module in info.modules.values() if module.claim]
        return cls(
            name=name,
            ended=info.state != "open",
            on_disk=info.start.run.get("durability") == "disk",
            known=True,
            run_id=str(info.start.run.get("run_id", "")),
            holder=claims[0] if claims else "",
            quarantined={note.get("source", "") for note in info.quarantined},
        )

    @property
    def writer_is_alive(self) -> bool:
        """Whether another process of this host writes it now, as far as can be seen."""
        host, _, pid = self.holder.rpartition(":")
        if host != socket.gethostname() or not pid.isdigit() or int(pid) == os.getpid():
            return False
        if os.name == "nt":  # there signal 0 is Ctrl-C: its marks will tell
            return True
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True  # it is there and belongs to somebody else
        return True

    def get(self, number: int, module: int) -> Print | None:
        """Return what this stream has under the number."""
        return self.frames.get(number, module) if self.frames is not None else None


Verdict = Literal["published", "new", "other content", "after the end"]


def judge(
    streams: list[RunStream], number: int, module: int, entry: Print
) -> tuple[Verdict, RunStream | None]:
    """Say what a frame of the source is, given all its streams in order.

    ``published``: the stream returned has it.  ``new``: it belongs into the last stream.  ``other
    content`` and ``after the end``: it opens a new stream, because the last one has another frame
    of this number, or has ended.
    """
    if not streams:
        return "new", None
    *older, last = streams
    known = last.get(number, module)
    if known is not None and known.same_content(entry):
        return "published", last
    for stream in reversed(older):
        before = stream.get(number, module)
        if before is None or not before.same_content(entry):
            continue
        # Equal content of a later time can be a new frame (an empty image has no date of its
        # own): it is, if it was made after the last stream's first frame, and that stream lacks it.
        first_ns = last.frames.first_ns if last.frames is not None else INT64_MAX
        if before.timestamp_ns == entry.timestamp_ns or entry.timestamp_ns < first_ns:
            return "published", stream
    if known is not None:
        return "other content", last
    return ("after the end" if last.ended else "new"), last


def next_name(wanted: str, taken: Iterable[str]) -> str:
    """Return ``wanted``, or the first of ``wanted.2``, ``wanted.3``, ... that is free."""
    names = set(taken)
    count, name = 1, wanted
    while name in names:
        count += 1
        name = f"{wanted}.{count}"
    return name

"""What there is about a stream beside its frames: attachments, settings, what is damaged."""

from __future__ import annotations

import difflib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import BlobNotFoundError, ChecksumError, InvalidArgumentError
from pipeline.protocols import BlobStore
from pipeline.reading.frame import Frame
from pipeline.records import StreamInfo
from pipeline.wire.catalogue import stream_id


def read_attachment(store: BlobStore, info: StreamInfo, name: str) -> npt.NDArray[Any]:
    """Return an attachment; InvalidArgumentError names those that there are."""
    known = info.attachments
    if name not in known:
        near = difflib.get_close_matches(str(name), list(known), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {sorted(known) or 'none'}"
        problem = f"{stream_id(info)} has no attachment {name!r}; {hint}"
        raise InvalidArgumentError("name", problem)
    key = known[name]
    data = store.get(key, 0, store.size(key))
    array: npt.NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return array


def settings_of(info: StreamInfo) -> Mapping[str, Any]:
    """Return how a stream is made: rate, modules, partitions, who writes it, where it came from."""
    start = info.start
    return {
        "created_ns": start.created_ns,
        "rate_hz": start.rate_hz,
        "expected": info.expected,
        "modules": start.modules,
        "partitions": start.partitions,
        "frames_per_chunk": start.frames_per_chunk,
        "writer": start.writer,
        "run": dict(start.run),
        "lineage": dict(start.lineage),
    }


def corrupt_numbers(
    parts: Iterator[Frame], total: int, progress: Callable[[int, int], object] | None
) -> set[int]:
    """Read all payloads; return the numbers of those that are damaged or gone."""
    corrupt = set()
    for done, part in enumerate(parts, 1):
        try:
            part.payload  # noqa: B018 -- reads and checks it
        except (ChecksumError, BlobNotFoundError):
            corrupt.add(part.number)
        if progress is not None:
            progress(done, total)
    return corrupt

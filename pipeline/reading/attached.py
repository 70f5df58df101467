"""Arrays kept beside a stream."""

from __future__ import annotations

import difflib
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InvalidArgumentError
from pipeline.protocols import BlobStore
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

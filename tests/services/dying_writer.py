"""A writer that dies at its k-th contact with broker or store; run as a process by the tests.

Arguments: beamtime, stream, k (0: never), frames.  Exit 9 when it died, 0 when it ended the stream.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import pipeline.session
from pipeline.blobs.file import FileStore
from pipeline.kafka.catalogue import CatalogueTopic
from pipeline.kafka.producer import LogProducer


def main() -> None:
    beamtime, stream, step, frames = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    contacts = itertools.count(1)

    def dying(method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            # Odd steps die before the call takes effect, even ones right after it.
            if next(contacts) == step:
                os._exit(9)
            result = method(*args, **kwargs)
            if next(contacts) == step:
                os._exit(9)
            return result

        return wrapped

    LogProducer.append = dying(LogProducer.append)  # type: ignore[method-assign]
    FileStore.put = dying(FileStore.put)  # type: ignore[method-assign]
    CatalogueTopic.look = dying(CatalogueTopic.look)  # type: ignore[method-assign]
    with (
        pipeline.session.connect("file") as session,
        session.publish(
            beamtime, "detector", stream, frames_per_chunk=2, instance="test@here"
        ) as out,
    ):
        for number in range(frames):
            out.write(image(number), number=number, timestamp_ns=number)
            if number % 3 == 2:
                out.flush()
    print(next(contacts))


def image(number: int) -> np.ndarray:
    return np.full((200, 200), number, dtype=np.uint16)  # 80 kB: an object each


if __name__ == "__main__":
    main()

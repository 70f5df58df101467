"""A writer that tests may kill; run as a process: BEAMTIME FOLDER SEED.

Publishes stream after stream, some held (``keep_N``), some not (``go_N``), and continues the one it
was killed in.  A file in FOLDER, named as the stream, holds how many frames it had when it ended.
Parts of the manifest come every half second, so that topics are trimmed below streams that run.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.manifest.writer import ManifestWriter
from pipeline.publishing import sealing
from pipeline.session import Session, connect

#: Of a frame of stream ``number``: above 64 KiB it makes an object, below it travels in the record.
SHAPES = ((200, 200), (8, 8))


def main() -> None:
    beamtime, folder, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    dice = random.Random(seed)
    sealing._LOOK_EVERY_S = 0.2
    ManifestWriter.__init__.__kwdefaults__["part_age_s"] = 0.5
    stop = folder / "stop"
    with connect() as session:
        for number in range(10_000):
            name = f"{'keep' if number % 4 == 0 else 'go'}_{number:04d}"
            if (folder / name).exists():
                continue
            if stop.exists() and not session.streams(f"{beamtime}/lambda/{name}"):
                return
            write_stream(session, beamtime, name, number, dice)
            done = folder / f".{name}"
            done.write_text(str(frames_of(number)))
            done.replace(folder / name)


def frames_of(number: int) -> int:
    """Return how many frames a stream gets, whoever writes it."""
    return random.Random(number).randrange(20, 80)


def write_stream(
    session: Session, beamtime: str, name: str, number: int, dice: random.Random
) -> None:
    """Write one stream to its end, from where somebody who was killed left it."""
    known = session.streams(f"{beamtime}/lambda/{name}")
    if known and known[0].state != "open":
        return
    shape = SHAPES[number % 2]
    with session.publish(
        beamtime, "lambda", name, frames_per_chunk=4, instance="writer@test", rate_hz=100
    ) as out:
        # What was confirmed before counts as repeated; the rest is written.
        for frame in range(frames_of(number)):
            out.write(np.full(shape, frame, np.uint16), number=frame)
            time.sleep(dice.choice((0.0, 0.0, 0.01, 0.05)))


if __name__ == "__main__":
    main()

#!/opt/lichtstrom/bin/python
"""Write each stream of a pattern to an HDF5 file, as they begin.

``write-files PATTERN DIR [INDEX/COUNT]``: runs ``lichtstrom sink hdf5`` for every stream that has
no finished file in DIR yet; that command follows the stream to its end.  Started again it goes on
where it was.  Ends at SIGTERM.

Of COUNT writers each takes its share of the streams: INDEX (from 0) says which this one is.  After
each look at the streams the file ``looked`` in the temporary folder is touched, for who watches.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import zlib
from pathlib import Path

from pipeline import connect
from pipeline.errors import PipelineError
from pipeline.session import Session, StreamSummary
from pipeline.sinks.hdf5.sink import stem

#: Sinks at a time: each takes up to 100 MB.
MOST = 3
LOOK_S = 1.0
#: A writer gives a sign of life once a second; `lichtstrom end` asks for 10 s of silence.
ABANDONED_EVERY = 15


def main() -> int:
    """Follow until told to stop; returns the exit status."""
    pattern, directory, *share = sys.argv[1:]
    index, count = map(int, share[0].split("/")) if share else (0, 1)
    looked = Path(tempfile.gettempdir()) / "looked"
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    sinks: dict[str, subprocess.Popen[bytes]] = {}
    rounds = 0
    try:
        with connect() as session:
            while not stop.wait(LOOK_S):
                streams = [
                    s for s in session.streams(pattern) if owner(str(s.name), count) == index
                ]
                start_sinks(streams, Path(directory), sinks)
                looked.touch()
                rounds += 1
                if rounds % ABANDONED_EVERY == 0:
                    end_abandoned(session, list(sinks)[:-1], sinks)
    finally:
        for sink in sinks.values():
            sink.terminate()  # it goes on with its file at the next start
        for sink in sinks.values():
            sink.wait()
    return 0


def owner(name: str, count: int) -> int:
    """Return which of ``count`` writers takes a stream: the same one for every process."""
    return zlib.crc32(name.encode()) % count


def start_sinks(
    streams: list[StreamSummary], directory: Path, sinks: dict[str, subprocess.Popen[bytes]]
) -> None:
    """Give a sink to each stream that has no file and none yet, as far as there is room."""
    for summary in streams:
        name = str(summary.name)
        running = sum(sink.poll() is None for sink in sinks.values())
        if (
            name in sinks
            or running >= MOST
            or (directory / f"{stem(summary.info.start)}.h5").exists()
        ):
            continue
        sinks[name] = subprocess.Popen(
            ["lichtstrom", "sink", "hdf5", name, "--out", str(directory), "--follow"]
        )


def end_abandoned(
    session: Session, names: list[str], sinks: dict[str, subprocess.Popen[bytes]]
) -> None:
    """End what an adapter has left open when it was restarted between two scans.

    Refused, and so left alone, while the stream's writer gives signs of life.
    """
    for name in names:
        if sinks[name].poll() is None:
            try:
                session.end(*name.split("/"), state="lost")
                print(f"{name}: its writer is gone and a newer one has begun: ended", flush=True)
            except PipelineError:
                continue


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PipelineError as error:
        sys.exit(f"write-files: {error}")

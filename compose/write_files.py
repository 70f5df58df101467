#!/opt/lichtstrom/bin/python
"""Write each stream of a pattern to an HDF5 file, as they begin.

``write-files PATTERN DIR``: runs ``lichtstrom sink hdf5`` for every stream that has no finished
file in DIR yet; that command follows the stream to its end.  Started again it goes on where it
was.  Ends at SIGTERM.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

from pipeline import connect
from pipeline.errors import PipelineError
from pipeline.session import Session
from pipeline.sinks.hdf5.sink import stem

#: Sinks at a time: each takes up to 100 MB.
MOST = 3
LOOK_S = 1.0
#: A writer gives a sign of life once a second; `lichtstrom end` asks for 10 s of silence.
ABANDONED_EVERY = 15


def main() -> int:
    """Follow until told to stop; returns the exit status."""
    pattern, directory = sys.argv[1], Path(sys.argv[2])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    sinks: dict[str, subprocess.Popen[bytes]] = {}
    rounds = 0
    try:
        with connect() as session:
            while not stop.wait(LOOK_S):
                start_sinks(session, pattern, directory, sinks)
                rounds += 1
                if rounds % ABANDONED_EVERY == 0:
                    end_abandoned(session, list(sinks)[:-1], sinks)
    finally:
        for sink in sinks.values():
            sink.terminate()  # it goes on with its file at the next start
        for sink in sinks.values():
            sink.wait()
    return 0


def start_sinks(
    session: Session, pattern: str, directory: Path, sinks: dict[str, subprocess.Popen[bytes]]
) -> None:
    """Give a sink to each stream that has no file and none yet, as far as there is room."""
    for summary in session.streams(pattern):
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

"""Functions that the worker tests run in other processes."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path


def mean(frame):
    return {"mean": float(frame.array.mean())}


def odd_only(frame):
    return {"number": frame.number} if frame.number % 2 else None


def both(frame):
    return frame.array * 2, {"doubled": True}


def fails_on_five(frame):
    if frame.number == 5:
        raise ValueError("five is not to be had")
    return {"fine": True}


def leaves_a_process_behind_on_three(frame):
    """Start a process that inherits our files and outlives us, then die."""
    if frame.number == 3:
        left = os.fork()
        if not left:
            time.sleep(100.0)
            os._exit(0)
        with (Path(os.environ["WORKER_TEST_DIR"]) / "left").open("a") as file:
            file.write(f"{left}\n")
        os._exit(9)
    return {"number": frame.number}


def kills_its_process_on_three(frame):
    if frame.number == 3:
        os._exit(9)
    return {"fine": True}


def slow(frame):
    """Say that it has begun, then take a moment."""
    Path(os.environ["WORKER_TEST_DIR"], str(frame.number)).touch()
    time.sleep(0.05)
    return {"fine": True}


class Noting:
    """Leave a file for each process that begins, and one for each that ends."""

    def __init__(self, context):
        self.path = Path(os.environ["WORKER_TEST_DIR"], f"process-{context.process}")
        self.path.touch()
        self.beamtime = context.stream.partition("/")[0]

    def __call__(self, frame):
        return {"beamtime": self.beamtime}

    def close(self):
        self.path.rename(self.path.with_suffix(".closed"))


class Unmakable:
    def __init__(self):
        raise FileNotFoundError("no model here")

    def __call__(self, frame):
        return None


def in_threads(frame):
    """Need another thread to be at the same place at the same time."""
    threads[frame.number % 2].set()
    both = threads[1 - frame.number % 2].wait(20)
    return {"both": int(both)}


threads = [threading.Event(), threading.Event()]


def two_things(frame):
    mean = {"mean": float(frame.array.mean())}
    return (mean, frame.array * 2) if frame.number % 2 else (mean, None)


def hangs_on_three(frame):
    if frame.number == 3 and not Path(os.environ["WORKER_TEST_DIR"], "hung").exists():
        Path(os.environ["WORKER_TEST_DIR"], "hung").touch()
        time.sleep(100)
    return {"fine": True}


def chunk_mean(frames):
    numbers = [frame.number for frame in frames]
    return {"first": numbers[0], "last": numbers[-1], "of": len(numbers)}


def each_of_chunk(frames):
    return [{"of": len(frames)} for _ in frames]


def careful(frame):
    """Take a moment, and give what can be checked."""
    time.sleep(0.01)
    return {"square": frame.number**2}


def nonsense(frame):
    return "text"


def fails_until_told(frame):
    if frame.number == 5 and not (Path(os.environ["WORKER_TEST_DIR"]) / "well").exists():
        raise ValueError("five is not to be had")
    return mean(frame)

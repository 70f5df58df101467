"""Functions that the worker tests run in other processes."""

from __future__ import annotations

import os
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


def kills_its_process_on_three(frame):
    if frame.number == 3:
        os._exit(9)
    return {"fine": True}


def slow(frame):
    """Say that it has begun, then take a moment."""
    Path(os.environ["WORKER_TEST_DIR"], str(frame.number)).touch()
    time.sleep(0.05)
    return {"fine": True}


def nonsense(frame):
    return "text"


def fails_until_told(frame):
    if frame.number == 5 and not (Path(os.environ["WORKER_TEST_DIR"]) / "well").exists():
        raise ValueError("five is not to be had")
    return mean(frame)

"""Read a stream in frame order while it is being taken; the loop ends with the stream."""

import threading
import time

import numpy as np

import pipeline

name = f"scan_{time.time_ns()}"


def measure(session: pipeline.Session) -> None:
    """Stand in for a detector: 50 frames at 100 Hz, of which 7 is never made."""
    due = threading.Event()
    with session.publish("example", "lambda", name, rate_hz=100) as out:
        for number in range(50):
            if number != 7:
                out.write(np.full((64, 64), number, np.uint16), number=number)
            due.wait(0.01)


with pipeline.connect() as session:
    detector = threading.Thread(target=measure, args=(session,))
    detector.start()
    # A stream that has not begun yet is waited for.
    next(session.follow(f"example/lambda/{name}", timeout_s=10))

    frames = session.stream("example", "lambda", name).ordered(start=0, timeout_s=10)
    numbers = [frame.number for frame in frames if frame.array.mean() == frame.number]
    detector.join()
    print(f"{len(numbers)} frames in order, missing {frames.missing}")

    assert numbers == sorted(numbers)
    assert len(numbers) == 49
    assert frames.missing == [[7, 7]]

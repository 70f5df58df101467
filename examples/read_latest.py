"""Show the newest frame at the pace that the display manages; what comes between is left out."""

import threading
import time

import numpy as np

import pipeline

name = f"scan_{time.time_ns()}"


def measure(session: pipeline.Session) -> None:
    """Stand in for a detector: 100 frames at 100 Hz."""
    due = threading.Event()
    with session.publish("example", "lambda", name, rate_hz=100) as out:
        for number in range(100):
            out.write(np.full((64, 64), number, np.uint16))
            due.wait(0.01)


with pipeline.connect() as session:
    detector = threading.Thread(target=measure, args=(session,))
    detector.start()
    next(session.follow(f"example/lambda/{name}", timeout_s=10))

    stream = session.stream("example", "lambda", name)
    shown = [-1]
    try:
        while True:
            frame = stream.latest(after=shown[-1], timeout_s=10)
            shown.append(frame.number)
            threading.Event().wait(0.1)  # drawing takes longer than the detector's period
    except pipeline.FrameNotFoundError:
        print(f"the stream has ended; shown {len(shown) - 1} of 100, last {shown[-1]}")
    detector.join()

    assert shown == sorted(set(shown))
    assert shown[-1] == 99

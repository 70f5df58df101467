"""Give the frames of a live stream motor positions and scan points that others publish."""

import threading
import time

import numpy as np

import pipeline

name = f"scan_{time.time_ns()}"
t0 = time.time_ns()
ms = 1_000_000


def measure(session: pipeline.Session) -> None:
    """Stand in for a detector, 50 frames at 100 Hz, and for motors that tell more slowly."""
    due = threading.Event()
    with (
        session.publish("example", "lambda", name, rate_hz=100) as out,
        session.publish_values("example", "motors", name, units={"omega": "degree"}) as motors,
        session.publish_values("example", "scan", name) as points,
    ):
        for number in range(51):
            if number % 10 == 0:
                motors.put(t0 + number * 10 * ms, omega=number * 0.1)
            if number < 50:
                points.put(trigger=number, sample="left" if number < 25 else "right")
                out.write(np.zeros((64, 64), np.uint16), timestamp_ns=t0 + number * 10 * ms)
            due.wait(0.01)


with pipeline.connect() as session:
    beamline = threading.Thread(target=measure, args=(session,))
    beamline.start()
    for channel in ("lambda", "motors", "scan"):
        next(session.follow(f"example/{channel}/{name}", timeout_s=10))

    stream = session.stream("example", "lambda", name)
    joined = stream.join("motors", how="linear", wait_s=5).join(
        "scan", on="trigger", how="exact", wait_s=5
    )
    found = [frame.attributes for frame in joined.ordered(timeout_s=10)]
    beamline.join()
    right = [frame.number for frame in joined.select("omega < 3 and sample == 'right'")]
    print(f"{len(found)} frames, late {joined.late}, missing {joined.missing}, right {right}")

    assert all(abs(a["omega"] - number * 0.1) < 1e-6 for number, a in enumerate(found))
    assert right == [25, 26, 27, 28, 29]

"""Fetch any frame by its number, found by search: the cost does not grow with the stream."""

import time

import numpy as np

import pipeline

name = f"scan_{time.time_ns()}"

with pipeline.connect() as session:
    with session.publish("example", "lambda", name, rate_hz=1000) as out:
        for number in range(1000, 3000):  # numbers start where the source starts
            out.write(np.full((16, 16), number, np.uint16), number=number)

    stream = session.stream("example", "lambda", name)
    for number in (1000, 2999, 1234):
        frame = stream.frame(number)
        print(frame.number, frame.shape, frame.dtype, frame.array[0, 0])
        assert frame.array[0, 0] == number
    try:
        stream.frame(5000)
    except pipeline.FrameNotFoundError as error:
        print(error, "- reason:", error.reason)

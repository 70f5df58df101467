"""Take frames in order, a fixed number at a time: for averages and for batches on a GPU."""

import time

import numpy as np

import pipeline

name = f"scan_{time.time_ns()}"

with pipeline.connect() as session:
    with session.publish("example", "lambda", name, rate_hz=1000) as out:
        for step in range(125):
            out.write(np.full((32, 32), step, np.uint16))

    means = []
    for frames in session.stream("example", "lambda", name).chunks(50):
        batch = np.stack([frame.array for frame in frames])
        means.append((len(frames), float(batch.mean())))
    print(means)
    assert means == [(50, 24.5), (50, 74.5), (25, 112.0)]  # the last one is shorter

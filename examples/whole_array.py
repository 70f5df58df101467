"""A whole stream as one lazy array (needs dask: pip install 'lichtstrom[array]')."""

import time

import dask
import numpy as np

import pipeline

name = f"scan_{time.time_ns()}"

with pipeline.connect() as session:
    with session.publish("example", "lambda", name, rate_hz=1000) as out:
        for step in range(100):
            out.write(np.full((32, 48), step, np.uint16), attributes={"omega": step * 0.1})

    stream = session.stream("example", "lambda", name)
    images = stream.array()
    print(images)
    projection = images.mean(axis=0).compute()  # frames are read in blocks, when needed
    assert images.shape == (100, 32, 48)
    assert np.allclose(projection, 49.5)

    # a function on the frames of each block, with what they say; a cluster's workers get it
    results = stream.map_blocks(lambda frames: max(f.attributes["omega"] for f in frames))
    assert max(dask.compute(*results)) == 9.9

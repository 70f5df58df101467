"""Select frames by what is known about them; only their pixels are read."""

import time

import numpy as np

import pipeline

name = f"scan_{time.time_ns()}"

with pipeline.connect() as session:
    with session.publish("example", "lambda", name, rate_hz=1000) as out:
        for step in range(300):
            attributes = {"omega": step * 0.1, "shutter": "open" if step % 3 else "closed"}
            out.write(np.full((16, 16), step, np.uint16), attributes=attributes)

    stream = session.stream("example", "lambda", name)
    found = [f.number for f in stream.select("omega > 10 and number < 200 and shutter == 'open'")]
    print(len(found), "frames, from", found[0], "to", found[-1])
    assert found == [n for n in range(101, 200) if n % 3]

    try:
        stream.select("omegaa > 10").__next__()
    except pipeline.ExpressionError as error:
        print(error)

"""Read a stream from its store alone: no broker, the same methods."""

import time

import numpy as np

import pipeline

name = f"scan_{time.time_ns()}"

with pipeline.connect() as session:
    with session.publish("example", "lambda", name, rate_hz=1000) as out:
        for step in range(100):
            out.write(np.full((32, 48), step, np.uint16), attributes={"omega": 0.1 * step})
    folder = session.services.store.url

# A URL alone is a session without a broker: at home, at another site, years later.
with pipeline.connect(folder if folder.startswith("file:") else "file") as stored:
    stream = stored.stream("example", "lambda", name)
    print(stream.state, "in", stored.settings.store.url)
    print(len(list(stream.ordered())), "frames;", stream.frame(42).attributes)
    assert stream.account()["complete"]
    assert [f.number for f in stream.select("omega > 9.75")] == [98, 99]

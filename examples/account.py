"""Ask what came, what did not, and whether all of it can be read."""

import json
import time

import numpy as np

import pipeline

name = f"scan_{time.time_ns()}"

with pipeline.connect() as session:
    out = session.publish("example", "lambda", name, rate_hz=1000)
    for number in range(100):
        if not 40 <= number < 45:
            out.write(np.full((16, 16), number, np.uint16), number=number)
    out.quarantine("scan_0040.cbf", "the file is cut short")
    out.end("complete", expected=100)

    stream = session.stream("example", "lambda", name)
    print(json.dumps(stream.account(), indent=2))  # from the records alone
    account = stream.verify()  # reads every payload and compares checksums
    print("complete:", account["complete"])

    assert account["received"] == 95
    assert account["missing"] == [[40, 44]]
    assert not account["complete"]

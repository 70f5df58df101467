"""Publish arrays, encoded bytes and plain values; keep a mask beside them."""

import time

import numpy as np

import pipeline

name = f"scan_{time.time_ns()}"  # the name of a stream is used once

with pipeline.connect() as session:
    with session.publish(
        "example", "lambda", name, rate_hz=200, metadata={"energy_eV": 12000}
    ) as out:
        mask = np.zeros((256, 256), np.uint8)
        out.attach("mask", mask)
        for step in range(10):
            image = np.full((256, 256), step, np.uint16)
            out.write(image, attributes={"omega": 0.1 * step, "user": "ada"})
        # Bytes that are encoded already travel as they are: they need shape, dtype and encoding.
        out.write(
            image.tobytes(), shape=(256, 256), dtype="uint16", encoding="raw", number=20
        )  # 10 to 19 are a hole
        # A frame without pixels: attributes only.
        out.write(None, attributes={"beam_current_mA": 99.8})
        out.flush(timeout_s=10)  # published and confirmed, or FlushTimeoutError
        print(out.position)
    # Leaving the block has ended and sealed the stream.

    stream = session.stream("example", "lambda", name)
    print(stream.state, dict(stream.metadata), stream.attachment("mask").shape)
    account = stream.account()
    print("received", account["received"], "missing", account["missing"])

    assert account["received"] == 12
    assert account["missing"] == [[10, 19]]

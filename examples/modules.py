"""A detector of two modules: each is published by itself, a reader gets the assembled image."""

import time

import numpy as np

import pipeline

name = f"scan_{time.time_ns()}"
modules = [
    pipeline.Module(index=0, shape=(32, 64), position=(0, 0)),
    pipeline.Module(index=1, shape=(32, 64), position=(40, 0)),  # a gap of 8 rows
]

with pipeline.connect() as session:
    with session.publish("example", "two", name, rate_hz=100, modules=modules) as out:
        for number in range(10):
            for module in (0, 1):
                if (number, module) != (9, 1):  # the last frame lacks its second module
                    image = np.full((32, 64), 10 * number + module, np.uint16)
                    out.write(image, number=number, module=module)

    stream = session.stream("example", "two", name)
    whole = stream.latest()
    print(whole.number, whole.array.shape, sorted(whole.modules))
    assert (whole.number, whole.array.shape) == (8, (72, 64))
    try:
        stream.frame(9).array  # noqa: B018 -- shows the error
    except pipeline.IncompleteFrameError as error:
        print(error)
    partial = stream.latest(min_modules=1)  # fewer are enough: what is missing are gaps
    assert (partial.number, partial.missing_modules) == (9, (1,))
    assert (partial.array[40:] == 65535).all()
    assert partial.gaps[32:].all()
    assert not partial.gaps[:32].any()

    frames = stream.ordered(min_modules=1, deadline_s=0.5)
    print(len(list(frames)), "frames, incomplete:", frames.incomplete)
    assert frames.incomplete == [[9, 9]]
    assert stream.account()["incomplete"] == [[9, 9]]

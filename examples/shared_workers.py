"""Share the frames of a stream among the members of a group: each frame goes to one of them."""

import threading
import time

import numpy as np

import pipeline

name = f"scan_{time.time_ns()}"
done: dict[int, str] = {}


def work(member: str) -> None:
    """One member; on another machine this would be the same loop. It ends with the stream."""
    with pipeline.connect() as session:
        stream = session.stream("example", "lambda", name)
        for delivery in stream.shared(group="peaks", timeout_s=60):
            frame = delivery.frame
            if frame.number == 13 and delivery.attempt == 1:
                delivery.retry(delay_s=0.1)  # comes again, to any member
                continue
            if frame.array.max() == 0:
                delivery.reject("no beam")  # given up: a dead letter with the reason
                continue
            done[frame.number] = member
            delivery.ack()


with (
    pipeline.connect() as session,
    session.publish("example", "lambda", name, rate_hz=100, frames_per_chunk=4) as out,
):
    for step in range(100):
        out.write(np.full((16, 16), step, np.uint16))

members = [threading.Thread(target=work, args=(f"member {i}",)) for i in range(2)]
for thread in members:
    thread.start()
for thread in members:
    thread.join()
print({member: list(done.values()).count(member) for member in sorted(set(done.values()))})
assert sorted(done) == list(range(1, 100))

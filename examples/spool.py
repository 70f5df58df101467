"""Go on measuring while the broker is away: frames wait on local disk and are published later."""

import os
import subprocess
import sys
import tempfile
import time

import numpy as np

import pipeline


def measure(name: str, spool: str) -> None:
    """Write 20 frames; what cannot be published is left in the spool."""
    with pipeline.connect() as session:
        out = session.publish("example", "lambda", name, rate_hz=100, spool=spool)
        for step in range(20):
            out.write(np.full((64, 64), step, np.uint16))
        try:
            out.close(timeout_s=0.5)
        except pipeline.FlushTimeoutError as error:
            print(error)


def main() -> None:
    name = f"scan_{time.time_ns()}"
    with tempfile.TemporaryDirectory() as spool:
        # An address where nobody listens, as if the broker were down. Another process, because a
        # spool is taken over only from a writer that is no longer there.
        away = {"LICHTSTROM_KAFKA_BOOTSTRAP": "127.0.0.1:9", "LICHTSTROM_KAFKA_TIMEOUT_S": "1"}
        command = [sys.executable, __file__, name, spool]
        subprocess.run(command, env={**os.environ, **away}, check=True, timeout=60)

        with pipeline.connect() as session:  # the broker is back; the next writer goes on
            with session.publish("example", "lambda", name, rate_hz=100, spool=spool) as out:
                out.write(np.full((64, 64), 20, np.uint16), number=20)
            account = session.stream("example", "lambda", name).account()
    print("received", account["received"], "missing", account["missing"])
    assert account["received"] == 21


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(*sys.argv[1:])
    else:
        main()

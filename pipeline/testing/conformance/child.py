"""The adapter in a process of its own, which can be killed and whose clock can jump.

``python -m pipeline.testing.conformance.child '{"adapter": ..., "settings": {...}, "run": {...},
"jumps_s": [...]}'``: runs until SIGTERM; each SIGUSR1 sets the wall clock, as Python code sees it
in ``time.time`` and ``time.time_ns``, off by the next entry of ``jumps_s``.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from typing import Any


def jump_on_signal(jumps_s: list[float]) -> None:
    """Let the wall clock jump; the monotonic one goes on, as the system's does."""
    true_s, true_ns = time.time, time.time_ns
    off_s = [0.0]
    coming = iter(jumps_s)

    def jump(*_: Any) -> None:
        off_s[0] = next(coming, 0.0)

    time.time = lambda: true_s() + off_s[0]
    time.time_ns = lambda: true_ns() + int(off_s[0] * 1e9)
    signal.signal(signal.SIGUSR1, jump)


def main(text: str) -> None:
    """Run the adapter that ``text`` describes."""
    told = json.loads(text)
    jump_on_signal(told["jumps_s"])  # first: `from time import time_ns` copies what is there
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    from pipeline import config
    from pipeline.ingest import run
    from pipeline.session import connect
    from pipeline.testing.conformance.running import make_adapter

    adapter = make_adapter(told["adapter"], told["settings"])
    try:
        with connect(settings=config.load()) as session:
            run(session, adapter, stop=stop, **told["run"])
    finally:
        adapter.close()


if __name__ == "__main__":
    main(sys.argv[1])

"""How long a user waits before anything happens."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from pipeline.bench.ground import Ground
from pipeline.bench.rows import Row, percentile, row
from pipeline.errors import PipelineError

_RUNS = 11
#: Names are loaded when they are first used; this loads what a session needs.
_FIRST_USE = "import pipeline; pipeline.connect"
_LIMIT_S = 60.0
#: What is timed, and the nearest bare thing: all of it in a fresh interpreter.
_COMMANDS = {
    "import.pipeline": ("import pipeline", "import numpy"),
    "import.help": (
        "import sys; sys.argv = ['lichtstrom', '--help']; from pipeline.cli import main; main()",
        "import click",
    ),
}


def start_up(_: Ground, name: str) -> Row:
    """Measure whole processes, from their start to their end."""
    ours, bare = _COMMANDS[name]
    values, limits = [], []
    for _run in range(_RUNS):
        values.append(_process_ms(ours))
        limits.append(_process_ms(bare))
    values, limits = values[1:], limits[1:]  # the first fills the page cache
    conditions = [
        f"a fresh interpreter that runs `{ours}`, start and end included",
        "files in the page cache",
        f"limit: the same with `{bare}`",
    ]
    if name == "import.pipeline":
        first_use = median(_process_ms(_FIRST_USE) for _run in range(_RUNS))
        conditions.append(
            f"`{_FIRST_USE}`, which loads a session's parts, takes {first_use:.0f} ms"
        )
    return row(
        name,
        values,
        limits,
        unit="ms",
        p50=percentile(values, 50),
        p99=percentile(values, 99),
        conditions=conditions,
    )


def _process_ms(code: str) -> float:
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=_LIMIT_S, check=False
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise PipelineError(f"`{code}` failed: {''.join(last)}")
    return (time.perf_counter() - begun) * 1e3

"""Which rows there are, and running some of them."""

from __future__ import annotations

import fnmatch
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.bench.connecting import CONNECT_ROWS, connected
from pipeline.bench.ground import Ground, prepared
from pipeline.bench.instruments import INSTRUMENTS, whole
from pipeline.bench.joining import joined
from pipeline.bench.lookup import at_random, selecting
from pipeline.bench.rates import flat_out, latency, sustained
from pipeline.bench.resources import memory, publisher_cpu
from pipeline.bench.rows import Row
from pipeline.bench.shaped import LINK_ROWS, linked
from pipeline.bench.sinking import WRITER_ROWS, million, through, writer_alone
from pipeline.bench.startup import start_up
from pipeline.bench.working import balance, halved, members, throughput
from pipeline.errors import InvalidArgumentError, PipelineError

Measure = Callable[[Ground, str], Row]

ROWS: Mapping[str, Measure] = {
    "publish.file.1200kB": flat_out,
    "publish.file.1200kB.disk": flat_out,
    "publish.s3.1200kB": flat_out,
    "publish.file.64KiB": flat_out,
    "publish.file.4KiB": flat_out,
    "latency.file.200Hz": latency,
    "latency.s3.200Hz": latency,
    "sustain.file.2kHz": sustained,
    "random.1e4": at_random,
    "random.1e6": at_random,
    "random.1e7": at_random,
    "select.1e6": selecting,
    "join.64KiB.six": joined,
    "join.1200kB.six": joined,
    "cpu.publisher.1200kB": publisher_cpu,
    "memory.publisher": memory,
    "memory.reader": memory,
    "import.pipeline": start_up,
    "import.help": start_up,
    **dict.fromkeys(WRITER_ROWS, writer_alone),
    "sink.through.1200kB": through,
    "sink.million": million,
    "memory.sink": through,
    "worker.64KiB": throughput,
    "worker.1200kB": throughput,
    "worker.balance": balance,
    "worker.balance.4x10": balance,
    "members.200": members,
    "members.200.halved": halved,
    "members.1000": members,
    **dict.fromkeys(CONNECT_ROWS, connected),
    **dict.fromkeys(LINK_ROWS, linked),
    **{f"detector.{name}": whole for name in INSTRUMENTS},
}


def chosen(names: Sequence[str]) -> list[str]:
    """Return the rows of these names or shell patterns, all without any.

    Raises InvalidArgumentError.
    """
    found: dict[str, None] = {}
    for name in names:
        matching = fnmatch.filter(ROWS, name)
        if not matching:
            raise InvalidArgumentError("ID", f"{name!r} is none of {', '.join(ROWS)}")
        found.update(dict.fromkeys(matching))
    return list(found) or list(ROWS)


def measure(
    names: Sequence[str],
    *,
    home: Path | None,
    quick: bool,
    tell: Callable[[str], None],
) -> Iterator[Row]:
    """Yield each row as it was measured; one that failed says why, and the others go on.

    Raises RuntimeUnavailableError or PipelineError when nothing can be measured.
    """
    with prepared(home, quick=quick, tell=tell) as ground:
        for name in names:
            tell(name)
            try:
                yield ROWS[name](ground, name)
            except PipelineError as error:
                yield Row(id=name, error=str(error))
            except Exception as error:  # noqa: BLE001 -- a bug in one row leaves the others
                yield Row(id=name, error=repr(error))


def report(rows: Sequence[Row], started: datetime) -> dict[str, Any]:
    """Return what ``bench --json`` prints."""
    from pipeline import __version__

    return {
        "version": __version__,
        "machine": machine(),
        "started": started.astimezone(UTC).isoformat(timespec="seconds"),
        "rows": [row.to_json() for row in rows],
    }


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    pages, page_nbytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_nbytes": pages * page_nbytes,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

"""What the demo proves: every simulated frame is in the file, and how long it took."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.codecs import decode
from pipeline.reading.ranges import Ranges

if TYPE_CHECKING:
    from pipeline.session import Session
    from pipeline.stream import Stream

Int64s = npt.NDArray[np.int64]


def read_truth(path: Path) -> list[dict[str, Any]]:
    """Return what the simulator says it made."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_file(path: Path, images: Path, truth: list[dict[str, Any]]) -> list[str]:
    """Compare the HDF5 file with the simulated files, pixel by pixel; return what is wrong."""
    import h5py

    import pipeline.sinks.hdf5  # noqa: F401 -- registers the filters

    problems: list[str] = []
    with h5py.File(path) as file:
        pixels = file["entry/data/data"]
        numbers = file["entry/data/frame_number"][:]
        valid = file["entry/instrument/detector/frame_valid"][:].astype(bool)
        times = file["entry/instrument/detector/timestamp"][:]
        row_of = {int(number): row for row, number in enumerate(numbers) if valid[row]}
        wrong = Ranges()
        for entry in truth:
            number = entry["number"]
            row = row_of.pop(number, None)
            content = (images / entry["name"]).read_bytes()
            same = (
                row is not None
                and hashlib.sha256(content).hexdigest() == entry["sha256"]
                and int(times[row]) == entry["timestamp_ns"]
                and _equal(content, pixels[row])
            )
            if not same:
                wrong.add(number, number)
    if wrong:
        problems.append(f"frames missing or different in the file: {wrong.lists()}")
    if row_of:
        problems.append(f"frames in the file that nobody made: {sorted(row_of)[:10]}")
    return problems


def _equal(content: bytes, image: npt.NDArray[Any]) -> bool:
    made = decode(memoryview(content), encoding="cbf", shape=image.shape, dtype="int32")
    return bool(np.array_equal(made, image))


def facts(
    session: Session, names: Mapping[str, tuple[str, str, str]], images: Path
) -> dict[str, Any]:
    """Return rates, latencies, account and spots of the raw and the derived stream."""
    with session.stream(*names["raw"]) as raw, session.stream(*names["spots"]) as spots:
        written = {_number(path): path.stat().st_mtime_ns for path in images.glob("*.cbf")}
        table = spots.table()
        rows = table.merged().rows
        values = table.attribute("spots").data[rows]
        published, processed = _announced_ms(raw), _announced_ms(spots)
        # While a stream begins, its readers still start: latencies are those of the second half.
        half = sorted(written)[len(written) // 2 :]
        settled = {number: written[number] for number in half}
        first_ms = min(written.values()) / 1e6
        return {
            "published_hz": _rate(len(published), first_ms, published.values()),
            "processed_hz": _rate(len(rows), first_ms, processed.values()),
            "written_to_published_ms": _latency(settled, published),
            "written_to_processed_ms": _latency(settled, processed),
            "from_start": {
                "written_to_published_ms": _latency(written, published),
                "written_to_processed_ms": _latency(written, processed),
            },
            "account": dict(raw.account()),
            "account_spots": dict(spots.account()),
            "spots": {
                "frames": len(values),
                "mean": round(float(values.mean()), 2) if len(values) else None,
                "max": int(values.max()) if len(values) else None,
            },
        }


def _number(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _announced_ms(stream: Stream) -> dict[int, int]:
    """Return when the broker took the record of each frame, ms since 1970."""
    table = stream.table()
    found = {}
    for row in table.merged().rows.tolist():
        located, _ = table.locate(row)
        found[int(table.numbers[row])] = located.timestamp_ms
    return found


def _rate(count: int, first_ms: float, times_ms: Any) -> float | None:
    span_s = (max(times_ms, default=first_ms) - first_ms) / 1000
    return round(count / span_s, 1) if span_s > 0 else None


def _latency(begun_ns: Mapping[int, int], done_ms: Mapping[int, int]) -> dict[str, float]:
    both = sorted(begun_ns.keys() & done_ms.keys())
    if not both:
        return {}
    # The broker's clock has whole milliseconds: rounded down, so never less than nothing.
    spans = np.array([max(0.0, done_ms[n] - begun_ns[n] / 1e6) for n in both])
    p50, p99 = np.percentile(spans, (50, 99))
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}

"""``lichtstrom demo``."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.groups import FailedError
from pipeline.cli.output import json_option, print_json, range_text, status_line

if TYPE_CHECKING:
    from pipeline.cli.demo_parts import Stage
    from pipeline.local import RuntimeInfo

_RAW = ("demo", "pilatus", "scan_1")
_SPOTS = ("demo", "spots", "scan_1")
_LOOK_S = 0.25
#: Without a terminal a line this often.
_SAY_S = 2.0
#: A loaded machine may be slow, but something goes on.
_STALLED_S = 120.0
_WAIT_S = "300"


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=10.0,
    metavar="SECONDS",
    help="How long the detector runs.",
)
@click.option(
    "--rate",
    "rate_hz",
    type=click.FloatRange(min=1),
    default=200.0,
    metavar="HZ",
    help="Images per second.",
)
@click.option("--keep", is_flag=True, help="Keep the data of the servers of a demo before.")
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".demo"),
    metavar="DIR",
    help="Directory of the demo; emptied first, if a demo made it.",
)
@json_option
def command(seconds: float, rate_hz: float, keep: bool, home: Path, as_json: bool) -> None:
    """Show everything at once, in a runtime of its own.

    A simulated Pilatus 300k writes CBF files; the pilatus adapter publishes them; two worker
    processes, which read over S3, count spots and publish the counts; the HDF5 sink follows.
    Exit status 0 only if every frame is in the file. All that was started is stopped.
    """
    from pipeline.cli.demo_parts import staged

    frames = max(1, round(seconds * rate_hz))
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with staged(home, keep=keep) as stage:
            summary = _run(stage, frames, rate_hz)
    finally:
        signal.signal(signal.SIGTERM, before)
    if as_json:
        print_json(summary)
    else:
        _print(summary, home)
    if summary["problems"]:
        raise FailedError("; ".join(summary["problems"]))


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)  # everything is stopped on the way out


def _say(text: str) -> None:
    click.echo(text, err=True)


def _run(stage: Stage, frames: int, rate_hz: float) -> dict[str, Any]:
    from pipeline.cli.demo_check import check_file, facts, read_truth
    from pipeline.local import up
    from pipeline.session import connect

    _say(f"starting Kafka and the S3 server below {stage.home}")
    info = up(stage.home, progress=_say)
    _say(f"Kafka at {info.kafka.bootstrap}, S3 at {info.s3.endpoint if info.s3 else '(none)'}")
    _start(stage, info, frames, rate_hz)
    _follow(stage, frames)
    _say("comparing the file with what the simulator made, pixel by pixel")
    truth = read_truth(stage.truth)
    path = Path(stage.parts["sink"].result["path"])
    problems = check_file(path, stage.images, truth)
    if len(truth) != frames:
        problems.append(f"{len(truth)} of {frames} frames were simulated")
    os.environ["LICHTSTROM_HOME"] = str(stage.home)
    with connect(settings=_settings(info)) as session:
        found = facts(session, {"raw": _RAW, "spots": _SPOTS}, stage.images)
    for name in ("account", "account_spots"):
        if not found[name]["complete"]:
            problems.append(f"{name} is not complete")
    in_file = stage.parts["sink"].result["written"]
    return {
        "frames": len(truth),
        "in_file": in_file,
        "rate_hz": rate_hz,
        **found,
        "file": str(path),
        "file_nbytes": path.stat().st_size,
        "workers_read": "s3" if info.s3 else "file",
        "problems": problems,
    }


def _settings(info: RuntimeInfo) -> Any:
    from pipeline.config import KafkaSettings, Settings, StoreSettings

    return Settings(
        kafka=KafkaSettings(bootstrap=info.kafka.bootstrap),
        store=StoreSettings(url=info.store_url),
    )


def _start(stage: Stage, info: RuntimeInfo, frames: int, rate_hz: float) -> None:
    raw = "/".join(_RAW)
    for name, detector in (("topics", _RAW[1]), ("topics of results", _SPOTS[1])):
        stage.start(name, "beamtime", "create", _RAW[0], "--detector", detector)
    report = ("--report", "0.25", "--json")
    stage.start(
        "adapter", "adapter", "pilatus", "--watch", str(stage.images), "--timezone", "UTC",
        "--beamtime", _RAW[0], "--detector", _RAW[1], "--stream", _RAW[2],
        "--idle-end", "2", "--streams", "1", *report,
    )  # fmt: skip
    # The workers see the same bytes over S3 that the adapter writes into files.
    settings = {"LICHTSTROM_STORE_URL": "s3"} if info.s3 else {}
    stage.start(
        "worker", "worker", "pipeline.spots:count", raw, "--group", "spots", "--processes", "2",
        "--out", _SPOTS[1], "--wait", _WAIT_S, *report, **settings,
    )  # fmt: skip
    stage.start(
        "sink", "sink", "hdf5", raw, "--out", str(stage.files), "--follow", "--wait", _WAIT_S,
        "--overwrite", *report,
    )  # fmt: skip
    while "frames" not in stage.parts["adapter"].progress and stage.running():
        time.sleep(_LOOK_S)
    _say(f"simulating {frames} images of a Pilatus 300k at {rate_hz:g} Hz in {stage.images}")
    stage.start(
        "simulator", "simulate", "pilatus", "--directory", str(stage.images),
        "--frames", str(frames), "--rate-hz", str(rate_hz), "--prefix", "scan_1",
        "--truth", str(stage.truth), "--json",
    )  # fmt: skip


def _follow(stage: Stage, frames: int) -> None:
    """Tell how far everything is until all parts are over."""
    from pipeline.cli.demo_parts import Stalled

    stalled = Stalled(_STALLED_S)
    begun_s = said_s = time.monotonic()
    parts = stage.parts
    with status_line() as draw:
        while stage.running():
            counts = {
                "simulated": sum(1 for entry in os.scandir(stage.images) if _is_image(entry)),
                "published": parts["adapter"].progress.get("confirmed", 0),
                "processed": parts["worker"].progress.get("results", 0),
                "in the file": parts["sink"].progress.get("written", 0),
            }
            stalled.check(counts)
            now_s = time.monotonic()
            text = ", ".join(f"{count} {name}" for name, count in counts.items())
            text = f"{now_s - begun_s:5.1f} s  of {frames} frames: {text}"
            if sys.stderr.isatty():
                draw(text)
            elif now_s - said_s >= _SAY_S:
                said_s = now_s
                _say(text)
            time.sleep(_LOOK_S)


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(".cbf")


def _print(summary: dict[str, Any], home: Path) -> None:
    published, processed = summary["written_to_published_ms"], summary["written_to_processed_ms"]
    account = summary["account"]
    spots = summary["spots"]
    lost = range_text(account["missing"]) or "none"
    lines = {
        "frames": f"{summary['frames']} simulated at {summary['rate_hz']:g} Hz,"
        f" {summary['in_file']} in the file",
        "rate": f"{summary['published_hz']} Hz published, {summary['processed_hz']} Hz processed",
        "written to published": f"p50 {published.get('p50')} ms, p99 {published.get('p99')} ms",
        "written to processed": f"p50 {processed.get('p50')} ms, p99 {processed.get('p99')} ms"
        f" (workers read {summary['workers_read']}:)",
        "": "latencies of the second half of the frames, when all had started",
        "account": f"{account['received']} received, missing {lost},"
        f" {'complete' if account['complete'] else 'not complete'}",
        "spots": f"{spots['mean']} a frame, at most {spots['max']}, in {spots['frames']} frames",
        "file": f"{summary['file']} ({summary['file_nbytes'] / 1e6:.1f} MB)",
    }
    for name, value in lines.items():
        click.echo(f"{name:<21} {value}")
    raw, derived = "/".join(_RAW), "/".join(_SPOTS)
    activate = f"\n  . {sys.prefix}/bin/activate" if sys.prefix != sys.base_prefix else ""
    click.echo(
        f"""
look further:{activate}
  export LICHTSTROM_HOME={(home / "home").absolute()}
  lichtstrom up
  lichtstrom show {raw}
  lichtstrom frames {derived} --where 'spots > {int(spots["mean"] or 0)}' --limit 5
  lichtstrom watch {raw} --once
  lichtstrom verify {raw}
  lichtstrom down"""
    )

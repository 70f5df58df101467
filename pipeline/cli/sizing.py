"""``lichtstrom sizing``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pipeline.cli.groups import FailedError
from pipeline.cli.output import json_option, print_json, print_pairs, print_table

_FACTOR = 2.0
_POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command()
@click.option(
    "--rate-GBs",
    "rate",
    type=_POSITIVE,
    default=20.0,
    metavar="GB/S",
    help="Payload of all detectors, GB/s.",
)
@click.option(
    "--frame-MB",
    "frame",
    type=_POSITIVE,
    default=8.0,
    metavar="MB",
    help="Payload of one frame, MB.",
)
@click.option(
    "--workers", type=click.IntRange(min=0), metavar="N", default=1000, help="Worker processes."
)
@click.option(
    "--work-s",
    type=click.FloatRange(min=0),
    default=0.5,
    metavar="SECONDS",
    help="How long a worker's function takes for one frame, seconds.",
)
@click.option(
    "--readers",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    help="Readers of everything, beside them.",
)
@click.option(
    "--sinks", type=click.IntRange(min=0), metavar="N", default=1, help="Files of everything."
)
@click.option(
    "--store", type=click.Choice(["s3", "file"]), default="s3", help="Which way payloads go."
)
@click.option(
    "--cores", type=click.IntRange(min=1), metavar="N", default=32, help="Cores of a machine."
)
@click.option(
    "--link-GBs",
    "link",
    type=_POSITIVE,
    default=12.5,
    metavar="GB/S",
    help="Network of a machine, GB/s.",
)
@click.option(
    "--check",
    "bench",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="A file of `bench --json`: compare the same arithmetic with it instead, exit 1 beyond a"
    " factor of 2.  [default: none]",
)
@json_option
def command(
    rate: float,
    frame: float,
    workers: int,
    work_s: float,
    readers: int,
    sinks: int,
    store: str,
    cores: int,
    link: float,
    bench: Path | None,
    as_json: bool,
) -> None:
    """Say how many brokers, gateways, partitions and workers a load takes.

    From processor time measured per frame and per GB; the arithmetic is in docs/sizing.md.
    """
    from pipeline.bench.sizing import Wanted, size

    if bench is not None:
        _check(bench, as_json=as_json)
        return
    found = size(
        Wanted(
            rate_gb_per_s=rate,
            frame_mb=frame,
            workers=workers,
            work_s=work_s,
            readers=readers,
            sinks=sinks,
            store=store,
            cores=cores,
            link_gb_per_s=link,
        )
    )
    if as_json:
        print_json(found)
        return
    shown = {k: v for k, v in found.items() if k not in {"wanted", "costs"} and v is not None}
    print_pairs({k: f"{v:,.1f}" if isinstance(v, float) else v for k, v in shown.items()})
    if workers and found["workers_needed"] > workers:
        click.echo(
            f"{workers} workers carry {found['workers_carry_frames_per_s']:,.0f} of"
            f" {found['frames_per_s']:,.0f} frames/s: a backlog grows, or some frames are filtered",
            err=True,
        )


def _check(path: Path, *, as_json: bool) -> None:
    from pipeline.bench.sizing import check

    try:
        content: dict[str, Any] = json.loads(path.read_text())
        rows = check(content["rows"], cores=int(content["machine"]["cores"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FailedError(f"{path} is not what `bench --json` prints: {error!r}") from error
    if as_json:
        print_json(rows)
    else:
        titles = ["row", "predicted", "measured", "ratio"]
        cells = [
            [r["id"], *(f"{r[k]:.4g}" for k in ("predicted", "measured", "ratio"))] for r in rows
        ]
        print_table(titles, cells)
    beyond = [r["id"] for r in rows if not 1 / _FACTOR <= r["ratio"] <= _FACTOR]
    if beyond or not rows:
        raise FailedError(
            f"beyond a factor of {_FACTOR:g}: {', '.join(beyond)}" if rows else "no row to compare"
        )

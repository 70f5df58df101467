"""The option by which commands that run long tell how they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def _serve(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if not value or ctx.resilient_parsing:
        return
    from pipeline.telemetry.serving import Address, MetricsServer

    server = MetricsServer(Address.parse(value), command=ctx.info_name or "")
    ctx.call_on_close(server.close)
    click.echo(f"metrics: {server.url}", err=True)


def observed(default: str | None = None) -> Callable[[Any], Any]:
    """Give a command ``--metrics``; also set by LICHTSTROM_METRICS, for all commands alike."""
    off = "" if default else "  [default: off]"
    return click.option(
        "--metrics",
        metavar="HOST:PORT",
        envvar="LICHTSTROM_METRICS",
        default=default,
        expose_value=False,
        callback=_serve,
        help="Serve metrics for Prometheus there. PORT alone: on 127.0.0.1; 0: any free one, said"
        f" on stderr; HOST:FIRST-LAST: the first free one.{off}",
    )

"""The options by which commands that run long tell how they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def _serve(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if not value or ctx.resilient_parsing:
        return
    from pipeline.telemetry.serving import Address, MetricsServer

    server = MetricsServer(Address.parse(value), command=ctx.info_name or "")
    ctx.call_on_close(server.close)
    click.echo(f"metrics: {server.url}", err=True)


def observed(command: F) -> F:
    """Give a command ``--metrics``; also set by LICHTSTROM_METRICS, for all commands alike."""
    return click.option(
        "--metrics",
        metavar="HOST:PORT",
        envvar="LICHTSTROM_METRICS",
        expose_value=False,
        callback=_serve,
        help="Serve metrics for Prometheus there; PORT alone: on 127.0.0.1, 0: any free one, said"
        " on stderr; FIRST-LAST: the first free one.  [default: off]",
    )(command)

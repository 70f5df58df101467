"""The options by which commands that run long tell how they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

_EVERY = f"{__name__}.every"


def _serve(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if not value or ctx.resilient_parsing:
        return
    from pipeline.telemetry.serving import Address, MetricsServer

    server = MetricsServer(Address.parse(value), command=ctx.info_name or "")
    ctx.call_on_close(server.close)
    click.echo(f"metrics: {server.url}", err=True)


def _keep(ctx: click.Context, _: click.Parameter, value: int) -> None:
    ctx.meta[_EVERY] = value


def _trace(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if not value or ctx.resilient_parsing:
        return
    from pipeline.telemetry.traces import TRACING, TraceSettings

    service = f"lichtstrom-{ctx.command_path.split()[1]}"
    TRACING.begin(TraceSettings(value, ctx.meta[_EVERY], service))
    ctx.call_on_close(TRACING.end)


def observed(default: str | None = None) -> Callable[[Any], Any]:
    """Give a command ``--metrics`` and ``--traces``; also set by LICHTSTROM_METRICS, _TRACES."""
    off = "" if default else "  [default: off]"
    options = [
        click.option(
            "--trace-every",
            type=click.IntRange(min=1),
            default=1000,
            envvar="LICHTSTROM_TRACE_EVERY",
            metavar="N",
            is_eager=True,
            expose_value=False,
            callback=_keep,
            help="Trace the frames whose number N divides; the same N everywhere.",
        ),
        click.option(
            "--traces",
            metavar="URL",
            envvar="LICHTSTROM_TRACES",
            expose_value=False,
            callback=_trace,
            help="Send spans of sampled frames (OTLP) to http://HOST:PORT, or append them to"
            " file:PATH.  [default: off]",
        ),
        _metrics_option(default, off),
    ]

    def add(command: Any) -> Any:
        for option in options:
            command = option(command)
        return command

    return add


def _metrics_option(default: str | None, off: str) -> Callable[[Any], Any]:
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

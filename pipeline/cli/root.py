"""The ``lichtstrom`` command itself."""

from __future__ import annotations

import click

from pipeline.cli.groups import LazyGroup
from pipeline.cli.logs import set_up_logging
from pipeline.telemetry.logs import Form

#: Command: module and short help.
COMMANDS = {
    "up": ("up", "Start the local Kafka broker and S3 server, and Kafka Connect."),
    "down": ("down", "Stop them; data is kept."),
    "restart": ("restart", "Restart brokers and S3 servers one by one; clients go on."),
    "service": ("service", "Have systemd run a command for good."),
    "status": ("status", "Tell what runs, and where."),
    "doctor": ("doctor", "Say what this machine lacks, and how to get it."),
    "demo": ("demo", "Detector to HDF5 file, with everything between, in 10 s."),
    "adapter": ("adapter", "Publish what an instrument makes."),
    "simulate": ("simulate", "Be an instrument, for tests."),
    "streams": ("streams", "List streams."),
    "show": ("show", "Tell all about one stream."),
    "frames": ("frames", "List the frames of a stream."),
    "watch": ("watch", "Draw the newest image, and follow."),
    "verify": ("verify", "Read a whole stream and print its account."),
    "values": ("values", "Publish values over time: JSON lines, EPICS; show them."),
    "worker": ("worker", "Run a function on every frame, in a group."),
    "group": ("group", "List groups, tell their lag, set where they go on."),
    "dlq": ("dlq", "See, replay and drop the frames that groups gave up."),
    "sink": ("sink", "Write a stream somewhere else."),
    "connect": ("connect", "Run sinks in Kafka Connect: make, list, remove connectors."),
    "hdf5": ("hdf5", "Check HDF5 files, open again what a killed writer left."),
    "export": ("export", "Copy streams to another store."),
    "delete": ("delete", "Delete a stream: its records, then its blobs."),
    "retention": ("retention", "Set how long data is kept; carry it out; collect garbage."),
    "end": ("end", "End a stream whose writer is gone."),
    "beamtime": ("beamtime", "Create, list and show beamtimes."),
    "access": ("access", "Say who may read, write, manage a beamtime."),
    "spool": ("spool", "List and publish what dead writers left on disk."),
    "sizing": ("sizing", "Say what a load takes: brokers, gateways, partitions, workers."),
    "exporter": ("exporter", "Tell Prometheus of all beamtimes: lag, states, broker, store."),
    "bench": ("bench", "Measure rates, latencies, memory beside their physical limits."),
}


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"lichtstrom {version('lichtstrom')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    commands_in=COMMANDS,
    context_settings={
        "auto_envvar_prefix": "LICHTSTROM",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 100,
    },
)
@click.option("-v", "--verbose", count=True, help="Log more: -v events, -vv details.")
@click.option("-q", "--quiet", is_flag=True, help="Log errors only.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How the log on stderr is written: lines for people, or one JSON object a line.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Print the version and stop.",
)
def lichtstrom(verbose: int, quiet: bool, log_format: Form) -> None:
    """Carry detector frames to the programs that want them: live, and years later.

    STREAM is written beamtime/detector/stream; where many make sense, a shell pattern in quotes.
    Every option can come from the environment: LICHTSTROM_<COMMAND>_<OPTION>.

    Exit status: 0 done, 1 failed (one line says why), 2 wrong usage.
    """
    set_up_logging(verbose=verbose, quiet=quiet, form=log_format)

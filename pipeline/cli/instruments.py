"""``lichtstrom adapter run``: the instruments of the settings file, in one process or many."""

from __future__ import annotations

import dataclasses
import logging
import threading
from dataclasses import dataclass, field

import click

from pipeline.cli import plugins
from pipeline.cli.groups import FailedError
from pipeline.cli.ingesting import (
    Instrument,
    check,
    line,
    publish,
    section,
    sections,
    settings_path,
)
from pipeline.cli.metrics import observed
from pipeline.cli.output import json_option, print_json, report_option, size_text, status_line
from pipeline.cli.signals import stopping
from pipeline.errors import ConfigError, PipelineError
from pipeline.ingest.report import IngestReport

log = logging.getLogger(__name__)
_LOOK_S = 0.2


@dataclass(slots=True, eq=False)
class _Job:
    """One instrument in its thread."""

    instrument: Instrument
    report: IngestReport = field(default_factory=IngestReport)
    thread: threading.Thread | None = None
    #: Of all attempts before the present one.
    earlier: list[IngestReport] = field(default_factory=list)
    failure: BaseException | None = None

    def run(self, stop: threading.Event, restart_s: float) -> None:
        """Publish; after a failure that may pass, again."""
        while True:
            try:
                publish(self.instrument, stop=stop, report=self.report)
            except PipelineError as error:
                self.failure = error
                log.error("instrument=%s stopped: %s", self.instrument.name, error)
            except BaseException as error:
                self.failure = error
                raise
            else:
                self.failure = None
                return
            if not restart_s or stop.wait(restart_s):
                return
            log.warning("instrument=%s starts again", self.instrument.name)
            self.earlier.append(self.report)
            self.report = IngestReport()

    def total(self) -> IngestReport:
        """Return the counts of all attempts."""
        total = dataclasses.replace(self.report)
        for name in ("frames", "nbytes", "confirmed", "skipped", "quarantined"):
            counts = [getattr(report, name) for report in (*self.earlier, self.report)]
            setattr(total, name, sum(counts))
        for name in ("streams", "ended"):
            names = [n for report in (*self.earlier, self.report) for n in getattr(report, name)]
            setattr(total, name, list(dict.fromkeys(names)))
        return total


@click.command("run")
@click.argument("names", nargs=-1, metavar="[INSTRUMENT]...")
@click.option(
    "--restart",
    "restart_s",
    type=click.FloatRange(min=0),
    default=5.0,
    metavar="SECONDS",
    help="Start an instrument that failed again after so long; 0 for never.",
)
@click.option("--check", "only_check", is_flag=True, help="Only contact the sources and say what.")
@observed()
@report_option
@json_option
def command(
    names: tuple[str, ...],
    restart_s: float,
    only_check: bool,
    report_s: float | None,
    as_json: bool,
) -> None:
    """Publish the instruments that lichtstrom.toml describes, each in a thread.

    A section [adapter.INSTRUMENT] has the key `adapter` (pilatus, eiger, ...), `beamtime`,
    `detector` and the options of that adapter with underscores. Without names: all sections. One
    process for each instrument: run the command once for each name. What fails is started again;
    the others go on meanwhile.
    """
    jobs = [_Job(_instrument(name)) for name in names or sections()]
    if not jobs:
        raise ConfigError("lichtstrom.toml has no section [adapter.INSTRUMENT]")
    if only_check:
        check([job.instrument for job in jobs], as_json=as_json)
        return
    _run(jobs, restart_s, report_s)
    reports = {job.instrument.name: job.total() for job in jobs}
    if as_json:
        print_json({name: dataclasses.asdict(report) for name, report in reports.items()})
    else:
        for name, report in reports.items():
            click.echo(f"{name}: {line(report)}")
    failed = [job.instrument.name for job in jobs if job.failure or job.report.not_flushed]
    if failed:
        raise FailedError(f"not everything was published: {', '.join(failed)}")


def _instrument(name: str) -> Instrument:
    """Return an instrument from its section, its values checked as on the command line."""
    from pipeline.cli.adapter import build

    known = sections()
    if name not in known:
        there = ", ".join(known) or "none"
        raise ConfigError(f"{settings_path()}: no section [adapter.{name}]; there are: {there}")
    kind = known[name].get("adapter", name)
    point = plugins.found("lichtstrom.adapters").get(kind)
    if point is None:
        adapters = ", ".join(plugins.found("lichtstrom.adapters"))
        raise ConfigError(f"[adapter.{name}]: adapter = {kind!r} is not one of {adapters}")
    built = build(point)
    built.context_settings["default_map"] = section(name, built)
    try:
        ctx = built.make_context(name, [])
        instrument = Instrument(name=name, plugin=plugins.load(point), values=ctx.params)
        instrument.check_usage(ctx)
    except click.UsageError as error:
        raise ConfigError(f"[adapter.{name}]: {error.format_message()}") from error
    return instrument


def _run(jobs: list[_Job], restart_s: float, report_s: float | None) -> None:
    def left() -> str:
        waiting = sum(job.report.frames - job.report.confirmed for job in jobs)
        return f"{waiting} frames were not flushed; their sources are kept"

    with stopping(left) as stop, status_line(report_s) as say:
        for job in jobs:
            job.thread = threading.Thread(
                target=job.run,
                args=(stop.event, restart_s),
                name=f"instrument {job.instrument.name}",
            )
            job.thread.start()
        threads = [job.thread for job in jobs if job.thread is not None]
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(_LOOK_S / len(threads))
            totals = [job.total() for job in jobs]
            say(
                "  ".join(f"{j.instrument.name} {size_text(j.total().nbytes)}" for j in jobs),
                frames=sum(total.frames for total in totals),
                confirmed=sum(total.confirmed for total in totals),
            )

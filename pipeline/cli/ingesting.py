"""Instruments: an adapter with its settings, checked and published from."""

from __future__ import annotations

import difflib
import os
import threading
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli import plugins
from pipeline.cli.output import print_json, print_pairs, size_text
from pipeline.errors import ConfigError
from pipeline.ingest.report import IngestReport

if TYPE_CHECKING:
    from pipeline.ingest.beamtimes import CurrentBeamtime
    from pipeline.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """An adapter and the values of all its options.

    Parameters
    ----------
    name:
        Its section in the settings file; the adapter's name where there is no other.
    plugin:
        The adapter's class.
    """

    name: str
    plugin: Any
    values: Mapping[str, Any]

    def check_usage(self, ctx: click.Context) -> None:
        """Raise UsageError when it does not say where frames go."""
        for name in ("beamtime", "detector"):
            if not self.values[name]:
                raise click.UsageError(f"Missing option '--{name}'.", ctx)

    def adapter(self) -> Any:
        """Return the adapter; raises what its constructor raises."""
        settings = plugins.given(self.values, self.plugin)
        if self.values["after"] != "keep":
            settings["after"] = self.values["after"]
        return self.plugin(**settings)


def settings_path() -> Path:
    """Return where the settings file is, or would be."""
    return Path(os.environ.get("LICHTSTROM_CONFIG", "lichtstrom.toml"))


def sections() -> dict[str, dict[str, Any]]:
    """Return the sections ``[adapter.NAME]`` of lichtstrom.toml, in its order."""
    path = settings_path()
    try:
        found = tomllib.loads(path.read_text()).get("adapter", {})
        return {name: dict(values) for name, values in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def section(name: str, command: click.Command) -> dict[str, Any]:
    """Return a section's settings, all of them options of ``command``; none without a section.

    Raises ConfigError that names an unknown setting.
    """
    path, found = settings_path(), sections().get(name, {})
    settings = {key: value for key, value in found.items() if key != "adapter"}
    known_keys = [parameter.name for parameter in command.params if parameter.name]
    for key in settings:
        if key not in known_keys:
            near = difflib.get_close_matches(key, known_keys, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known_keys)}"
            raise ConfigError(f"{path}: [adapter.{name}] {key} is unknown; {hint}")
    return settings


def check(instruments: Sequence[Instrument], *, as_json: bool) -> None:
    """Contact the sources and print what is seen; raises SourceError and the like."""
    seen = {}
    for instrument in instruments:
        adapter = instrument.adapter()
        try:
            seen[instrument.name] = dict(adapter.check())
        finally:
            adapter.close()
    if as_json:
        print_json(seen if len(instruments) > 1 else seen[instruments[0].name])
        return
    for name, facts in seen.items():
        if len(seen) > 1:
            click.echo(f"[{name}]")
        print_pairs(facts)


def publish(
    instrument: Instrument,
    *,
    stop: threading.Event,
    report: IngestReport,
    on_progress: Callable[[IngestReport], None] | None = None,
) -> None:
    """Publish what the instrument makes until it is over or ``stop`` is set.

    Raises what :func:`pipeline.ingest.run` raises.
    """
    from pipeline.ingest import run
    from pipeline.session import connect

    values = instrument.values
    adapter = instrument.adapter()
    try:
        with connect() as session:
            configured = session.settings.publish
            after = values["after"]
            run(
                session,
                adapter,
                beamtime=_beamtime(session, values["beamtime"]),
                detector=values["detector"],
                stream=values["stream"],
                idle_end_s=values["idle_end_s"],
                streams=values["streams"],
                durability=values["durability"]
                or (configured.durability if after == "keep" else "disk"),
                spool=str(values["spool"] or configured.spool),
                after=after,
                takeover=values["takeover"],
                hole_wait_s=values["hole_wait_s"],
                flush_timeout_s=values["flush_timeout_s"],
                stop=stop,
                on_progress=on_progress,
                report=report,
            )
    finally:
        adapter.close()


def _beamtime(session: Session, name: str) -> str | CurrentBeamtime:
    """Return the name, or for ``auto`` who says it; raises ConfigError if nobody does now."""
    from pipeline.ingest.beamtimes import AUTO, CurrentBeamtime

    if name != AUTO:
        return name
    current = CurrentBeamtime(session.settings.beamtime, session.takes)
    current()
    return current


def line(report: IngestReport) -> str:
    """Return what was done, for people."""
    parts = [
        f"{report.confirmed} of {report.frames} frames published",
        size_text(report.nbytes),
        f"{len(report.streams)} streams, {len(report.ended)} ended",
    ]
    if report.skipped:
        parts.append(f"{report.skipped} were published before")
    if report.spooled:
        parts.append(f"{report.spooled} spooled")
    if report.waited_s >= 1 or report.waiting:
        parts.append(f"held back {report.waited_s:.1f} s")
    if report.quarantined:
        parts.append(f"{report.quarantined} quarantined")
    return ", ".join(parts)

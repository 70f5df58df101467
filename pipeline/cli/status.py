"""``lichtstrom status``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from pipeline.cli.output import json_option, print_json, print_pairs, time_text
from pipeline.cli.standing import beamtime_facts, print_standing, spool_facts
from pipeline.cli.up import home_option


@click.command()
@home_option
@click.option(
    "--beamtime",
    metavar="NAME",
    help="Tell its newest streams, too, with rates, and its groups with lag and dead letters; of"
    " the configured broker, whether or not the local runtime runs.",
)
@click.option(
    "--spool",
    "spools",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Tell what waits there, too; may be given several times.  [default: as configured]",
)
@json_option
def command(
    home: Path | None, beamtime: str | None, spools: tuple[Path, ...], as_json: bool
) -> None:
    """Tell what runs of the local runtime, and where. Exit status 1 if it does not run."""
    from pipeline.local import default_home, status

    found = status(home or default_home())
    info = found.info
    addresses = {node.name: node.address for node in info.nodes} if info else {}
    facts: dict[str, Any] = {
        "home": str(found.home),
        "state": found.summary,
        "running": found.running,
        "kafka": info.kafka.bootstrap if info else None,
        "kafka_pid": found.kafka.pid,
        "store": info.store_url if info else None,
        "s3": info.s3.endpoint if info and info.s3 else None,
        "s3_pid": found.s3.pid,
        "connect": info.connect.url if info and info.connect else None,
        "connect_pid": found.connect.pid,
        "connect_answers": found.connect.answers if found.connect.pid else None,
        "started_ns": info.started_ns if info else None,
    }
    if info and found.nodes:
        facts["servers"] = [
            {"name": node.name, "address": addresses.get(node.name), "pid": node.pid}
            | {"answers": node.answers}
            for node in found.nodes
        ]
    rows, waiting = _standing(home, beamtime, spools)
    if as_json:
        more = {"streams": rows} if beamtime else {}
        print_json({**facts, **more, **({"spools": waiting} if waiting else {})})
    else:
        servers = facts.get("servers", [])
        shown = {name: value for name, value in facts.items() if value not in (None, True, False)}
        shown.pop("servers", None)
        if found.connect.pid and not found.connect.answers:
            shown["connect"] = f"{shown.get('connect', '')} (does not answer)".strip()
        if "started_ns" in shown:
            shown["started"] = time_text(shown.pop("started_ns"))
        for server in servers:
            note = f"pid {server['pid']}" if server["answers"] else "does not answer"
            shown[server["name"]] = f"{server['address'] or 'no address'} ({note})"
        print_pairs(shown)
        print_standing(rows, waiting)
    if not found.running and not beamtime:
        raise SystemExit(1)


def _standing(
    home: Path | None, beamtime: str | None, spools: tuple[Path, ...]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return how streams and spools stand; without --beamtime only spools that were named."""
    if not beamtime:
        return [], spool_facts(spools)
    from pipeline.session import connect

    if home is not None:  # as every command finds a runtime that lies elsewhere
        os.environ["LICHTSTROM_HOME"] = str(home)
    with connect() as session:
        configured = session.settings.publish.spool
        folders = spools or ((Path(configured),) if configured else ())
        return beamtime_facts(session, beamtime), spool_facts(folders)

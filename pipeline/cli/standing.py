"""How streams and groups stand, for people: what ``status`` and ``watch`` print of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.output import print_table, size_text

if TYPE_CHECKING:
    from pipeline.facility import StreamFacts
    from pipeline.naming import StreamId
    from pipeline.session import Session, StreamSummary

#: Streams that are shown, and how long a rate is looked at.
_NEWEST = 10
_RATE_S = 1.0


def beamtime_facts(session: Session, beamtime: str) -> list[dict[str, Any]]:
    """Return how the newest streams of a beamtime stand, open ones with their rate.

    Blocks a second longer than the questions take where a stream is open.
    """
    from pipeline.facility import stream_facts

    newest = session.streams(f"{beamtime}/*/*")[-_NEWEST:]
    rates = _rates(session, [summary for summary in newest if summary.state == "open"])
    return [_row(facts, rates.get(str(facts.stream))) for facts in stream_facts(session, newest)]


def stream_row(session: Session, name: StreamId) -> dict[str, Any] | None:
    """Return how one stream and its groups stand; None for one that is gone."""
    from pipeline.facility import stream_facts

    found = [summary for summary in session.streams(str(name)) if summary.name == name]
    return next((_row(facts, None) for facts in stream_facts(session, found)), None)


def _rates(session: Session, open_: Sequence[StreamSummary]) -> dict[str, float]:
    if not open_:
        return {}
    begun_s, before = time.monotonic(), _heads(session, open_)
    time.sleep(_RATE_S)
    after = _heads(session, open_)
    seconds = time.monotonic() - begun_s
    return {name: max(0, after[name] - head) / seconds for name, head in before.items()}


def _heads(session: Session, summaries: Sequence[StreamSummary]) -> dict[str, int]:
    found = {}
    for summary in summaries:
        name = summary.name
        with session.stream(name.beamtime, name.detector, name.stream) as stream:
            tails = stream.log.tail(timeout_s=10.0)
            found[str(name)] = max((record.value.ceil for record in tails), default=-1)
    return found


def _row(facts: StreamFacts, rate_hz: float | None) -> dict[str, Any]:
    return {
        "stream": str(facts.stream),
        "state": facts.state,
        "head": facts.head,
        "rate_hz": rate_hz,
        "idle_s": facts.idle_s,
        "groups": [
            {
                "group": group.group,
                "members": group.members,
                "dead_letters": group.dead_letters,
                **dataclasses.asdict(group.lag),
            }
            for group in facts.groups
        ],
    }


def spool_facts(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return what waits in spools, whoever wrote it."""
    from pipeline.publishing.spool import spooled

    return [
        {"spool": str(folder), "segments": segments, "nbytes": nbytes}
        for folder in folders
        for segments, nbytes in [spooled(folder)]
    ]


def print_standing(rows: Sequence[dict[str, Any]], spools: Sequence[dict[str, Any]]) -> None:
    """Print streams, groups and spools as tables; nothing of what there is none."""
    if rows:
        click.echo()
        titles = ("stream", "state", "head", "frames/s", "idle s")
        cells = [
            (r["stream"], r["state"], r["head"], _number(r["rate_hz"]), _number(r["idle_s"]))
            for r in rows
        ]
        print_table(titles, cells)
    groups = [(row["stream"], group) for row in rows for group in row["groups"]]
    if groups:
        click.echo()
        columns = ("stream", "group", "members", "frames", "seconds", "retries", "dead letters")
        print_table(columns, [_group_cells(stream, group) for stream, group in groups])
    for spool in spools:
        click.echo()
        text = f"{spool['segments']} segments, {size_text(spool['nbytes'])}"
        click.echo(f"spool {spool['spool']}: {text}")


def _group_cells(stream: str, group: dict[str, Any]) -> tuple[Any, ...]:
    return (
        stream,
        group["group"],
        group["members"],
        group["frames"],
        _number(group["seconds"]),
        group["retries"],
        group["dead_letters"],
    )


def group_line(row: dict[str, Any]) -> str:
    """Return one line on the groups of a stream, empty where there are none."""
    return "  ".join(
        f"{g['group']}: {g['frames']} frames, {g['seconds']:.1f} s behind,"
        f" {g['members']} members" + (f", {g['dead_letters']} given up" * bool(g["dead_letters"]))
        for g in row["groups"]
    )


def _number(value: float | None) -> str | float:
    return "" if value is None else round(value, 1)

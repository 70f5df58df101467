"""``lichtstrom group list | lag | reset``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.names import StreamParam, find_streams, open_stream, store_option, stream_argument
from pipeline.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from pipeline.session import Session
    from pipeline.sharing.standing import Standing

state_option = click.option(
    "--state",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Without a broker: the file that keeps the group's progress.",
)


@click.group()
def command() -> None:
    """List groups, tell how far they are, set where they go on."""


@command.command("list")
@click.argument("beamtime", metavar="BEAMTIME")
@json_option
def list_(beamtime: str, as_json: bool) -> None:
    """List the groups of a beamtime's streams with their members."""
    from pipeline.session import connect
    from pipeline.sharing.standing import standings

    with connect() as session:
        found = standings(session.services, beamtime)
    if as_json:
        print_json([{**dataclasses.asdict(s), "stream": str(s.stream)} for s in found])
    elif found:
        print_table(
            ("stream", "group", "state", "members"),
            [(s.stream, s.group, s.state, ", ".join(s.members) or "none") for s in found],
        )


@command.command()
@click.argument("stream", type=StreamParam(pattern=True), metavar="STREAM")
@click.option(
    "--group", metavar="NAME", help="Only this group.  [default: all that the broker knows]"
)
@state_option
@store_option
@json_option
def lag(
    stream: str, group: str | None, state: str | None, store: str | None, as_json: bool
) -> None:
    """Tell how many frames groups have not done yet, and how old the oldest of them is.

    STREAM may be a pattern. The age is frame time: from the oldest frame that is not done to the
    stream's newest. Records, as Kafka's tools count, hold many frames each.
    """
    from pipeline.session import connect

    rows = []
    with connect(store) as session:
        for summary in find_streams(session, stream):
            name = str(summary.name)
            with open_stream(session, name) as opened:
                for wanted in [group] if group else _groups(session, summary.name.beamtime, name):
                    found = opened.group(wanted, state=state).lag()
                    rows.append({"stream": name, "group": wanted, **dataclasses.asdict(found)})
    if as_json:
        print_json(rows)
    elif rows:
        titles = ("stream", "group", "frames", "retries", "records", "seconds", "first")
        print_table(titles, [[_cell(row[title]) for title in titles] for row in rows])


def _groups(session: Session, beamtime: str, name: str) -> list[str]:
    from pipeline.sharing.standing import standings

    if not session.services.has_broker:
        raise click.UsageError("without a broker name the group: --group and --state")
    known: list[Standing] = standings(session.services, beamtime)
    return [standing.group for standing in known if str(standing.stream) == name]


def _cell(value: Any) -> Any:
    return "" if value is None else value


@command.command()
@stream_argument
@click.option("--group", required=True, metavar="NAME", help="Which group.")
@click.option(
    "--to",
    required=True,
    metavar="start|end|NUMBER|TIME",
    help="Where it goes on: with a frame, or with the first frame taken at or after an ISO 8601"
    " time (UTC where no zone is named).",
)
@state_option
@store_option
@json_option
def reset(
    stream: str, group: str, to: str, state: str | None, store: str | None, as_json: bool
) -> None:
    """Set where a group goes on in one stream; no other stream or group moves.

    Refused while the group has members. A derived stream of the group is ended where it is open,
    and the workers write the next run of it: STREAM.r2, STREAM.r3, ...
    """
    from pipeline.session import connect

    with connect(store) as session, open_stream(session, stream) as opened:
        done = opened.group(group, state=state).reset(to)
    runs = [str(name) for name in done.runs]
    if as_json:
        print_json({"stream": stream, "group": group, "frames": done.frames, "runs": runs})
        return
    click.echo(f"group {group} has {done.frames} frames of {stream} to do")
    for name in runs:
        click.echo(f"results go to {name}")

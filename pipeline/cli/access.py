"""``lichtstrom access grant | revoke | list``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from pipeline.access import AccessControl, Role

F = TypeVar("F", bound=Callable[..., Any])

beamtime_option = click.option("--beamtime", required=True, metavar="NAME", help="The beamtime.")
user_option = click.option("--user", required=True, metavar="NAME", help="Who.")


@click.group()
def command() -> None:
    """Say who may read, write and manage a beamtime: on the broker and the S3 server at once.

    For administrators of servers with users and access rules, for example those of `lichtstrom up
    --secure`.
    """


@command.command()
@beamtime_option
@user_option
@click.option(
    "--role",
    required=True,
    type=click.Choice(["read", "write", "admin"]),
    help="read: readers, shared groups, sinks; write: adapters and derived streams, too; admin:"
    " deletion, retention, too.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the credentials into this new file, readable by its owner alone.",
)
@json_option
def grant(beamtime: str, user: str, role: Role, out: Path | None, as_json: bool) -> None:
    """Give a user a role, and credentials, which are shown this once.

    Who had a role before gets this one instead, and new secrets: the old ones are void.
    """
    if as_json == (out is not None):
        raise click.UsageError("--json or --out FILE: the credentials are shown this once")
    if out is not None and out.exists():
        raise click.UsageError(f"--out {out} exists: name a new file")
    with _control() as control:
        text = json.dumps(control.grant(beamtime, user, role).to_json(), indent=2) + "\n"
    if out is None:
        click.echo(text, nl=False)
        return
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    click.echo(f"{user} may {role} {beamtime}: {out}")


@command.command()
@beamtime_option
@user_option
@json_option
def revoke(beamtime: str, user: str, as_json: bool) -> None:
    """Take away everything that a user may with a beamtime, within half a minute."""
    with _control() as control:
        had = control.revoke(beamtime, user)
    if as_json:
        print_json({"beamtime": beamtime, "user": user, "revoked": had})
    else:
        click.echo(f"{user} {'may nothing any more' if had else 'had nothing'} in {beamtime}")


@command.command("list")
@click.option("--beamtime", metavar="NAME", help="This one only.  [default: all]")
@json_option
def list_(beamtime: str | None, as_json: bool) -> None:
    """List who has access, as both servers have it."""
    with _control() as control:
        found = control.list(beamtime)
    rows = [(a.beamtime, a.user, a.kafka, a.s3) for a in found]
    titles = ("beamtime", "user", "kafka", "s3")
    if as_json:
        print_json([dict(zip(titles, row, strict=True)) for row in rows])
    else:
        print_table(titles, [[value or "" for value in row] for row in rows])


@contextmanager
def _control() -> Iterator[AccessControl]:
    from pipeline.access import AccessControl
    from pipeline.config import load

    control = AccessControl(load())
    try:
        yield control
    finally:
        control.close()

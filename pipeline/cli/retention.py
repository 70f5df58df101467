"""``lichtstrom retention set | show | apply | gc``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.output import (
    json_option,
    print_json,
    print_pairs,
    print_table,
    size_text,
    time_text,
)
from pipeline.cli.units import NEVER, DurationParam, SizeParam, duration_text

if TYPE_CHECKING:
    from pipeline.policy import Policy


@click.group()
def command() -> None:
    """How long records and objects are kept: one policy per beamtime.

    Nothing goes where no policy is set. Records go before their objects, and only when a durable
    part of the manifest has them; streams go whole, never while they are written.
    """


@command.command("set")
@click.argument("beamtime", metavar="BEAMTIME")
@click.option(
    "--records-age",
    "records_age_s",
    type=DurationParam(or_never=True),
    metavar="DURATION",
    help="Records leave the topics this long after they came (2d, 12h, 30min); streams are read"
    " from their manifests then. 'never': they stay as long as the objects.",
)
@click.option(
    "--age",
    "age_s",
    type=DurationParam(or_never=True),
    metavar="DURATION",
    help="Streams go this long after they ended (30d, 12h, 8w), objects and all. 'never': not"
    " by age.",
)
@click.option(
    "--size",
    "nbytes",
    type=SizeParam(or_never=True),
    metavar="SIZE",
    help="Above so much in the store (2TB, 500GB, 10GiB) the streams that ended first go."
    " 'never': no limit.",
)
@click.option(
    "--hold",
    multiple=True,
    metavar="DETECTOR/STREAM",
    help="Keep what matches for ever; a shell pattern, may be repeated.",
)
@click.option(
    "--release", multiple=True, metavar="DETECTOR/STREAM", help="Take such a pattern away again."
)
@click.option(
    "--archive",
    metavar="URL",
    help="Copy streams here (file:///dir, s3://bucket/prefix) before they go, every frame"
    " checked. '': do not.",
)
@json_option
def set_(
    beamtime: str,
    records_age_s: float | None,
    age_s: float | None,
    nbytes: int | None,
    hold: tuple[str, ...],
    release: tuple[str, ...],
    archive: str | None,
    as_json: bool,
) -> None:
    """Set what is given of a beamtime's policy and leave the rest as it is.

    Everybody sees it at once; `retention apply` carries it out.
    """
    from pipeline.retention import policies
    from pipeline.session import connect

    given = {
        "records_age_s": records_age_s,
        "age_s": age_s,
        "nbytes": nbytes,
        "archive": archive,
    }
    values = {n: None if v == -1 else v for n, v in given.items() if v is not None}
    if not (values or hold or release):
        raise click.UsageError("say what to set: --records-age, --age, --size, --hold, --archive")
    with connect() as session:
        policy = policies.change(session.services, beamtime, hold=hold, release=release, **values)
    if as_json:
        print_json({"beamtime": beamtime, "policy": policy_facts(policy)})
    else:
        _print_policy(beamtime, policy)


@command.command()
@click.argument("beamtime", metavar="BEAMTIME")
@json_option
def show(beamtime: str, as_json: bool) -> None:
    """Show the policy, and what went: when, by which policy, where the copy is."""
    from pipeline.retention import policies
    from pipeline.retention.tombstones import tombstones
    from pipeline.session import connect

    with connect() as session:
        policy = policies.current(session.services, beamtime)
        gone = tombstones(session.services, beamtime)
    if as_json:
        facts = policy_facts(policy) if policy is not None else None
        print_json({"beamtime": beamtime, "policy": facts, "gone": gone})
        return
    if policy is None:
        click.echo(f"{beamtime}: no policy, nothing goes")
    else:
        _print_policy(beamtime, policy)
    if gone:
        click.echo()
        rows = [
            (g["stream"], time_text(g["at_ns"] or None), g["frames"], g["why"], g["archive"] or "")
            for g in gone
        ]
        print_table(("gone", "when", "frames", "why", "copy"), rows)


@command.command()
@click.argument("beamtimes", nargs=-1, metavar="[BEAMTIME]...")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--watch",
    "every_s",
    type=DurationParam(),
    metavar="DURATION",
    help="Go on for ever, once in so long (10min, 1h); a beamtime that fails is tried again.",
)
@click.option(
    "--seal-after",
    "seal_after_s",
    type=DurationParam(),
    default="5min",
    metavar="DURATION",
    help="Seal streams that ended so long ago (5min, 1h) and were not: their writer died over it,"
    " or the store was away.",
)
@click.option(
    "--settle",
    "settle_s",
    type=DurationParam(),
    default="10s",
    metavar="DURATION",
    help="No record younger than this (10s, 1min) leaves a topic: a stream that begins may not be"
    " in the catalogue yet.",
)
@json_option
def apply(
    beamtimes: tuple[str, ...],
    dry_run: bool,
    every_s: float | None,
    seal_after_s: float,
    settle_s: float,
    as_json: bool,
) -> None:
    """Carry out the policies: of these beamtimes, by default of all that have one.

    Says what goes before it goes, and asks nothing. Two at once do no harm, and one that was
    killed is finished by the next. Exit status 1 if a stream could not be dealt with.
    """
    from pipeline.cli.retention_runs import Runs
    from pipeline.session import connect

    if dry_run and every_s is not None:
        raise click.UsageError("--dry-run looks once: leave out --watch")
    with connect() as session:
        run = Runs(
            session, beamtimes, seal_after_s=seal_after_s, settle_s=settle_s, as_json=as_json
        )
        if every_s is not None:
            run.watch(every_s)
            return
        failed = run.preview() if dry_run else run.apply()
    if failed:
        raise SystemExit(1)


@command.command()
@click.argument("beamtimes", nargs=-1, metavar="[BEAMTIME]...")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option(
    "--grace",
    "grace_s",
    type=DurationParam(),
    default="1h",
    metavar="DURATION",
    help="Leave alone what is younger (1h, 30min): its record may be on its way.",
)
@json_option
def gc(beamtimes: tuple[str, ...], dry_run: bool, grace_s: float, as_json: bool) -> None:
    """Remove objects that nothing refers to; name references whose object is gone.

    Streams that are written are not looked into. Needs no policy. Exit status 1 if an object is
    gone that a stream refers to.
    """
    from pipeline.retention.garbage import find_garbage, remove_orphans
    from pipeline.retention.policies import require_broker
    from pipeline.session import connect

    with connect() as session:
        require_broker(session.services)
        orphans, dangling, removed, written = [], [], 0, []
        for beamtime in beamtimes or session.services.admin.beamtimes():
            found = find_garbage(session.services, beamtime, older_s=grace_s)
            orphans += found.orphans
            dangling += found.dangling
            written += found.open_streams
            if not dry_run:
                removed += remove_orphans(session.services, found.orphans)
    total = sum(orphan.nbytes for orphan in orphans)
    if as_json:
        facts = {
            "orphans": [dataclasses.asdict(orphan) for orphan in orphans],
            "nbytes": total,
            "removed": removed,
            "dangling": [dataclasses.asdict(entry) for entry in dangling],
            "open": written,
        }
        print_json(facts)
    else:
        for orphan in orphans:
            click.echo(
                f"{orphan.beamtime}  {orphan.kind}  {size_text(orphan.nbytes)}  {orphan.key}"
            )
        for entry in dangling:
            click.echo(f"{entry.stream}  {entry.problem}  {entry.frames} frames  {entry.key}")
        what = "would be removed" if dry_run else "removed"
        click.echo(
            f"{len(orphans)} orphans, {size_text(total)} {what};"
            f" {len(dangling)} references to objects that are gone;"
            f" {len(written)} streams are written and were left alone"
        )
    if dangling:
        raise SystemExit(1)


def policy_facts(policy: Policy) -> dict[str, Any]:
    """Return a policy for other programs."""
    return {
        "records_age_s": policy.records_age_s,
        "age_s": policy.age_s,
        "size_nbytes": policy.nbytes,
        "hold": list(policy.hold),
        "archive": policy.archive or None,
        "by": policy.by,
        "at_ns": policy.at_ns,
        "version": policy.nonce,
    }


def _print_policy(beamtime: str, policy: Policy) -> None:
    print_pairs(
        [
            ("beamtime", beamtime),
            ("records-age", duration_text(policy.records_age_s)),
            ("age", duration_text(policy.age_s)),
            ("size", NEVER if policy.nbytes is None else size_text(policy.nbytes)),
            ("hold", ", ".join(policy.hold) or "nothing"),
            ("archive", policy.archive or "none"),
            ("set", f"{time_text(policy.at_ns)} by {policy.by}, version {policy.nonce}"),
        ]
    )

"""Runs of ``lichtstrom retention apply``: once, or for ever."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.output import print_json, size_text, time_text
from pipeline.cli.signals import stopping
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.retention.applying import Applied
    from pipeline.retention.plan import Plan
    from pipeline.session import Session

log = logging.getLogger(__name__)


def run_once(
    session: Session,
    beamtimes: Sequence[str],
    *,
    dry_run: bool,
    seal_after_s: float,
    as_json: bool,
) -> list[str]:
    """Plan or apply; print it; return the streams that could not be dealt with."""
    from pipeline.retention import policies
    from pipeline.retention.applying import apply
    from pipeline.retention.plan import make_plan, plan_facts

    services = session.services
    facts: list[dict[str, Any]] = []
    failed: list[str] = []
    for beamtime in beamtimes or policies.beamtimes(services):
        if policies.current(services, beamtime) is None:
            raise PipelineError(
                f"{beamtime} has no retention policy, so nothing goes:"
                f" `lichtstrom retention set {beamtime} --age 30d` makes one"
            )
        if dry_run:
            plan = make_plan(services, beamtime)
            facts.append(plan_facts(plan))
            if not as_json:
                print_plan(plan)
            continue
        on_plan = None if as_json else print_plan
        done = apply(services, beamtime, on_plan=on_plan, seal_after_s=seal_after_s)
        failed += done.failed
        facts.append(dataclasses.asdict(done))
        if not as_json:
            print_applied(done)
    if as_json:
        print_json(facts)
    return failed


def watch(
    session: Session,
    beamtimes: Sequence[str],
    every_s: float,
    *,
    seal_after_s: float,
    as_json: bool,
) -> None:
    """Apply again and again until stopped; trouble is logged, the next turn tries again."""
    from pipeline.retention import policies
    from pipeline.retention.applying import apply

    policies.require_broker(session.services)
    with stopping(lambda: "the next run finishes what this one began") as stop:
        while not stop.event.is_set():
            try:
                wanted = list(beamtimes) or policies.beamtimes(session.services)
            except PipelineError as error:
                wanted = []
                log.error("retention put off: %s", error)
            for beamtime in wanted:
                if stop.event.is_set():
                    break
                try:
                    done = apply(session.services, beamtime, seal_after_s=seal_after_s)
                except PipelineError as error:
                    log.error("retention put off beamtime=%s: %s", beamtime, error)
                    continue
                if as_json:
                    print_json(dataclasses.asdict(done), indent=None)
                elif done.records or done.streams or done.objects or done.failed:
                    print_applied(done)
            stop.event.wait(every_s)
        stop.exit_if_asked()


def print_plan(plan: Plan) -> None:
    """Say what goes: how many records, streams, frames and bytes, and from when the oldest is."""
    from pipeline.retention.plan import plan_facts

    facts = plan_facts(plan)
    for trim in plan.trims:
        if trim.records:
            click.echo(f"records   {trim.records} of topic {trim.topic}, the manifest has them")
        if trim.blocked:
            click.echo(
                f"          more are kept: {', '.join(trim.blocked)} not in a manifest part yet"
            )
    for one in facts["expiring"]:
        waits = " -- waits: its records cannot go yet" if one["waits"] else ""
        click.echo(
            f"stream    {one['stream']}: {one['frames']} frames, {size_text(one['nbytes'])},"
            f" {one['reason']}{waits}"
        )
    for left in facts["leftovers"]:
        click.echo(f"leftover  {left['objects']} objects of {left['stream']}, deleted before")
    oldest = f", oldest {time_text(facts['oldest_ns'])}" if facts["oldest_ns"] else ""
    click.echo(
        f"{plan.beamtime}: {facts['records']} records, {facts['streams']} streams with"
        f" {facts['frames']} frames and {size_text(facts['going_nbytes'])} of"
        f" {size_text(facts['nbytes'])} go{oldest}"
    )


def print_applied(done: Applied) -> None:
    """Say what went."""
    for name, problem in done.failed.items():
        click.echo(f"failed    {name}: {problem}", err=True)
    click.echo(
        f"{done.beamtime}: {done.records} records trimmed, {len(done.streams)} streams with"
        f" {done.frames} frames and {done.objects} objects ({size_text(done.nbytes)}) gone,"
        f" {done.archived} archived, {len(done.waiting)} wait, {len(done.failed)} failed"
    )

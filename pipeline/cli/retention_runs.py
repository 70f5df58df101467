"""Runs of ``lichtstrom retention apply``: once, or for ever."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from pipeline.cli.output import print_json, size_text, time_text
from pipeline.cli.signals import Stop, stopping
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.retention.applying import Applied
    from pipeline.retention.plan import Plan
    from pipeline.session import Session

log = logging.getLogger(__name__)


class Runs:
    """Previews and runs, with the options of one command."""

    def __init__(
        self,
        session: Session,
        beamtimes: Sequence[str],
        *,
        seal_after_s: float,
        settle_s: float,
        as_json: bool,
    ) -> None:
        self._services = session.services
        self._named = beamtimes
        self._seal_after_s = seal_after_s
        self._settle_s = settle_s
        self._as_json = as_json

    def preview(self) -> list[str]:
        """Print what would go."""
        from pipeline.retention.plan import make_plan, plan_facts

        plans = [
            make_plan(self._services, name, settle_s=self._settle_s) for name in self._wanted()
        ]
        if self._as_json:
            print_json([plan_facts(plan) for plan in plans])
            return []
        for plan in plans:
            print_plan(plan)
        return []

    def apply(self) -> list[str]:
        """Apply once and print it; return the streams that could not be dealt with."""
        done = [self._apply(name, on_plan=print_plan) for name in self._wanted()]
        if self._as_json:
            print_json([dataclasses.asdict(one) for one in done])
        return [name for one in done for name in one.failed]

    def watch(self, every_s: float) -> None:
        """Apply again and again until stopped; trouble is logged, the next turn tries again."""
        from pipeline.retention import policies

        policies.require_broker(self._services)
        with stopping(lambda: "the next run finishes what this one began") as stop:
            while not stop.event.is_set():
                self._turn(stop)
                stop.event.wait(every_s)
            stop.exit_if_asked()

    def _turn(self, stop: Stop) -> None:
        from pipeline.retention import policies

        try:
            wanted = list(self._named) or policies.beamtimes(self._services)
        except PipelineError as error:
            log.error("retention put off: %s", error)
            return
        for name in wanted:
            if stop.event.is_set():
                return
            try:
                done = self._apply(name)
            except PipelineError as error:
                log.error("retention put off beamtime=%s: %s", name, error)
                continue
            if self._as_json:
                print_json(dataclasses.asdict(done), indent=None)

    def _apply(self, name: str, on_plan: Callable[[Plan], object] | None = None) -> Applied:
        from pipeline.retention.applying import apply

        done = apply(
            self._services,
            name,
            on_plan=None if self._as_json else on_plan,
            seal_after_s=self._seal_after_s,
            settle_s=self._settle_s,
        )
        something = done.records or done.streams or done.objects or done.failed
        if not self._as_json and (something or on_plan is not None):
            print_applied(done)
        return done

    def _wanted(self) -> list[str]:
        """Return the beamtimes to go through; each that is named has to have a policy."""
        from pipeline.retention import policies

        for name in self._named:
            if policies.current(self._services, name) is None:
                raise PipelineError(
                    f"{name} has no retention policy, so nothing goes:"
                    f" `lichtstrom retention set {name} --age 30d` makes one"
                )
        return list(self._named) or policies.beamtimes(self._services)


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

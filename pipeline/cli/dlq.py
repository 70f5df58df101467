"""``lichtstrom dlq list | show | replay | drop``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.cli.names import StreamParam
from pipeline.cli.output import json_option, print_json, print_table, time_text

if TYPE_CHECKING:
    from pipeline.session import Session
    from pipeline.sharing.letters import DeadLetter, LetterBox

F = TypeVar("F", bound=Callable[..., Any])


class NumberRange(click.ParamType[tuple[int, int]]):
    """``7`` or ``7-12``."""

    name = "N[-M]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return first and last number."""
        if isinstance(value, tuple):
            return value
        first, dash, last = str(value).partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            self.fail(f"{value!r} is neither a number nor a range like 7-12", param, ctx)
        return int(first), int(last or first)


_number = click.option(
    "--number",
    "numbers",
    type=NumberRange(),
    multiple=True,
    metavar="N[-M]",
    help="Only this frame, or those from N to M; may be given several times.  [default: all]",
)
_group = click.option("--group", metavar="NAME", help="Only this group.  [default: all]")
_all = click.option("--all", "every", is_flag=True, help="All frames, where no --number is given.")


def _streams(command: F) -> F:
    return click.argument("stream", type=StreamParam(pattern=True), metavar="STREAM")(command)


@click.group()
def command() -> None:
    """List, show, replay and drop the frames that groups have given up (dead letters)."""


@command.command("list")
@click.argument("stream", type=StreamParam(pattern=True), metavar="[STREAM]", default="*/*/*")
@_group
@json_option
def list_(stream: str, group: str | None, as_json: bool) -> None:
    """Count the dead letters of each stream and group.

    STREAM may be a pattern; without it all streams of the broker.
    """
    from pipeline.session import connect

    rows: dict[tuple[str, str], list[int]] = {}
    with connect() as session:
        for _, letters in _found(session, stream, group, ()):
            for letter in letters:
                rows.setdefault((str(letter.stream), letter.group), []).append(letter.time_ns)
    facts = [
        {"stream": name, "group": g, "letters": len(t), "first_ns": min(t), "last_ns": max(t)}
        for (name, g), t in sorted(rows.items())
    ]
    if as_json:
        print_json(facts)
    elif facts:
        print_table(
            ("stream", "group", "letters", "last"),
            [(f["stream"], f["group"], f["letters"], time_text(f["last_ns"])) for f in facts],  # type: ignore[arg-type]  # an int
        )


@command.command()
@_streams
@_group
@_number
@json_option
def show(
    stream: str, group: str | None, numbers: tuple[tuple[int, int], ...], as_json: bool
) -> None:
    """Tell all about dead letters: frame, attempts, who, when, why, and the traceback.

    With --json one object a line: stream group number attempts reason trace member time_ns offset.
    """
    from pipeline.session import connect

    with connect() as session:
        found = [x for _, some in _found(session, stream, group, numbers) for x in some]
    for letter in found:
        if as_json:
            print_json(_facts(letter), indent=None)
            continue
        click.echo(
            f"{letter.stream} frame {letter.number}  group {letter.group}"
            f"  {letter.attempts} attempts  {time_text(letter.time_ns)}  {letter.member}"
        )
        for line in (letter.reason, *letter.trace.splitlines()):
            click.echo(f"    {line}")


@command.command()
@_streams
@click.option("--group", required=True, metavar="NAME", help="Whose letters.")
@_number
@_all
@click.option(
    "--reopen", is_flag=True, help="Reopen the group's derived stream where it has ended."
)
@json_option
def replay(
    stream: str,
    group: str,
    numbers: tuple[tuple[int, int], ...],
    every: bool,
    reopen: bool,
    as_json: bool,
) -> None:
    """Have a group's workers get frames again that it had given up, attempts counted anew.

    A group that has finished gets them when workers of it are started again.
    """
    from pipeline.session import connect

    _need_choice(numbers, every)
    done = []
    with connect() as session:
        for box, letters in _found(session, stream, group, numbers):
            replayed = box.replay(letters, reopen=reopen)
            facts = {
                "group": letters[0].group,
                "numbers": list(replayed.numbers),
                "reopened": [str(name) for name in replayed.reopened],
            }
            done.append(facts)
            if as_json:
                continue
            for name in replayed.reopened:
                click.echo(f"reopened {name}")
            click.echo(
                f"{len(replayed.numbers)} frames go to group {letters[0].group} again, by"
                " workers that run or are started"
            )
    if as_json:
        print_json(done)


@command.command()
@_streams
@_group
@_number
@_all
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def drop(
    stream: str,
    group: str | None,
    numbers: tuple[tuple[int, int], ...],
    every: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Forget dead letters; the frames stay given up.

    The broker deletes their records when all older ones of the detector and group are settled.
    """
    from pipeline.session import connect

    _need_choice(numbers, every)
    with connect() as session:
        chosen = list(_found(session, stream, group, numbers))
        count = sum(len(letters) for _, letters in chosen)
        if count and not yes:
            click.confirm(f"drop {count} dead letters for good?", abort=True, err=True)
        for box, letters in chosen:
            box.drop(letters)
    if as_json:
        print_json({"dropped": count})
    else:
        click.echo(f"dropped {count}")


def _need_choice(numbers: tuple[tuple[int, int], ...], every: bool) -> None:
    if bool(numbers) == every:
        raise click.UsageError("say which frames: either --number or --all")


def _found(
    session: Session, pattern: str, group: str | None, numbers: tuple[tuple[int, int], ...]
) -> Iterator[tuple[LetterBox, list[DeadLetter]]]:
    """Yield the letters that are meant, with the box that they are in."""
    from pipeline.sharing.letters import boxes, matching

    for box in boxes(session.services, pattern, group):
        letters = matching(box.read(), pattern, numbers or None)
        if letters:
            yield box, letters


def _facts(letter: DeadLetter) -> dict[str, Any]:
    facts = dataclasses.asdict(letter)
    del facts["stream_key"]
    return {**facts, "stream": str(letter.stream)}

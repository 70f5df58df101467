"""What an adapter of files keeps of the files and series it has found."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.detectors.watch import ReadyFile
from pipeline.errors import InvalidArgumentError
from pipeline.frame import Buffer


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A file that was read, and what its name says."""

    prefix: str
    number: int
    extension: str
    token: ReadyFile
    payload: Buffer


@dataclass(slots=True)
class FileSeries:
    """One (sub-directory, prefix, extension) that goes on."""

    key: str
    last_s: float
    begun: bool = False
    layout: tuple[tuple[int, ...], str] | None = None
    number: int = -1
    #: Files not whole yet; the series does not end before they are settled.
    waiting: int = 0


@dataclass(slots=True)
class Waiting:
    """A file that could not be read and may still grow."""

    file: ReadyFile
    reason: str
    since_s: float
    #: Windows refuses to open what another program writes; it opens later though unchanged.
    locked: bool = False


def compile_name(pattern: str) -> re.Pattern[str]:
    """Return the expression for file names; it must have groups ``prefix`` and ``number``."""
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise InvalidArgumentError("name_pattern", f"{pattern!r}: {error}") from error
    if not {"prefix", "number"} <= set(compiled.groupindex):
        raise InvalidArgumentError("name_pattern", f"{pattern!r} lacks group prefix or number")
    return compiled

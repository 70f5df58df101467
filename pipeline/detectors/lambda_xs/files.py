"""Lambda detectors as files: NeXus files of a run, one per module and part.

A file is stored as it is, and its images are published as ranges of it.  The files of a run may be
ready in any order; their frames are published when the numbers are certain.
``docs/detectors/lambda-files.md`` tells the rules.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pipeline.detectors.after import let_go
from pipeline.detectors.files import FilesAdapter, FileSeries, FoundFile, Reader, Waiting
from pipeline.detectors.lambda_xs.hdf5 import NxsFile, read_nxs
from pipeline.detectors.lambda_xs.runs import (
    Place,
    Run,
    expected,
    first_number,
    modules_of,
    placed,
)
from pipeline.detectors.options import Option
from pipeline.detectors.reading import map_file, reason_of
from pipeline.detectors.timezones import timezone_of
from pipeline.detectors.watch import ReadyFile, look
from pipeline.errors import InvalidArgumentError, InvalidFrameError
from pipeline.frame import Buffer
from pipeline.protocols import (
    AdapterEvent,
    Quarantined,
    SeriesBegin,
    SeriesEnd,
    SourceFile,
)

#: ``scan_00012_m01_part00003.nxs`` is part 3 of module 1 of run ``scan_00012``.
NXS_PATTERN = r"(?P<run>.+?)(?:_m(?P<module>[0-9]{1,3}))?(?:_part_?(?P<part>[0-9]{1,9}))?"
#: How long after a run's first file those of other modules may appear.
_MODULES_S = 1.0
#: So that a file's place among those of its run is one number.
_MAX_MODULES = 10_000


class NxsFiles(FilesAdapter):
    """Watches the directory where the writers of a Lambda put their ``.nxs`` files.

    Parameters
    ----------
    pattern:
        Regular expression for file names without extension, with a group ``run`` and, where there
        are several, groups ``module`` and ``part``.
    modules:
        How many modules write files; 0: those whose files are there a second after the first one
        is ready.
    timezone:
        Where the writers' clock is: ``local``, ``UTC``, or a name like ``Europe/Berlin``.
    settings:
        As for :class:`pipeline.detectors.files.FilesAdapter`.
    """

    name = "lambda"
    stable_s: ClassVar[float] = 1.0

    def __init__(
        self,
        *,
        watch: str | os.PathLike[str],
        pattern: str = "",
        patterns: str | Sequence[str] = "*.nxs",
        modules: int = 0,
        timezone: str = "local",
        **settings: Any,
    ) -> None:
        self._pattern = _compiled(pattern or NXS_PATTERN)
        self._timezone = timezone_of(timezone)
        if modules < 0:
            raise InvalidArgumentError("modules", "must not be negative")
        self._modules = modules
        self._runs: dict[str, Run] = {}
        #: Files whose writer is taken for dead.
        self._crashed: set[str] = set()
        #: Published files of runs that go on, by series.
        self._safe: dict[str, list[ReadyFile]] = {}
        super().__init__(watch=watch, patterns=patterns, **settings)

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set."""
        left_out = ("name_pattern", "patterns")
        return [
            *(option for option in super().options() if option.name not in left_out),
            Option(name="patterns", default="*.nxs", help="names of the files", unit="GLOBS"),
            Option(
                name="pattern",
                default="",
                help="regular expression for names without extension, groups run, module, part",
                unit="REGEX",
            ),
            Option(
                name="modules",
                type=int,
                default=0,
                help="modules of the detector; 0 for those whose files are there in time",
                unit="N",
            ),
            Option(
                name="timezone",
                default="local",
                help="where the writers' clock is: local, UTC, or a name like Europe/Berlin",
                unit="ZONE",
            ),
        ]

    def readers(self) -> Mapping[str, Reader]:
        """Return none: these files are read in place."""
        return {}

    def split_name(self, stem: str) -> tuple[str, int] | None:
        """Return the run, and a number that sorts its files by part, then module."""
        run, module, part = self._places(stem)
        return run, part * _MAX_MODULES + module

    def acknowledge(self, tokens: Sequence[Any]) -> None:
        """Let go of files; those of a run in parts when it is over, the last part first.

        A part is numbered by those before it, so that none may go before those behind it.
        """
        if self.after == "keep":
            return
        for token in tokens:
            if isinstance(token, str):
                safe = self._safe.pop(token, [])
                for file in sorted(safe, key=lambda file: self._order(file.path), reverse=True):
                    self._let_go(file)
            elif self._is_alone(token):
                self._let_go(token)
            else:
                self._safe.setdefault(self._key(token.path), []).append(token)

    def _is_alone(self, token: ReadyFile) -> bool:
        """Tell whether no other file's numbers depend on this one."""
        place = self._places(Path(token.path).stem)[1:]
        run = self._runs.get(self._key(token.path))
        told = run is not None and place in run.numbered
        return told or self._places(Path(token.path).stem, known=True)[2] < 0

    def _let_go(self, file: ReadyFile) -> None:
        if let_go(file, self.after, root=self.directory, move_to=self._move_to):
            self._watcher.forget(file.path)

    # -- names ----------------------------------------------------------------------------------

    def _places(self, stem: str, *, known: bool = False) -> tuple[str, int, int]:
        """Return run, module and part; 0 (``known``: -1) for what the name does not tell."""
        found = self._pattern.fullmatch(stem)
        groups = found.groupdict() if found else {}
        default = -1 if known else 0
        module, part = (groups.get(name) or "" for name in ("module", "part"))
        return (
            groups.get("run") or stem,
            int(module) if re.fullmatch("[0-9]{1,4}", module) else default,
            int(part) if re.fullmatch("[0-9]{1,9}", part) else default,
        )

    def _key(self, path: str) -> str:
        """Return the key of a file's series, whether that goes on or not."""
        prefix, _, extension = self._split(path)
        directory = self._relative(path).rpartition("/")[0]
        return f"{directory}/{prefix}*{extension}" if directory else f"{prefix}*{extension}"

    def _run_of(self, series: FileSeries, path: str, name: str) -> Run:
        """Return the run of a file; until it begins, look which other files are there."""
        run = self._runs.get(series.key)
        if run is None:
            run = self._runs[series.key] = Run(first_s=self._clock())
        if not run.begun:
            with os.scandir(Path(path).parent) as entries:
                for entry in entries:
                    stem, extension = os.path.splitext(entry.name)  # noqa: PTH122 -- as names
                    other, module, part = self._places(stem)
                    if other == name and extension == Path(path).suffix:
                        run.base[module] = min(run.base.get(module, part), part)
        return run

    # -- files ----------------------------------------------------------------------------------

    def _read(self, path: str) -> tuple[ReadyFile, Buffer]:
        return map_file(path)

    def _frames(self, series: FileSeries, found: FoundFile) -> list[AdapterEvent]:
        token = found.token
        name, module, part = self._places(Path(token.path).stem)
        run = self._run_of(series, token.path, name)
        if module not in run.base:
            raise InvalidFrameError("module", f"{module} came when the run had begun without it")
        file = self._index(token)
        self._check_same(series, file)
        if part == run.base[module]:
            run.firsts[module] = file
        place = (module, part)
        run.counts[place] = file.index.count
        run.held[place] = token
        if file.numbers is not None:
            run.numbered.add(place)
        return self._flush(series, run, {place: file})

    def _index(self, token: ReadyFile) -> NxsFile:
        crashed = token.path in self._crashed
        file = read_nxs(token.path, timezone=self._timezone, crashed_writer=crashed)
        if look(token.path) != token:
            raise InvalidFrameError("file", "the file changed while it was read")
        return file

    @staticmethod
    def _check_same(series: FileSeries, file: NxsFile) -> None:
        layout = (tuple(file.index.shape), file.index.dtype)
        if series.layout not in (None, layout):
            raise InvalidFrameError("shape", f"{layout} in a run of {series.layout}")
        series.layout = layout

    def _flush(
        self,
        series: FileSeries,
        run: Run,
        fresh: Mapping[Place, NxsFile] = MappingProxyType({}),
        *,
        last: bool = False,
    ) -> list[AdapterEvent]:
        """Return what the held files give now that more is known; ``last``: nothing will come."""
        events: list[AdapterEvent] = []
        if not run.begun:
            if not run.held or not (last or self._may_begin(run)):
                return events
            run.begun = series.begun = True
            events.append(self._begin_of(series, run))
        for place in sorted(run.held, key=lambda place: (place[1], place[0])):
            first = first_number(run, place)
            if first is not None:
                token = run.held.pop(place)
                events.append(self._file_event(series, run, token, place, first, fresh.get(place)))
            elif last:
                token = run.held.pop(place)
                reason = f"part {place[1]} without those before it: its numbers are not known"
                events.append(self._bad(series, token.path, reason))
        return events

    def _may_begin(self, run: Run) -> bool:
        """Tell whether all modules are known: a stream's modules are settled when it begins."""
        if len(run.firsts) < max(len(run.base), self._modules):
            return False
        one = self._places(Path(next(iter(run.held.values())).path).stem, known=True)[1] < 0
        waited_s = self._clock() - run.first_s
        return one or self._modules > 0 or waited_s >= _MODULES_S

    def _look_again(self) -> Iterator[AdapterEvent]:
        yield from super()._look_again()
        for key, run in list(self._runs.items()):
            if not run.begun and key in self._series:
                yield from self._flush(self._series[key], run)

    def _file_event(
        self,
        series: FileSeries,
        run: Run,
        token: ReadyFile,
        place: Place,
        first: int,
        file: NxsFile | None,
    ) -> AdapterEvent:
        try:
            file = file or self._index(token)
            again, payload = map_file(token.path)
            if again != token:
                raise InvalidFrameError("file", "the file changed while it waited")
            frames = tuple(placed(file, place[0], first, token.mtime_ns))
        except (ValueError, OSError) as error:
            return self._bad(series, token.path, reason_of(error))
        numbers = [placed.header.number for placed in frames]
        run.made = max(run.made, first + file.index.count)
        if file.numbers is not None:
            run.highest = max([run.highest, *file.numbers])
        series.number = max([series.number, *numbers])
        return SourceFile(
            series=series.key,
            payload=payload,
            frames=frames,
            token=token,
            source=self._relative(token.path),
        )

    def _bad(self, series: FileSeries, path: str, reason: str) -> Quarantined:
        return Quarantined(series=series.key, source=self._relative(path), reason=reason)

    def _quarantine(self, waiting: Waiting) -> Iterator[AdapterEvent]:
        """Read a file whose writer is dead as it is; go on without a module whose file is bad."""
        path = waiting.file.path
        if "already open" in waiting.reason and path not in self._crashed:
            self._crashed.add(path)
            yield from self._take(waiting.file)
            return
        self._crashed.discard(path)
        prefix, _, extension = self._split(path)
        series = self._series_of(path, prefix, extension)
        name, module, part = self._places(Path(path).stem)
        yield from super()._quarantine(waiting)
        run = self._run_of(series, path, name)
        if part == run.base.get(module):
            run.firsts.setdefault(module, None)
        yield from self._flush(series, run)

    # -- runs -----------------------------------------------------------------------------------

    def _begin_of(self, series: FileSeries, run: Run) -> SeriesBegin:
        """Return the begin of a run: the settings of its first module, the places of all."""
        files = {module: file for module, file in sorted(run.firsts.items()) if file is not None}
        for place in sorted(run.held):  # parts whose first one went with an earlier stream
            if place[0] not in files:
                with suppress(ValueError, OSError):
                    files[place[0]] = self._index(run.held[place])
        path = next(iter(run.held.values())).path
        name, _, extension = self._split(path)
        first = next(iter(files.values()), None)
        many = len(run.modules) > 1 or self._places(Path(path).stem, known=True)[1] > 0
        attachments = {
            f"{item}_m{module:02d}" if many else item: array
            for module, file in files.items()
            for item, array in file.attachments.items()
        }
        period_s = first.period_s if first else None
        return SeriesBegin(
            series=series.key,
            name=name.strip("_-. ") or None,
            metadata={"source_interface": "files", **(first.metadata if first else {})},
            run=self._facts(name, extension, path),
            modules=modules_of(run.modules, files) if many else (),
            rate_hz=1 / period_s if period_s else None,
            attachments=attachments,
        )

    def _end(self, series: FileSeries) -> Iterator[AdapterEvent]:
        """End a run; what still waits is published, or named."""
        run = self._runs.pop(series.key, None)
        if run is None:
            yield SeriesEnd(series=series.key)
            return
        yield from self._flush(series, run, last=True)
        totals: dict[int, int] = {}
        for (module, _), count in run.counts.items():
            totals[module] = totals.get(module, 0) + count
        differ = len(set(totals.values())) > 1
        yield SeriesEnd(
            series=series.key,
            expected=expected(run),
            metadata={"module_counts": {str(m): n for m, n in totals.items()}} if differ else {},
            token=series.key,
        )


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise InvalidArgumentError("pattern", f"{pattern!r}: {error}") from error
    if "run" not in compiled.groupindex:
        raise InvalidArgumentError("pattern", f"{pattern!r} lacks the group run")
    return compiled

"""The files of one run of a Lambda: which number each image has, where each module is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.detectors.lambda_xs.hdf5 import NxsFile
from pipeline.detectors.watch import ReadyFile
from pipeline.frame import FrameHeader, Module
from pipeline.protocols import PlacedFrame

#: A file's (module, part).
Place = tuple[int, int]


@dataclass(slots=True)
class Run:
    """The files of one run, by (module, part)."""

    #: When its first file was ready.
    first_s: float
    #: Lowest part of each module; its modules are settled when the run begins.
    base: dict[int, int] = field(default_factory=dict)
    #: First file of each module; None for one that cannot be read.
    firsts: dict[int, NxsFile | None] = field(default_factory=dict)
    counts: dict[Place, int] = field(default_factory=dict)
    held: dict[Place, ReadyFile] = field(default_factory=dict)
    #: Of them, files that tell the numbers of their images.
    numbered: set[Place] = field(default_factory=set)
    begun: bool = False
    #: Positions that the writers made; the highest number they told.
    made: int = 0
    highest: int = -1

    @property
    def modules(self) -> tuple[int, ...]:
        """The modules whose files were found."""
        return tuple(sorted(self.base))


def first_number(run: Run, place: Place) -> int | None:
    """Return the number of a file's first position; None while parts before it are missing."""
    module, part = place
    if place in run.numbered:
        return 0
    if part - run.base[module] > len(run.counts):
        return None
    before = [run.counts.get((module, at)) for at in range(run.base[module], part)]
    known = [count for count in before if count is not None]
    return sum(known) if len(known) == len(before) else None


def expected(run: Run) -> int | None:
    """Return how many frames were made, where that is certain.

    Without numbers these are the positions, also those without an image.  With numbers (from 1) it
    is what was asked for, if the last of them came: a run may have been stopped before.
    """
    if not run.numbered:
        return run.made or None
    first = next((file for file in run.firsts.values() if file is not None), None)
    announced = first.metadata.get("frames_announced") if first else None
    return announced if isinstance(announced, int) and run.highest == announced else None


def placed(file: NxsFile, module: int, first: int, mtime_ns: int) -> Iterator[PlacedFrame]:
    """Yield the images of a file as frames; without numbers its first position is ``first``."""
    index = file.index
    origin = 1 if file.numbers else 0  # sequence_number counts from 1
    for image in index.images:
        number = file.numbers[image.index] if file.numbers else first + image.index
        after_ns = round(max(0, number - origin) * (file.period_s or 0) * 1e9)
        header = FrameHeader(
            number=number,
            timestamp_ns=max(0, mtime_ns)
            if file.started_ns is None
            else file.started_ns + after_ns,
            shape=index.shape,
            dtype=index.dtype,
            encoding=image.encoding,
            module=module,
            attributes={"error_code": file.error_codes[image.index]} if file.error_codes else {},
        )
        yield PlacedFrame(header=header, offset=image.offset, nbytes=image.nbytes)


def modules_of(indices: Sequence[int], files: Mapping[int, NxsFile]) -> tuple[Module, ...]:
    """Return where the modules are; one below the other where a file does not tell."""
    shape = next((file.index.shape for file in files.values()), (1, 1))
    places = [file.position for file in files.values()]
    known = all(place is not None for place in places) and len(files) == len(indices)
    low = (min(p[0] for p in places if p), min(p[1] for p in places if p)) if known else (0, 0)
    modules = []
    for at, index in enumerate(indices):
        place = files[index].position if known else None
        row, column = (place[0] - low[0], place[1] - low[1]) if place else (at * shape[0], 0)
        modules.append(Module(index=index, shape=shape, position=(row, column)))
    return tuple(modules)

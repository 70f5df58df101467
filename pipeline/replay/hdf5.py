"""HDF5 files as a source: the images as they are stored, and what the file says of each.

Our own files (NXmx, NXdata) give back numbers, times, attributes and metadata; DECTRIS' masters
give their settings; of any other file the images alone are played, numbered by their position.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.detectors import h5index, h5values
from pipeline.detectors.eiger.hdf5 import Master, read_master
from pipeline.errors import DecodeError, InvalidFrameError, SourceError
from pipeline.frame import AttributeValue, FrameHeader, Module
from pipeline.nexus.nxmx import ABSENT
from pipeline.protocols import AdapterEvent, SeriesBegin, SeriesEnd, SourceFrame
from pipeline.replay.decoding import decoded_images
from pipeline.replay.pieces import Decoded, Piece, Stack, find_stack, length_of, positions

log = logging.getLogger(__name__)
_DETECTOR = "entry/instrument/detector"
#: A column of a file that holds what had no column of its own, as JSON.
_REST = "other_attributes"
#: Texts of a file's metadata that are JSON begin with one of these.
_JSON = ("{", "[")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What a file says beside its images; the arrays have a value per position, or none."""

    metadata: Mapping[str, AttributeValue] = field(default_factory=dict)
    attachments: Mapping[str, Any] = field(default_factory=dict)
    numbers: npt.NDArray[Any] | None = None
    timestamps_ns: npt.NDArray[Any] | None = None
    valid: npt.NDArray[Any] | None = None
    attributes: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    started_ns: int = 0
    period_s: float = 0.0

    def header(self, position: int, module: int, shape: tuple[int, ...], *form: str) -> FrameHeader:
        """Return the header of the image at a position; ``form``: pixel type and encoding."""
        dtype, encoding = form
        number = position if self.numbers is None else int(self.numbers[position])
        return FrameHeader(
            number=number,
            timestamp_ns=self._time_ns(position),
            shape=shape,
            dtype=dtype,
            encoding=encoding,
            module=module,
            attributes=self._said(position),
        )

    def _time_ns(self, position: int) -> int:
        if self.timestamps_ns is not None:
            return int(self.timestamps_ns[position])
        return self.started_ns + round(position * self.period_s * 1e9)

    def _said(self, position: int) -> dict[str, AttributeValue]:
        said: dict[str, AttributeValue] = {}
        for name, column in self.attributes.items():
            value = column[position]
            value = value.item() if isinstance(value, np.generic) else value
            if value in (ABSENT, "") or value != value:  # noqa: PLR0124 -- not a number
                continue
            if name == _REST:
                said |= _rest(value)
            else:
                said[name] = value
        return said

    def cut_to(self, count: int) -> _Facts:
        """Return the facts without columns that do not have a value for each of the positions."""

        def fit(column: npt.NDArray[Any] | None) -> npt.NDArray[Any] | None:
            return column if column is None or len(column) >= count else None

        attributes = {n: c for n, c in self.attributes.items() if len(c) >= count}
        return replace(
            self,
            numbers=fit(self.numbers),
            timestamps_ns=fit(self.timestamps_ns),
            valid=fit(self.valid),
            attributes=attributes,
        )

    def is_there(self, position: int) -> bool:
        """Tell whether the file has a frame at a position."""
        return self.valid is None or bool(self.valid[position])


def _rest(text: Any) -> dict[str, AttributeValue]:
    try:
        found = json.loads(text)
    except (ValueError, TypeError):
        found = None
    return found if isinstance(found, dict) else {_REST: str(text)}


def hdf5_events(path: Path, dataset: str = "") -> Iterator[AdapterEvent]:
    """Yield the series that a file holds, one image at a time.

    Raises
    ------
    SourceError
        It cannot be read, or has no images; the text says why.
    """
    try:
        stack = find_stack(path, dataset)
        with h5index.opened(path) as file:
            facts = _read(file, path)
        yield from _events(path, stack, facts.cut_to(length_of(stack)))
    except (InvalidFrameError, DecodeError) as error:
        raise SourceError(f"{path}: {error}") from error
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error


def _events(path: Path, stack: Stack, facts: _Facts) -> Iterator[AdapterEvent]:
    series = os.fspath(path)
    yield SeriesBegin(
        series=series,
        name=path.stem.removesuffix("_master"),
        metadata=facts.metadata,
        attachments=facts.attachments,
        modules=_modules(stack),
    )
    frames = _decoded(stack, facts) if isinstance(stack, Decoded) else _direct(stack, facts)
    for header, payload in frames:
        yield SourceFrame(series=series, header=header, payload=payload, source=path.name)
    yield SeriesEnd(series=series)


def _modules(stack: Stack) -> tuple[Module, ...]:
    """Return the channels of an image as modules, one below the other."""
    if isinstance(stack, Decoded) or not stack or stack[0].index.channels == 1:
        return ()
    shape = stack[0].index.shape
    return tuple(
        Module(index=index, shape=shape, position=(index * shape[0], 0))
        for index in range(stack[0].index.channels)
    )


def _direct(stack: Sequence[Piece], facts: _Facts) -> Iterator[tuple[FrameHeader, bytes]]:
    """Yield the images' bytes as they lie in the files."""
    order = sorted(
        ((position, image, piece) for piece in stack for position, image in positions(piece)),
        key=lambda found: (found[0], found[1].channel),
    )
    with ExitStack() as opened:
        files: dict[Path, FileIO] = {}
        for position, image, piece in order:
            if not facts.is_there(position):
                continue
            if piece.path not in files:
                files[piece.path] = opened.enter_context(FileIO(piece.path))
            files[piece.path].seek(image.offset)
            payload = files[piece.path].read(image.nbytes)
            if len(payload) != image.nbytes:
                raise InvalidFrameError("payload", f"{piece.path} became shorter")
            index = piece.index
            yield (
                facts.header(position, image.channel, index.shape, index.dtype, image.encoding),
                payload,
            )


def _decoded(stack: Decoded, facts: _Facts) -> Iterator[tuple[FrameHeader, bytes]]:
    """Yield images that HDF5 has to read: raw."""
    log.warning("images are decoded, and played raw: %s", stack.why)
    dtype = np.dtype(stack.dtype)
    with h5index.opened(stack.path) as file:
        for position, image in enumerate(decoded_images(file[stack.dataset])):
            if facts.is_there(position):
                pixels = np.ascontiguousarray(image, dtype)
                yield facts.header(position, 0, pixels.shape, dtype.name, "raw"), pixels.tobytes()


# -- what the file says ---------------------------------------------------------------------------


def _read(file: Any, path: Path) -> _Facts:
    """Return what a file says; what it lacks is left out."""
    own = _own_metadata(file)
    master = _master(path)
    numbers = _column(file, ("entry/data/frame_number", f"{_DETECTOR}/frame_number"))
    times = _column(file, (f"{_DETECTOR}/timestamp",))
    attachments = {name: array for name, array in master.attachments.items() if array.any()}
    return _Facts(
        metadata=own or master.metadata,
        attachments=attachments,
        numbers=numbers,
        timestamps_ns=times,
        valid=_column(file, (f"{_DETECTOR}/frame_valid",)),
        attributes=_attributes(file),
        started_ns=master.started_ns or 0,
        period_s=master.frame_time_s or 0.0,
    )


def _master(path: Path) -> Master:
    try:
        return read_master(path)
    except InvalidFrameError:  # no /entry: images alone
        return Master(metadata={})


def _column(file: Any, places: Sequence[str]) -> npt.NDArray[Any] | None:
    for place in places:
        found = h5values.array(file, place)
        if found is not None and found.ndim == 1 and found.dtype.kind in "iu":
            return found
    return None


def _own_metadata(file: Any) -> dict[str, AttributeValue]:
    """Return the stream's metadata that a file of ours keeps under its own names."""
    group = h5index.find(file, "entry/metadata")
    if group is None or not hasattr(group, "keys"):
        return {}
    found: dict[str, AttributeValue] = {}
    for name in group:
        value = h5values.value(group, name)
        if value is not None:
            found[_unlinked(name)] = _plain(value)
    return found


def _plain(value: AttributeValue) -> AttributeValue:
    if isinstance(value, str) and value.startswith(_JSON):
        try:
            loaded: AttributeValue = json.loads(value)
        except ValueError:
            return value
        return loaded
    return value


def _unlinked(name: str) -> str:
    """Return what a link's name stood for: the inverse of ``nexus.text.link_name``."""
    if name == "%":
        return ""
    return name.replace("%2E", ".").replace("%00", "\0").replace("%2F", "/").replace("%25", "%")


def _attributes(file: Any) -> dict[str, npt.NDArray[Any]]:
    """Return what a file of ours says about each frame."""
    group = h5index.find(file, f"{_DETECTOR}/attributes")
    if group is None or not hasattr(group, "keys"):
        return {}
    found = {}
    for name in group:
        column = h5index.find(group, name)
        if column is None or getattr(column, "ndim", 0) != 1:
            continue
        if column.dtype.kind in "iuf":
            found[_unlinked(name)] = column[()]
        elif column.dtype.kind == "O" and h5index.encoding_of(column) == "":
            found[_unlinked(name)] = column.asstr()[()]
    return found

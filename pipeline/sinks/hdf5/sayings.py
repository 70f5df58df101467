"""What a file says besides pixels, beside what its stream says: attributes, metadata, geometry.

The file is read in a process of its own, which hands over what it says in pieces; the stream's side
is the tree that the file was made from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.nexus.nxmx import ABSENT
from pipeline.sinks.hdf5.attributes import text_of
from pipeline.sinks.hdf5.findings import Finding
from pipeline.stream import Stream
from pipeline.view.columns import REST
from pipeline.view.nodes import Dataset, H5View

_ATTRIBUTES = "entry/instrument/detector/attributes"
_METADATA = "entry/metadata"
#: In every layout; the rest is where it is in files of NXmx.
_EVERYWHERE = (_METADATA, _ATTRIBUTES)
#: Elsewhere compared, or no word of the stream's: what befell frames is in the account.
_OTHERS = (
    "entry/provenance",
    "entry/slow_control",
    "entry/data",
    "entry/definition",
    "entry/instrument/detector/data",
    "entry/instrument/detector/timestamp",
    "entry/instrument/detector/sequence_number",
    "entry/instrument/detector/frame_valid",
    "entry/instrument/detector/frame_status",
    "entry/instrument/detector/module_valid",
    "entry/instrument/detector/pixel_mask",
    "entry/instrument/detector/detectorSpecific/pixel_mask",
    f"{_ATTRIBUTES}/{REST}",
)
#: They depend on which frames could be written.
_TIMES = ("entry/start_time", "entry/end_time", "entry/end_time_estimated")
#: Of a dataset that the user's own mapping has made.
MAPPED = "mapped_from"
_ROWS = 2**14
_AGAIN = "take it from the stream again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A piece of a dataset: its values from row ``start`` on, all of one without rows.

    ``count``: how many rows it has, -1 for a single value; ``mapped``: a user's mapping made it,
    or gave it its unit.
    """

    path: str
    count: int
    start: int
    values: npt.NDArray[Any]
    units: str
    mapped: bool


@dataclass(frozen=True, slots=True)
class AllSaid:
    """There is no more; ``is_nxmx``: the file has all that the stream's tree has."""

    is_nxmx: bool


def said_of(file: Any, *, all_written: bool) -> Iterator[Said | AllSaid]:
    """Yield what an open file says, but for pixels and what befell frames.

    ``all_written``: no frame of the stream was damaged.
    """
    found: list[Any] = []

    def take(name: str, node: Any) -> None:
        is_ours = not _is_of_others(name) and (all_written or name not in _TIMES)
        if isinstance(node, h5py.Dataset) and is_ours and node.ndim < 2:
            found.append(node)

    file.visititems(take)
    for node in found:
        count = len(node) if node.ndim else -1
        for start in range(0, max(count, 1), _ROWS):
            values = np.asarray(node[start : start + _ROWS] if node.ndim else node[()])
            yield Said(
                path=node.name.strip("/"),
                count=count,
                start=start,
                values=values,
                units=text_of(node.attrs.get("units", "")),
                mapped=MAPPED in node.attrs,
            )
    definition = file.get("entry/definition")
    yield AllSaid(definition is not None and text_of(definition[()]) == "NXmx")


def _is_of_others(path: str) -> bool:
    return any(path == other or path.startswith(f"{other}/") for other in _OTHERS)


class Sayings:
    """The stream's side.

    Parameters
    ----------
    name:
        Of the file, for findings.
    """

    def __init__(self, stream: Stream, name: str) -> None:
        self._view: H5View = stream.h5()
        self._name = name
        self._seen: set[str] = set()
        account = stream.account()
        modules = stream.start.modules
        #: Modules may say different things of one frame, and the view asks the first.
        self._by_module = bool(modules)
        self._is_tiled = not any(module.rotation_deg for module in modules)
        self._all_came = not (account["incomplete"] or account["corrupt"])
        self._has_rest = f"{_ATTRIBUTES}/{REST}" in self._view

    def differences(self, said: Said | AllSaid) -> Iterator[Finding]:
        """Yield where a piece of the file says something else."""
        if isinstance(said, AllSaid):
            yield from self._unsaid(is_nxmx=said.is_nxmx)
            return
        self._seen.add(said.path)
        is_column = said.path.startswith(f"{_ATTRIBUTES}/")
        if said.mapped and not is_column:
            return
        if said.path in _TIMES and not self._all_came:
            return
        wanted = self._view.get(said.path)
        if not isinstance(wanted, Dataset):
            if said.path.startswith(_EVERYWHERE) and not (is_column and self._has_rest):
                yield self._found(said.path, "the stream says nothing of it")
            return
        yield from self._values(said, wanted)
        units = text_of(wanted.attrs.get("units", ""))
        if said.start == 0 and not said.mapped and said.units != units:
            what = f"is in {said.units or 'no unit'}, the stream has {units or 'none'}"
            yield self._found(said.path, what)

    def _values(self, said: Said, wanted: Dataset) -> Iterator[Finding]:
        count = wanted.shape[0] if wanted.ndim else -1
        if count != said.count:
            if said.start == 0:
                what = f"has {_rows(said.count)}, the stream {_rows(count)}"
                yield self._found(said.path, what)
            return
        if count < 0:
            right = np.asarray(wanted[()])
            if not _alike(said.values, right).all():
                what = f"is {_shown(said.values)}, the stream says {_shown(right)}"
                yield self._found(said.path, what)
            return
        right = np.asarray(wanted[said.start : said.start + len(said.values)])
        alike = _alike(said.values, right)
        if self._by_module and said.path.startswith(_ATTRIBUTES):
            alike |= _alike(right, np.array({"i": ABSENT, "f": np.nan}.get(right.dtype.kind, b"")))
        for row in np.flatnonzero(~alike).tolist():
            what = f"is {_shown(said.values[row])}, the stream says {_shown(right[row])}"
            yield self._found(f"{said.path}[{said.start + row}]", what)

    def _unsaid(self, *, is_nxmx: bool) -> Iterator[Finding]:
        """Yield what the stream says and the file does not."""
        paths: list[str] = []

        def take(path: str, node: Any) -> None:
            if isinstance(node, Dataset) and node.ndim < 2 and not _is_of_others(path):
                paths.append(path)

        self._view.visititems(take)
        for path in paths:
            demanded = is_nxmx and self._is_tiled and path not in _TIMES
            if path.startswith(_ATTRIBUTES) and self._has_rest:
                demanded = False
            elif path.startswith(_EVERYWHERE):
                demanded = True
            if demanded and path not in self._seen:
                yield self._found(path, "is not in the file")

    def _found(self, path: str, what: str) -> Finding:
        return Finding(self._name, f"/{path}", what, _AGAIN)


def _rows(count: int) -> str:
    return "a single value" if count < 0 else f"{count} rows"


def _alike(values: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell which values are the same; not a number is."""
    if values.dtype.kind == wanted.dtype.kind == "f":
        return np.asarray((values == wanted) | (np.isnan(values) & np.isnan(wanted)))
    return np.asarray(values == wanted)


def _shown(value: Any) -> str:
    item = value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value
    text = item.decode(errors="replace") if isinstance(item, bytes) else str(item)
    return f"{text!r:.60}" if isinstance(item, bytes) else f"{text:.60}"

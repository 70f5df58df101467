"""Groups and datasets as h5py names them, over a stream instead of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from pipeline.errors import InvalidArgumentError, NodeNotFoundError
from pipeline.nexus.tree import Array, Deferred, Images, Link, Node
from pipeline.nexus.tree import Group as GroupNode
from pipeline.reading.fetch import Fetcher, Origin
from pipeline.reading.frame import sentinel
from pipeline.reading.live import LiveTable
from pipeline.view.columns import Kinds
from pipeline.view.selection import select
from pipeline.view.snapshot import Snapshot

#: Pixels that iterating over frames reads at once, in bytes.
_STEP_NBYTES = 32 * 1024 * 1024


class _Named:
    """What groups and datasets have in common."""

    def __init__(self, view: H5View, path: str) -> None:
        self._view = view
        self._path = path

    @property
    def name(self) -> str:
        """The absolute path under which it was found."""
        return self._path

    @property
    def file(self) -> H5View:
        """The whole tree."""
        return self._view

    @property
    def parent(self) -> Group:
        """The group in which it was found; the root is its own parent."""
        parent = self._view[self._path.rpartition("/")[0] or "/"]
        assert isinstance(parent, Group)  # only groups have anything below
        return parent

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Attributes as h5py returns them: text as bytes, numbers as NumPy's."""
        return MappingProxyType(self._node.attributes)

    @property
    def _node(self) -> Any:
        return self._view._resolve(self._path)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Named):
            return NotImplemented
        return self._view is other._view and self._path == other._path

    def __hash__(self) -> int:
        return hash((id(self._view), self._path))


class Group(_Named, Mapping[str, "Group | Dataset"]):
    """A group: a mapping by name, or by path relative to it or from the root."""

    def __getitem__(self, path: str) -> Group | Dataset:
        """Raise NodeNotFoundError (a KeyError) when there is no such path."""
        found = self._joined(path)
        node = self._view._resolve(found)
        return (
            Group(self._view, found) if isinstance(node, GroupNode) else Dataset(self._view, found)
        )

    def __contains__(self, path: object) -> bool:
        try:
            self._view._resolve(self._joined(path))
        except NodeNotFoundError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._node.nodes))

    def __len__(self) -> int:
        return len(self._node.nodes)

    def visititems(self, function: Callable[[str, Group | Dataset], Any]) -> Any:
        """Call with path and node of everything below, each once, until a result is not None."""
        for path, node in self._walk(""):
            result = function(path, node)
            if result is not None:
                return result
        return None

    def visit(self, function: Callable[[str], Any]) -> Any:
        """As :meth:`visititems`, with the paths alone."""
        return self.visititems(lambda path, _: function(path))

    def _walk(self, below: str) -> Iterator[tuple[str, Group | Dataset]]:
        for name in self:
            if isinstance(self._node.nodes[name], Link):
                continue  # it is visited where it is
            node = self[name]
            yield below + name, node
            if isinstance(node, Group):
                yield from node._walk(f"{below}{name}/")

    def _joined(self, path: object) -> str:
        if not isinstance(path, str):
            raise InvalidArgumentError("path", f"{path!r} is no text: a group is asked by name")
        begin = "" if path.startswith("/") else self._path
        parts = [part for part in f"{begin}/{path}".split("/") if part not in ("", ".")]
        return "/" + "/".join(parts)

    def __repr__(self) -> str:
        return f"<group {self._path!r} of {self._view.stream} ({len(self)} members)>"


class Dataset(_Named):
    """A dataset: numpy-like, reading what the index asks for.

    What it is (shape, type) and holds is as of the view's last ``refresh``; a dataset that was
    got earlier grows with it.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the view's last ``refresh``."""
        return tuple(self._value.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its values; text is an object type, as in h5py."""
        dtype: np.dtype[Any] = self._value.dtype
        return dtype

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many values it has."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def nbytes(self) -> int:
        """Bytes of all its values in memory."""
        return self.size * self.dtype.itemsize

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """One frame for pixels; None for everything else."""
        value = self._value
        return (1, *value.shape[1:]) if isinstance(value, Images) else None

    @property
    def fillvalue(self) -> Any:
        """What pixels hold where no frame is; 0 of other datasets."""
        value = self._value
        if isinstance(value, Images):
            return value.dtype.type(sentinel(value.dtype))
        return b"" if self.dtype == object else self.dtype.type(0)

    def asstr(self) -> _Text:
        """Return it with ``str`` in place of bytes, for text."""
        if self.dtype != object:
            raise InvalidArgumentError("dtype", f"{self.name} holds {self.dtype}, not text")
        return _Text(self)

    def refresh(self) -> None:
        """Refresh the whole view."""
        self._view.refresh()

    def __getitem__(self, index: Any) -> Any:
        """Read; see ``docs/h5view.md`` for what can be an index and what may be raised."""
        return _encoded(self._read(index))

    def __len__(self) -> int:
        if not self.shape:
            raise InvalidArgumentError(
                "dataset", f"{self.name} is a single value, it has no length"
            )
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        nbytes = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=object))
        step = max(1, _STEP_NBYTES // max(1, nbytes))
        for begin in range(0, len(self), step):
            yield from self[begin : begin + step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        found = np.asarray(self[()])
        return found if dtype is None else found.astype(dtype, copy=False)

    def _read(self, index: Any) -> Any:
        value = self._value
        if isinstance(value, Deferred):
            value = value.make()
        if isinstance(value, np.ndarray):
            return value[index]
        chosen = select(index, value.shape)
        if isinstance(value, Images):
            found = value.read(chosen.places, chosen.rest)
        else:
            found = value.at(chosen.places)
        return found[0] if chosen.single else found

    @property
    def _value(self) -> Any:
        return self._node.value

    def __repr__(self) -> str:
        return f"<dataset {self._path!r} of {self._view.stream}: shape {self.shape}, {self.dtype}>"


class _Text:
    """A dataset of text, read as ``str``."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getitem__(self, index: Any) -> Any:
        return self._dataset._read(index)

    def __len__(self) -> int:
        return len(self._dataset)


class H5View(Group):
    """The root of the tree; see :meth:`pipeline.stream.Stream.h5`.

    May be used by several threads.  It does not outlive its stream.
    """

    def __init__(self, live: LiveTable, fetcher: Fetcher, origin: Origin) -> None:
        super().__init__(self, "/")
        self.stream = origin.stream
        self._live = live
        self._fetcher = fetcher
        self._origin = origin
        self._generation = -1
        self._kinds = Kinds()
        self.refresh()

    def refresh(self) -> None:
        """Take in what came since; blocks until all records up to now are read.

        If a frame came with a number below the first one, all positions move up.  Raises
        StreamTimeoutError when the log stalls on the way.
        """
        with self._live.lock:
            info = self._live.refresh()
            if self._generation != self._live.generation:
                self._generation, self._kinds = self._live.generation, Kinds()
            self.snapshot = Snapshot(
                self._live, self._fetcher, self._origin, info=info, kinds=self._kinds
            )

    def _resolve(self, path: str) -> Node:
        node: Node = self.snapshot.tree
        parts = [part for part in path.split("/") if part]
        for depth, part in enumerate(parts):
            if not isinstance(node, GroupNode) or part not in node.nodes:
                raise NodeNotFoundError(path, stream=self.stream, at="/" + "/".join(parts[:depth]))
            node = node.nodes[part]
            if isinstance(node, Link):
                node = self._resolve(node.target)
        return node


def _encoded(found: Any) -> Any:
    """Return text as UTF-8 bytes, as h5py does."""
    if isinstance(found, str):
        return found.encode()
    if isinstance(found, np.ndarray) and found.dtype == object:
        encoded = np.empty(found.size, object)
        encoded[:] = [text.encode() for text in found.flat]
        return encoded.reshape(found.shape)
    return found

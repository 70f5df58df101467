"""Groups, fields and links, described and not yet written: per-frame values are made when asked.

A writer walks the tree and makes what it finds; a view answers from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Array = npt.NDArray[Any]
#: Text in a dataset: variable-length UTF-8, as h5py names that type.
TEXT: np.dtype[Any] = np.dtype(object, metadata={"vlen": str})


@dataclass(frozen=True, slots=True, kw_only=True)
class PerFrame:
    """One value for each position.

    Parameters
    ----------
    at:
        Makes the values of some positions, (n,) int64, each from 0 to ``count`` - 1, in any order
        and any number of times; returns (n,) of ``dtype``, text as ``str``.
    """

    count: int
    dtype: np.dtype[Any]
    at: Callable[[Int64s], Array]

    @property
    def shape(self) -> tuple[int, ...]:
        """As of a dataset."""
        return (self.count,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """The pixels of each position.

    Parameters
    ----------
    shape:
        Positions first, then a frame's own axes.
    read:
        Takes positions, as ``PerFrame.at``, and an index into one frame's axes (a tuple of
        integers, slices and at most one array); returns the frames that were cut so, stacked.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[Int64s, tuple[Any, ...]], Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """An array that costs something to make."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[], Array]


Value = PerFrame | Images | Deferred | Array


@dataclass(frozen=True, slots=True)
class Field:
    """A dataset."""

    value: Value
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Link:
    """Another name of the node at the absolute path ``target``."""

    target: str


@dataclass(frozen=True, slots=True)
class Group:
    """A group; nodes are added in any order and found by name."""

    attributes: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)

    def group(self, name: str, nx_class: str) -> Group:
        """Add a group of a class."""
        made = Group({"NX_class": as_attribute(nx_class)})
        self.nodes[name] = made
        return made

    def field(self, name: str, value: Any, **attributes: Any) -> None:
        """Add a dataset, nothing if ``value`` is None."""
        if value is None:
            return
        if isinstance(value, str):
            value = np.array(value, TEXT)
        elif not isinstance(value, PerFrame | Images | Deferred):
            value = np.asarray(value)
        self.nodes[name] = Field(value, _attributes(attributes))

    def link(self, name: str, target: str) -> None:
        """Add another name of a node."""
        self.nodes[name] = Link(target)

    def set(self, **attributes: Any) -> None:
        """Set attributes of the group."""
        self.attributes.update(_attributes(attributes))


Node = Group | Field | Link


def _attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: as_attribute(value) for name, value in values.items()}


def as_attribute(value: Any) -> Any:
    """Return an attribute as NumPy has it; text as fixed-length ASCII.

    The Durin plugin cannot convert variable-length UTF-8.
    """
    if isinstance(value, str):
        return np.bytes_(value.encode("ascii", "backslashreplace"))
    if isinstance(value, list | tuple) and value and isinstance(value[0], str):
        return np.array([as_attribute(item) for item in value])
    return np.asarray(value)[()]

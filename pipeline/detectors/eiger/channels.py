"""Threshold channels of an Eiger as the modules of a stream."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.detectors.eiger.messages import Pixels, shown
from pipeline.errors import InvalidFrameError
from pipeline.frame import Module


def modules_of(channels: tuple[str, ...], pixels: Sequence[Pixels]) -> list[int]:
    """Return which module each picture of an image is of: by name, else by its place."""
    names = [picture.channel for picture in pixels]
    if len(set(names)) == len(names) and set(names) <= set(channels):
        return [channels.index(name) for name in names]
    if len(names) == max(1, len(channels)):
        return list(range(len(names)))
    raise InvalidFrameError("data", f"channels {shown(names)}, announced are {shown(channels)}")


def modules(channels: tuple[str, ...], shape: tuple[int, int] | None) -> tuple[Module, ...]:
    """Return threshold channels as modules, one below the other; none for a single one."""
    if len(channels) < 2 or shape is None:
        return ()
    return tuple(
        Module(index=index, shape=shape, position=(index * shape[0], 0))
        for index in range(len(channels))
    )

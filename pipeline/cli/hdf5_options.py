"""The options of every command that makes HDF5 files of a stream."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--layout",
        type=click.Choice(["nxmx", "nxdata", "nxtomo", "dectris"]),
        default="nxmx",
        help="nxmx; nxdata: the same without what is NXmx' own; nxtomo; dectris: DIR/..._master.h5"
        " that links to data files.",
    ),
    click.option(
        "--compression",
        type=click.Choice(["bslz4", "as-is", "none"]),
        default="bslz4",
        help="Of the images; as-is keeps the encoding of the first frame where HDF5 knows it.",
    ),
    click.option(
        "--frames-per-file",
        type=click.IntRange(min=0),
        default=0,
        metavar="N",
        help="At most so many numbers in a file, and a master file that shows them as one; 0: all.",
    ),
    click.option(
        "--check",
        type=click.Choice(["framing", "full"]),
        default="framing",
        help="What is looked at of payloads that stay as they are: their framing, or every pixel.",
    ),
    click.option(
        "--overwrite", is_flag=True, help="Replace a file of this name once it is complete."
    ),
)


def file_options(command: F) -> F:
    """Add what the files are to be like; ``command`` gets ``options``, an :class:`Options`."""

    @functools.wraps(command)
    def wrapped(
        *,
        layout: Any,
        compression: Any,
        frames_per_file: int,
        check: Any,
        overwrite: bool,
        **others: Any,
    ) -> Any:
        from pipeline.sinks.hdf5.files import Options

        options = Options(
            layout=layout,
            compression=compression,
            frames_per_file=frames_per_file,
            check=check,
            overwrite=overwrite,
        )
        return command(options=options, **others)

    return cast(F, functools.reduce(lambda found, option: option(found), _OPTIONS[::-1], wrapped))


def mapping_option(command: F) -> F:
    """Add ``--map``."""
    return click.option(
        "--map",
        "mapping",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE.toml",
        help="Fields of your own: where in the file, and from which metadata or attribute.",
    )(command)

"""Where the images of an HDF5 file lie: byte ranges that can be published without decoding.

A dataset of images has the axes (image, row, column), or (image, channel, row, column).  Stored
one image a chunk, or contiguous without filters, every image is a range of the file's bytes in an
encoding that :mod:`pipeline.codecs` knows.  Source: HDF5 File Format Specification 3.0, and the
registry of filters of the HDF Group.

Files are taken for hostile: links that leave the file are not followed, sizes are checked against
the file's length before anything is allocated, and whatever goes wrong is an InvalidFrameError.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import InvalidFrameError
from pipeline.frame import DTYPES, nbytes_of

if TYPE_CHECKING:
    import h5py

#: More images than any detector puts into a file (Eiger: 1000 by default, Lambda some 100 000).
MAX_IMAGES = 2_000_000
#: A larger image does not fit a record's 32 bits of length.
MAX_IMAGE_NBYTES = (1 << 32) - 1
# Registered numbers of filters.
_GZIP, _LZ4, _BITSHUFFLE, _ZSTD, _BLOSC = 1, 32004, 32008, 32015, 32001
#: Deflate, shuffle, Fletcher32: part of HDF5.
_BUILT_IN = frozenset((1, 2, 3))
_BITSHUFFLE_CODECS = {2: "bslz4", 3: "bszstd"}
_PLAIN = {_GZIP: "gzip", _LZ4: "lz4", _ZSTD: "zstd", _BLOSC: "blosc"}
#: What h5py raises on damaged files, by experience with files of which bytes were changed.
_DAMAGE = (
    OSError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    NotImplementedError,
)


class UnfinishedFileError(InvalidFrameError):
    """The file is still being written or copied: look again later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRange:
    """One image: ``nbytes`` bytes from ``offset`` of the file, encoded as ``encoding`` says."""

    index: int
    channel: int
    offset: int
    nbytes: int
    encoding: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageIndex:
    """Where the images of a dataset lie.

    Parameters
    ----------
    shape:
        Rows and columns of each image.
    dtype:
        Numpy name of the pixel type, little-endian.
    count:
        Positions along the first axis.
    channels:
        Images per position (thresholds); 1 for a dataset of three axes.
    images:
        By position, then channel.
    missing:
        (position, channel) of images that were never written: readers see the fill value.
    """

    shape: tuple[int, int]
    dtype: str
    count: int
    channels: int
    images: tuple[ImageRange, ...]
    missing: tuple[tuple[int, int], ...] = ()


@contextmanager
def opened(path: str | os.PathLike[str], *, crashed_writer: bool = False) -> Iterator[h5py.File]:
    """Open a file for reading; every error inside, too, is an InvalidFrameError.

    Parameters
    ----------
    crashed_writer:
        Open also what a writer has marked as being written: it died, nobody will remove the mark.

    Raises
    ------
    UnfinishedFileError
        The file is shorter than it says, or is marked as being written.
    """
    import h5py

    try:
        # no lock: the writer, and network file systems, may refuse one
        with h5py.File(path, "r", locking=False, swmr=crashed_writer) as file:
            yield file
    except InvalidFrameError:
        raise
    except UnicodeError as error:
        raise InvalidFrameError("file", f"HDF5: a name is no text: {error}") from error
    except _DAMAGE as error:
        text = " ".join(str(error).split())[:300]
        unfinished = "truncated file" in text or "already open for w" in text
        kind = UnfinishedFileError if unfinished else InvalidFrameError
        raise kind("file", f"HDF5: {text or type(error).__name__}") from error


def find(file: h5py.File | h5py.Group, path: str) -> Any:
    """Return the group or dataset at a path, None if there is none in this very file.

    External links, and virtual or external datasets, would read other files of this machine.
    """
    import h5py

    found: Any = file
    for part in path.strip("/").split("/"):
        if not isinstance(found, h5py.Group):
            return None
        link = found.get(part, getlink=True)
        if not isinstance(link, h5py.HardLink):
            return None
        found = found.get(part)
    if isinstance(found, h5py.Dataset) and (found.is_virtual or found.external):
        return None
    return found


def image_datasets(group: h5py.Group, *, most: int = 10_000) -> list[h5py.Dataset]:
    """Return the datasets of images that lie in a group itself, by name."""
    import h5py

    names = sorted(name for name, _ in zip(group, range(most), strict=False))
    found = (find(group, name) for name in names if "/" not in name)
    return [item for item in found if isinstance(item, h5py.Dataset) and item.ndim in (3, 4)]


def index_images(dataset: h5py.Dataset) -> ImageIndex:
    """Return where the images of a dataset lie.

    Raises
    ------
    InvalidFrameError
        Says why its images are no ranges of bytes: other axes, chunks that hold several images or
        parts of one, a filter that is not ours, big-endian pixels, ranges outside the file.
    """
    shape, dtype, count, channels = _layout(dataset)
    if dataset.chunks is None:
        images = _contiguous(dataset, nbytes_of(shape, dtype), count, channels)
    else:
        images = _chunked(dataset, shape, dtype, count, channels)
    missing: tuple[tuple[int, int], ...] = ()
    if len(images) < count * channels:
        have = {(image.index, image.channel) for image in images}
        every = ((i, c) for i in range(count) for c in range(channels))
        missing = tuple(place for place in every if place not in have)
    return ImageIndex(
        shape=shape, dtype=dtype, count=count, channels=channels, images=images, missing=missing
    )


def _layout(dataset: h5py.Dataset) -> tuple[tuple[int, int], str, int, int]:
    if dataset.is_virtual or dataset.external:
        raise InvalidFrameError("file", f"{dataset.name}: its pixels lie in other files")
    if dataset.ndim not in (3, 4):
        raise InvalidFrameError("shape", f"{dataset.name}: {dataset.shape} are no images")
    dtype = dataset.dtype
    if dtype.name not in DTYPES or dtype.kind not in "iuf":
        raise InvalidFrameError("dtype", f"{dataset.name}: {dtype} are no pixels")
    if dtype.newbyteorder("<") != dtype:
        raise InvalidFrameError("dtype", f"{dataset.name}: big-endian pixels are not published")
    rows, columns = int(dataset.shape[-2]), int(dataset.shape[-1])
    count, channels = int(dataset.shape[0]), int(dataset.shape[1]) if dataset.ndim == 4 else 1
    if not (0 < rows < 1 << 31 and 0 < columns < 1 << 31 and channels > 0):
        raise InvalidFrameError("shape", f"{dataset.name}: {dataset.shape}")
    if count * channels > MAX_IMAGES or nbytes_of((rows, columns), dtype.name) > MAX_IMAGE_NBYTES:
        raise InvalidFrameError("shape", f"{dataset.name}: {dataset.shape} is absurd")
    return (rows, columns), dtype.name, count, channels


# -- contiguous ---------------------------------------------------------------------------------


def _contiguous(
    dataset: h5py.Dataset, nbytes: int, count: int, channels: int
) -> tuple[ImageRange, ...]:
    start = dataset.id.get_offset()
    if start is None or not count:
        if count and dataset.id.get_create_plist().get_layout() == 0:
            raise InvalidFrameError("file", f"{dataset.name}: compact storage is no range of bytes")
        return ()  # nothing was ever written
    _check_range(dataset, start, count * channels * nbytes)
    return tuple(
        ImageRange(
            index=place // channels,
            channel=place % channels,
            offset=start + place * nbytes,
            nbytes=nbytes,
            encoding="raw",
        )
        for place in range(count * channels)
    )


# -- chunked ------------------------------------------------------------------------------------


def _chunked(
    dataset: h5py.Dataset, shape: tuple[int, int], dtype: str, count: int, channels: int
) -> tuple[ImageRange, ...]:
    ones = (1,) * (dataset.ndim - 2)
    if tuple(dataset.chunks) != (*ones, *shape):
        raise InvalidFrameError(
            "file", f"{dataset.name}: chunks of {dataset.chunks} are not one image each"
        )
    encoding, filters = _encoding(dataset)
    length = _file_nbytes(dataset)
    images: dict[tuple[int, int], ImageRange] = {}

    def take(chunk: Any) -> None:
        place = chunk.chunk_offset
        index, channel = int(place[0]), int(place[1]) if dataset.ndim == 4 else 0
        if not (0 <= index < count and 0 <= channel < channels) or any(place[-2:]):
            raise InvalidFrameError("file", f"{dataset.name}: a chunk at {place}")
        offset, nbytes = int(chunk.byte_offset), int(chunk.size)
        if offset <= 0 or not 0 < nbytes <= length - offset:
            raise UnfinishedFileError(
                "file", f"{dataset.name}: image {index} ends at {offset + nbytes} of {length} bytes"
            )
        # a bit says that this chunk went without that filter (it would have grown)
        is_plain = bool(filters) and chunk.filter_mask & 1
        images[index, channel] = ImageRange(
            index=index,
            channel=channel,
            offset=offset,
            nbytes=nbytes,
            encoding="raw" if is_plain else encoding,
        )
        if images[index, channel].encoding == "raw" and nbytes != nbytes_of(shape, dtype):
            raise InvalidFrameError("file", f"{dataset.name}: image {index} has {nbytes} bytes")

    if dataset.id.get_num_chunks():
        dataset.id.chunk_iter(take)
    return tuple(images[place] for place in sorted(images))


def encoding_of(dataset: h5py.Dataset) -> str | None:
    """Say who undoes the filters of a dataset: "" HDF5 itself, or the encoding that is ours.

    None: neither can.  HDF5's plugins are left out: some crash on damaged bytes.
    """
    plist = dataset.id.get_create_plist()
    numbers = {int(plist.get_filter(place)[0]) for place in range(plist.get_nfilters())}
    if numbers <= _BUILT_IN:
        return ""
    try:
        return _encoding(dataset)[0]
    except InvalidFrameError:
        return None


def _encoding(dataset: h5py.Dataset) -> tuple[str, int]:
    """Return the encoding of the chunks, and how many filters they went through."""
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(place) for place in range(plist.get_nfilters())]
    if not filters:
        return "raw", 0
    numbers = [int(number) for number, *_ in filters]
    if len(filters) == 1:
        number, _, values, _ = filters[0]
        if number in _PLAIN:
            return _PLAIN[number], 1
        if number == _BITSHUFFLE:
            return _bitshuffle(dataset, [int(value) for value in values]), 1
    raise InvalidFrameError("encoding", f"{dataset.name}: the filters {numbers} are not published")


def _bitshuffle(dataset: h5py.Dataset, values: list[int]) -> str:
    """Read the filter's values: version, version, element bytes, block, codec (0 none)."""
    codec = _BITSHUFFLE_CODECS.get(values[4] if len(values) > 4 else 0)
    if codec is None:
        raise InvalidFrameError(
            "encoding", f"{dataset.name}: bitshuffle without LZ4 or Zstandard is not published"
        )
    if values[2] != dataset.dtype.itemsize:
        raise InvalidFrameError(
            "encoding", f"{dataset.name}: bitshuffle of {values[2]} bytes for {dataset.dtype}"
        )
    return codec


def _check_range(dataset: h5py.Dataset, offset: int, nbytes: int) -> None:
    length = _file_nbytes(dataset)
    if offset <= 0 or nbytes > length - offset:
        raise UnfinishedFileError(
            "file", f"{dataset.name}: ends at {offset + nbytes} of {length} bytes"
        )


def _file_nbytes(dataset: h5py.Dataset) -> int:
    return os.stat(dataset.file.filename).st_size  # noqa: PTH116 -- the name may be bytes

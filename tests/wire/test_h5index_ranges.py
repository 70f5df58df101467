"""Where the images of HDF5 files lie: what h5py and its plugins write is read without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from pipeline.codecs import decode
from pipeline.detectors.h5index import UnfinishedFileError, find, index_images, opened
from pipeline.errors import InvalidFrameError

SHAPE = (20, 31)
IMAGES = np.random.default_rng(1).poisson(3, (7, *SHAPE)).astype(np.uint16)
ONE = {"chunks": (1, *SHAPE)}


def write(path: Path, data: Any = IMAGES, *, file: dict[str, Any] | None = None, **options: Any):
    with h5py.File(path, "w", **(file or {})) as made:
        made.create_dataset("entry/data/data", data=data, **options)
    return path


def index(path: Path, *, crashed_writer: bool = False):
    with opened(path, crashed_writer=crashed_writer) as file:
        dataset = find(file, "entry/data/data")
        assert dataset is not None
        return index_images(dataset)


def pixels(path: Path) -> np.ndarray:
    found, content = index(path), path.read_bytes()
    return np.stack(
        [
            decode(
                content[image.offset : image.offset + image.nbytes],
                encoding=image.encoding,
                shape=found.shape,
                dtype=found.dtype,
            )
            for image in found.images
        ]
    )


@pytest.mark.parametrize(
    ("encoding", "options"),
    [
        ("raw", ONE),
        ("raw", {}),
        ("gzip", {**ONE, "compression": "gzip"}),
        ("bslz4", {**ONE, "compression": hdf5plugin.Bitshuffle(cname="lz4")}),
        ("bszstd", {**ONE, "compression": hdf5plugin.Bitshuffle(cname="zstd")}),
        ("lz4", {**ONE, "compression": hdf5plugin.LZ4()}),
        ("zstd", {**ONE, "compression": hdf5plugin.Zstd()}),
        ("blosc", {**ONE, "compression": hdf5plugin.Blosc()}),
        ("gzip", {**ONE, "compression": "gzip", "file": {"libver": "latest"}}),
        ("gzip", {**ONE, "compression": "gzip", "maxshape": (None, *SHAPE)}),
        ("raw", {**ONE, "file": {"userblock_size": 1024}}),
        ("raw", {"file": {"userblock_size": 1024}}),
    ],
)
def test_every_image_is_a_range_of_the_file(tmp_path, encoding, options):
    path = write(tmp_path / "a.h5", **options)
    assert {image.encoding for image in index(path).images} == {encoding}
    assert np.array_equal(pixels(path), IMAGES)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64"])
def test_pixel_types_are_kept(tmp_path, dtype):
    images = IMAGES.astype(dtype)
    path = write(tmp_path / "a.h5", images, **ONE, compression=hdf5plugin.Bitshuffle(cname="lz4"))
    assert index(path).dtype == dtype
    assert np.array_equal(pixels(path), images)


def test_channels_are_images_of_one_position(tmp_path):
    data = IMAGES[:6].reshape(3, 2, *SHAPE)
    path = write(tmp_path / "a.h5", data, chunks=(1, 1, *SHAPE))
    found = index(path)
    assert (found.count, found.channels) == (3, 2)
    assert [(image.index, image.channel) for image in found.images] == [
        (position, channel) for position in range(3) for channel in range(2)
    ]
    assert np.array_equal(pixels(path), IMAGES[:6])


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("not one image each", {"chunks": (2, *SHAPE)}),
        ("not one image each", {"chunks": (1, 10, 31)}),
        (r"filters \[2, 1\]", {**ONE, "compression": "gzip", "shuffle": True}),
        (r"filters \[3\]", {**ONE, "fletcher32": True}),
        ("bitshuffle without", {**ONE, "compression": hdf5plugin.Bitshuffle(cname="none")}),
        (r"filters \[32026\]", {**ONE, "compression": hdf5plugin.Blosc2()}),
    ],
)
def test_what_is_no_range_is_refused_with_its_reason(tmp_path, reason, options):
    with pytest.raises(InvalidFrameError, match=reason):
        index(write(tmp_path / "a.h5", **options))


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        ("big-endian", IMAGES.astype(">u2")),
        ("are no images", IMAGES[0]),
        ("are no pixels", IMAGES.astype("S4")),
        ("are no pixels", IMAGES.astype(bool)),
    ],
)
def test_what_are_no_images_is_refused(tmp_path, reason, data):
    with pytest.raises(InvalidFrameError, match=reason):
        index(write(tmp_path / "a.h5", data))


def test_chunks_that_were_never_written_are_missing(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("entry/data/data", (5, *SHAPE), "u2", **ONE, fillvalue=65535)
        data[1], data[4] = IMAGES[0], IMAGES[1]
    found = index(path)
    assert [image.index for image in found.images] == [1, 4]
    assert found.missing == ((0, 0), (2, 0), (3, 0))


def test_a_contiguous_dataset_without_data_has_no_images(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/data/data", (2, *SHAPE), "u2")
    assert index(path).images == ()
    assert len(index(path).missing) == 2


def test_a_chunk_that_skipped_the_filter_is_raw(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        options = {**ONE, "compression": hdf5plugin.Bitshuffle(cname="lz4")}
        data = file.create_dataset("entry/data/data", (2, *SHAPE), "u2", **options)
        data[0] = IMAGES[0]
        data.id.write_direct_chunk((1, 0, 0), IMAGES[1].tobytes(), filter_mask=1)
    assert [image.encoding for image in index(path).images] == ["bslz4", "raw"]
    assert np.array_equal(pixels(path), IMAGES[:2])


def test_a_chunk_written_directly_is_found(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        options = {**ONE, "compression": hdf5plugin.Bitshuffle(cname="lz4")}
        data = file.create_dataset("entry/data/data", (1, *SHAPE), "u2", **options)
        data.id.write_direct_chunk((0, 0, 0), b"whatever the detector sent")
    content = path.read_bytes()
    (image,) = index(path).images
    assert content[image.offset : image.offset + image.nbytes] == b"whatever the detector sent"


def test_a_truncated_file_is_unfinished_at_every_length(tmp_path):
    path = write(tmp_path / "a.h5", **ONE)
    content = path.read_bytes()
    for length in range(100, len(content), 997):
        path.write_bytes(content[:length])
        with pytest.raises(UnfinishedFileError):
            index(path)


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n", b"\0" * 4096])
def test_other_bytes_are_refused(tmp_path, content):
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(InvalidFrameError):
        index(tmp_path / "a.h5")


def test_a_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(InvalidFrameError, match="No such file"):
        index(tmp_path / "a.h5")


def test_a_file_that_is_being_written_is_unfinished_until_its_writer_is_given_up(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        data = file.create_dataset(
            "entry/data/data", (0, *SHAPE), "u2", **ONE, maxshape=(None, *SHAPE)
        )
        file.swmr_mode = True
        data.resize(2, axis=0)
        data[:] = IMAGES[:2]
        data.flush()
        copy = tmp_path / "b.h5"
        copy.write_bytes(path.read_bytes())
    with pytest.raises(UnfinishedFileError, match="already open"):
        index(copy)
    assert len(index(copy, crashed_writer=True).images) == 2


def test_links_out_of_the_file_are_not_followed(tmp_path):
    write(tmp_path / "other.h5", **ONE)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["external"] = h5py.ExternalLink("other.h5", "/entry/data/data")
        file["soft"] = h5py.SoftLink("/external")
        layout = h5py.VirtualLayout(IMAGES.shape, "u2")
        layout[:] = h5py.VirtualSource("other.h5", "entry/data/data", IMAGES.shape)
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("stored", IMAGES.shape, "u2", external=[("other.h5", 0, 10**6)])
    with opened(path) as file:
        for name in ("external", "soft", "virtual", "stored", "none", "virtual/below"):
            assert find(file, name) is None
        with pytest.raises(InvalidFrameError, match="other files"):
            index_images(file["virtual"])


def test_absurd_shapes_cost_nothing(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("many", (2**40, *SHAPE), "u2", **ONE)
        file.create_dataset("large", (1, 2**20, 2**20), "u2", chunks=(1, 2**10, 2**10))
        file.create_dataset("none", (1, 0, 5), "u2")
        file.create_dataset("empty", (0, *SHAPE), "u2", **ONE, maxshape=(None, *SHAPE))
    with opened(path) as file:
        for name in ("many", "large", "none"):
            with pytest.raises(InvalidFrameError):
                index_images(file[name])
        assert index_images(file["empty"]).images == ()


@pytest.mark.parametrize("kind", ["earliest", "latest"])
def test_damaged_files_raise_errors_of_ours_and_ranges_stay_inside(tmp_path, kind):
    path = write(tmp_path / "a.h5", **ONE, compression="gzip", file={"libver": kind})
    content = path.read_bytes()
    random = np.random.default_rng(4)
    for _ in range(400):
        damaged = bytearray(content)
        for place in random.integers(0, len(content), int(random.integers(1, 20))):
            damaged[place] = int(random.integers(0, 256))
        path.write_bytes(damaged)
        try:
            with opened(path) as file:
                dataset = find(file, "entry/data/data")
                if isinstance(dataset, h5py.Dataset):
                    for image in index_images(dataset).images:
                        assert 0 < image.offset <= image.offset + image.nbytes <= len(content)
        except InvalidFrameError:
            pass

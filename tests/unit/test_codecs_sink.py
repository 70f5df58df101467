"""The HDF5 sink stores every encoding: as it came where HDF5 knows it, else decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 -- registers the filters that the files use
import numpy as np
import pytest
from codec_payloads import SHAPE, jpeg_image, samples

from pipeline.codecs import decode
from pipeline.records import Claim, End, ModuleState, Start, StreamInfo
from pipeline.sinks.hdf5 import Hdf5Sink

SAMPLES = samples()


@dataclass
class Frame:
    number: int
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    payload: memoryview
    timestamp_ns: int = 10**18
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def array(self) -> Any:
        return decode(self.payload, encoding=self.encoding, shape=self.shape, dtype=self.dtype)


def written(directory: Path, frame: Frame, compression: Any) -> Path:
    claim = Claim(stream_key=b"12345678", module=0, epoch=1, nonce="n", holder="h:1")
    end = End(stream_key=b"12345678", module=0, epoch=1, nonce="n", state="complete", offsets=(9,))
    start = Start(
        stream_key=b"12345678",
        beamtime="c1",
        detector="d",
        stream="s",
        created_ns=10**18,
        partitions=1,
        frames_per_chunk=16,
        offsets=(0,),
    )
    with Hdf5Sink(directory, compression=compression) as sink:
        sink.open(StreamInfo(start=start, modules={0: ModuleState(claim=claim, end=end)}))
        sink.write(frame)
        return Path(sink.finish({}))


@pytest.mark.parametrize("compression", ["bslz4", "as-is", "none"])
@pytest.mark.parametrize("encoding", sorted(SAMPLES))
def test_a_frame_in_any_encoding_is_in_the_file_pixel_for_pixel(
    encoding: str, compression: str, tmp_path: Path
) -> None:
    dtype, payload = SAMPLES[encoding]
    frame = Frame(3, SHAPE, dtype, encoding, memoryview(payload))
    with h5py.File(written(tmp_path, frame, compression)) as file:
        assert file["entry/instrument/detector/frame_valid"][:].all()
        np.testing.assert_array_equal(file["entry/data/data"][0], frame.array)


def test_a_coloured_image_keeps_its_colours(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 255, (24, 32, 3), dtype="uint8")
    frame = Frame(0, image.shape, "uint8", "jpeg", memoryview(jpeg_image(image)))
    with h5py.File(written(tmp_path, frame, "as-is")) as file:
        assert file["entry/data/data"].shape == (1, 24, 32, 3)
        np.testing.assert_array_equal(file["entry/data/data"][0], frame.array)


def test_an_encoding_that_nobody_knows_is_counted_and_not_written(tmp_path: Path) -> None:
    frame = Frame(0, SHAPE, "int32", "wavelet", memoryview(b"1234"))
    with h5py.File(written(tmp_path, frame, "as-is")) as file:
        assert not file["entry/instrument/detector/frame_valid"][:].any()
        assert (file["entry/data/data"][0] == -1).all()

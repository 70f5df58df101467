"""bslz4 chunks made without HDF5 are those that its filter makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_hdf5_sink import frame, make_info, pixels

from pipeline import codecs
from pipeline.codecs import bitshuffle
from pipeline.sinks.hdf5 import Hdf5Sink

DTYPES = ("u1", "i1", "u2", "i4", "u4", "f4", "f8", "u8")


def by_hdf5(data: Any) -> bytes:
    with h5py.File("memory.h5", "w", driver="core", backing_store=False) as file:
        made = file.create_dataset(
            "chunk", data=data, chunks=data.shape, **hdf5plugin.Bitshuffle(cname="lz4")
        )
        return bytes(made.id.read_direct_chunk((0,) * data.ndim)[1])


@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(1, 90), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
    st.floats(0, 300),
)
def test_a_chunk_is_what_the_filter_makes(
    dtype: str, shape: list[int], seed: int, mean: float
) -> None:
    data = np.random.default_rng(seed).poisson(mean, shape).astype(dtype)
    chunk = bitshuffle.compress(data)
    assert chunk is not None
    assert chunk == by_hdf5(data)
    back = codecs.decode(chunk, encoding="bslz4", shape=tuple(shape), dtype=data.dtype.name)
    np.testing.assert_array_equal(back, data)


def test_strided_pixels_are_compressed_as_they_look() -> None:
    data = np.arange(4000, dtype=np.uint16).reshape(50, 80)[::2, ::-1]
    assert bitshuffle.compress(data) == by_hdf5(np.ascontiguousarray(data))


def test_without_the_compressor_the_filter_writes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = []
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setattr(bitshuffle, "_library", lambda: None)
        with Hdf5Sink(tmp_path / name) as sink:
            sink.open(make_info())
            sink.write(frame(0))
            path = sink.finish({})
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["entry/data/data"][0], pixels(0))
            chunks.append(bytes(file["entry/data/data"].id.read_direct_chunk((0, 0, 0))[1]))
    assert chunks[0] == chunks[1]

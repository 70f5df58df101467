"""CRC-32C over every kind of buffer."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.codecs.checksum import crc32c
from pipeline.errors import InvalidFrameError

CHECK = b"123456789"  # the usual check value of CRC catalogues


@pytest.mark.parametrize(
    "buffer",
    [
        pytest.param(CHECK, id="bytes"),
        pytest.param(bytearray(CHECK), id="bytearray"),
        pytest.param(memoryview(CHECK), id="memoryview"),
        pytest.param(memoryview(bytearray(b"x" + CHECK))[1:], id="slice of a writable view"),
        pytest.param(np.frombuffer(CHECK, np.uint8), id="read-only array"),
        pytest.param(np.frombuffer(CHECK, np.uint8).copy().reshape(3, 3), id="array, 2-D"),
    ],
)
def test_every_buffer_of_the_same_bytes_has_the_same_sum(buffer: bytes) -> None:
    assert crc32c(buffer) == 0xE3069283


@pytest.mark.parametrize("dtype", [">i4", "<f8", "complex128", "float16", "bool"])
def test_arrays_of_any_type_are_taken_by_their_bytes(dtype: str) -> None:
    array = np.arange(6).astype(dtype).reshape(2, 3)
    assert crc32c(array) == crc32c(array.tobytes())


@pytest.mark.parametrize("buffer", [b"", bytearray(), memoryview(b""), np.empty((0, 3))])
def test_the_sum_of_nothing_is_zero(buffer: bytes) -> None:
    assert crc32c(buffer) == 0


@pytest.mark.parametrize(
    "buffer",
    [
        np.zeros((4, 4))[:, ::2],
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        memoryview(CHECK)[::2],
    ],
)
def test_a_strided_buffer_is_refused(buffer: memoryview) -> None:
    with pytest.raises(InvalidFrameError, match="contiguous") as caught:
        crc32c(buffer)
    assert caught.value.field == "payload"

"""The HDF5 sink: what is in the file, and what happens when it cannot be written."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from pipeline.codecs import decode
from pipeline.errors import (
    BlobNotFoundError,
    ClosedError,
    IncompleteFrameError,
    InvalidArgumentError,
    SinkError,
    StoreUnavailableError,
)
from pipeline.records import Claim, End, ModuleState, Start, StreamInfo
from pipeline.sinks.hdf5 import Hdf5Sink

SHAPE = (13, 11)
START_NS = 1_700_000_000 * 10**9
FULL_METADATA: dict[str, Any] = {
    "wavelength_A": 0.9793,
    "distance_m": 0.2,
    "beam_center_x": 5.5,
    "beam_center_y": 6.25,
    "x_pixel_size_m": 172e-6,
    "y_pixel_size_m": 172e-6,
    "sensor_material": "Silicon",
    "sensor_thickness_m": 0.00032,
    "exposure_s": 0.004,
    "frame_time_s": 0.005,
    "start_angle_deg": 10.0,
    "angle_increment_deg": 0.1,
    "threshold_eV": 6000.0,
    "saturation_value": 1048500,
    "detector_description": "PILATUS 300K",
    "detector_serial": "300-0001",
    "sample": "lysozyme",
    "title": "a test",
}


@dataclass
class FakeFrame:
    number: int
    timestamp_ns: int
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    payload: memoryview
    attributes: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def array(self) -> Any:
        if self.error is not None:
            raise self.error
        return decode(self.payload, encoding=self.encoding, shape=self.shape, dtype=self.dtype)


def pixels(number: int, shape: tuple[int, ...] = SHAPE, dtype: str = "int32") -> Any:
    return np.random.default_rng(number).integers(0, 100, shape).astype(dtype)


def frame(number: int, image: Any = None, **attributes: Any) -> FakeFrame:
    image = pixels(number) if image is None else image
    return FakeFrame(
        number=number,
        timestamp_ns=START_NS + number * 5_000_000,
        shape=image.shape,
        dtype=image.dtype.name,
        encoding="raw",
        payload=memoryview(image.tobytes()),
        attributes=attributes,
    )


def value_frame(number: int, **attributes: Any) -> FakeFrame:
    return FakeFrame(number, START_NS + number, (), "uint8", "none", memoryview(b""), attributes)


def make_info(stream: str = "scan_7", *, state: str = "complete", **start: Any) -> StreamInfo:
    given: dict[str, Any] = {"metadata": FULL_METADATA, **start}
    claim = Claim(stream_key=b"12345678", module=0, epoch=1, nonce="n", holder="h:1")
    end = End(stream_key=b"12345678", module=0, epoch=1, nonce="n", state=state, offsets=(9,))
    return StreamInfo(
        start=Start(
            stream_key=b"12345678",
            beamtime="c1",
            detector="pilatus",
            stream=stream,
            created_ns=START_NS,
            partitions=1,
            frames_per_chunk=16,
            offsets=(0,),
            **given,
        ),
        modules={0: ModuleState(claim=claim, end=None if state == "open" else end)},
    )


def write(directory: Path, frames: Any, account: Any = None, **options: Any) -> Path:
    info = options.pop("info", None) or make_info()
    with Hdf5Sink(directory, **options) as sink:
        sink.open(info)
        for each in frames:
            sink.write(each)
        return Path(sink.finish(account or {}))


def chunk_count(dataset: Any) -> int:
    count: int = dataset.id.get_num_chunks()
    return count


def test_ordered_frames_lie_at_their_positions(tmp_path: Path) -> None:
    path = write(tmp_path, [frame(n) for n in range(100, 170)])
    assert path == tmp_path / "pilatus_scan_7.h5"
    with h5py.File(path) as file:
        data = file["entry/data/data"]
        assert data.shape == (70, *SHAPE)
        assert data.dtype == np.int32
        assert data.chunks == (1, *SHAPE)
        for position in range(70):
            np.testing.assert_array_equal(data[position], pixels(100 + position))
        assert file["entry/data/frame_number"][:].tolist() == list(range(100, 170))
        detector = file["entry/instrument/detector"]
        assert detector["timestamp"][3] == START_NS + 103 * 5_000_000
        assert detector["timestamp"].dtype == np.uint64
        assert detector["frame_valid"][:].all()
        assert not detector["frame_status"][:].any()
    assert list(tmp_path.iterdir()) == [path]


def test_fabio_and_silx_read_the_file_pixel_for_pixel(tmp_path: Path) -> None:
    import fabio
    import silx.io
    from silx.io import nxdata

    path = write(tmp_path, [frame(n) for n in range(5)])
    with fabio.open(str(path)) as image:
        assert type(image).__name__ == "EigerImage"
        assert image.nframes == 5
        for number in range(5):
            np.testing.assert_array_equal(image.get_frame(number).data, pixels(number))
    with silx.io.open(str(path)) as file:
        plot = nxdata.get_default(file)
        assert plot is not None
        assert plot.is_valid
        assert plot.signal.shape == (5, *SHAPE)
        np.testing.assert_array_equal(plot.signal[4], pixels(4))


def test_missing_frames_hold_the_sentinel_in_real_chunks(tmp_path: Path) -> None:
    numbers = [n for n in range(3, 20) if n not in (5, 6, 19)]
    account = {"missing": [[5, 6], [19, 21]], "late": [[7, 7]], "corrupt": [[5, 5]]}
    path = write(tmp_path, [frame(n) for n in numbers], account)
    with h5py.File(path) as file:
        data, detector = file["entry/data/data"], file["entry/instrument/detector"]
        assert data.shape[0] == 19
        assert chunk_count(data) == 19
        for number in (5, 6, 19, 20, 21):
            assert (data[number - 3] == -1).all()
            assert detector["timestamp"][number - 3] == 0
            assert detector["sequence_number"][number - 3] == 2**32 - 1
        valid = detector["frame_valid"][:].tolist()
        assert valid == [int(n in numbers) for n in range(3, 22)]
        assert detector["frame_status"][2] == 2
        assert detector["frame_status"][4] == 1
        np.testing.assert_array_equal(data[4], pixels(7))


@pytest.mark.parametrize(
    ("dtype", "blank"),
    [("uint16", 65535), ("uint8", 255), ("int16", -1), ("float32", np.nan), ("bool", False)],
)
def test_the_sentinel_follows_the_pixel_type(tmp_path: Path, dtype: str, blank: Any) -> None:
    frames = [frame(n, pixels(n, dtype=dtype)) for n in (0, 2)]
    with h5py.File(write(tmp_path, frames)) as file:
        data = file["entry/data/data"]
        np.testing.assert_array_equal(data[1], np.full(SHAPE, blank, dtype))
        np.testing.assert_array_equal(data[2], pixels(2, dtype=dtype))
        assert data.dtype == np.dtype(dtype)


@pytest.mark.parametrize("order", ["descending", "shuffled", "lowest last", "partitions"])
def test_frames_in_any_order_give_the_same_file(tmp_path: Path, order: str) -> None:
    numbers = [n for n in range(40, 200) if n % 13]
    expected = list(numbers)
    if order == "descending":
        numbers.reverse()
    elif order == "shuffled":
        random.Random(7).shuffle(numbers)
    elif order == "lowest last":
        numbers = [*numbers[1:], numbers[0]]
    else:
        numbers.sort(key=lambda n: (n // 16 % 3, n))
    frames = [frame(n, angle=n / 10, label=f"frame {n}", count=n) for n in numbers]
    with h5py.File(write(tmp_path, frames)) as file:
        data, detector = file["entry/data/data"], file["entry/instrument/detector"]
        first = expected[0]
        assert file["entry/data/frame_number"][0] == first
        assert data.shape[0] == expected[-1] - first + 1
        assert chunk_count(data) == data.shape[0]
        for number in expected:
            at = number - first
            np.testing.assert_array_equal(data[at], pixels(number))
            assert detector["timestamp"][at] == START_NS + number * 5_000_000
            assert detector["attributes/angle"][at] == number / 10
            assert detector["attributes/count"][at] == number
            assert detector["attributes/label"].asstr()[at] == f"frame {number}"
        gap = 52 - first
        assert not detector["frame_valid"][gap]
        assert np.isnan(detector["attributes/angle"][gap])
        assert detector["attributes/count"][gap] == -(2**63)
        assert detector["attributes/label"].asstr()[gap] == ""
    assert len(list(tmp_path.iterdir())) == 1


def test_more_frames_than_announced_fit(tmp_path: Path) -> None:
    path = write(tmp_path, [frame(n, a=n) for n in range(20)], info=make_info(expected=3))
    with h5py.File(path) as file:
        data = file["entry/data/data"]
        assert data.shape[0] == 20
        assert data.maxshape[0] is not None
        np.testing.assert_array_equal(data[19], pixels(19))
        assert file["entry/instrument/detector/attributes/a"][:].tolist() == list(range(20))


def test_numbers_that_are_clocks_are_refused_by_name(tmp_path: Path) -> None:
    with Hdf5Sink(tmp_path) as sink:
        sink.open(make_info())
        sink.write(frame(0))
        with pytest.raises(SinkError, match="are they counters"):
            sink.write(frame(1_700_000_000_000))
        sink.abort()
    assert list(tmp_path.iterdir()) == []


def test_attributes_of_changing_kind_widen_their_column(tmp_path: Path) -> None:
    frames = [
        frame(0, a=1, b=1, c="x", d=True, e=None, f=[1, 2]),
        frame(1, a=2.5, b="text", c=3, g=2**70, h=np.float32(0.5)),
        frame(2, a=3, b=1.5, c=None, d=False),
    ]
    with h5py.File(write(tmp_path, frames)) as file:
        columns = file["entry/instrument/detector/attributes"]
        assert columns["a"][:].tolist() == [1.0, 2.5, 3.0]
        assert columns["b"].asstr()[:].tolist() == ["1", "text", "1.5"]
        assert columns["c"].asstr()[:].tolist() == ["x", "3", ""]
        assert columns["d"][:].tolist() == [1, -(2**63), 0]
        assert "e" not in columns
        assert columns["f"].asstr()[0] == "[1, 2]"
        assert columns["g"].asstr()[1] == str(2**70)
        assert columns["h"][1] == 0.5


def test_attribute_names_with_any_characters_are_kept_apart(tmp_path: Path) -> None:
    names = ["a/b", "a%2Fb", ".", "..", "größe", "nul\0", "motor x", "data"]
    attributes = {name: index for index, name in enumerate(names)}
    each = frame(0)
    each.attributes = {**attributes, "text": "nul \0 and \udc80 and ü"}
    with h5py.File(write(tmp_path, [each])) as file:
        columns = file["entry/instrument/detector/attributes"]
        found = {name: columns[name][0] for name in columns if name != "text"}
        assert sorted(found.values()) == list(range(len(names)))
        assert found["a%2Fb"] == 0
        assert columns["text"].asstr()[0] == "nul \\0 and \\udc80 and ü"


def test_thousands_of_names_go_into_one_column(tmp_path: Path) -> None:
    each = frame(0)
    each.attributes = {f"n{i}": i for i in range(600)}
    with h5py.File(write(tmp_path, [each])) as file:
        columns = file["entry/instrument/detector/attributes"]
        rest = json.loads(columns["other_attributes"].asstr()[0])
        assert len(columns) == 513
        assert rest["n599"] == 599


def test_frames_without_pixels_give_a_file_of_columns(tmp_path: Path) -> None:
    path = write(tmp_path, [value_frame(n, spots=n * 2, peak=n / 2) for n in (4, 5, 7)])
    with h5py.File(path) as file:
        assert "data" not in file["entry/data"]
        assert file["entry/data/frame_number"][:].tolist() == [4, 5, 6, 7]
        columns = file["entry/instrument/detector/attributes"]
        assert columns["spots"][:].tolist() == [8, 10, -(2**63), 14]
        assert file["entry/instrument/detector/frame_valid"][:].tolist() == [1, 1, 0, 1]
        assert file["entry/data/timestamp"][0] == START_NS + 4


def test_a_stream_without_frames_still_gives_its_account(tmp_path: Path) -> None:
    path = write(tmp_path, [], {"received": 0, "missing": [[3, 5]], "complete": False})
    with h5py.File(path) as file:
        assert file["entry/instrument/detector/frame_valid"][:].tolist() == [0, 0, 0]
        assert file["entry/provenance/missing"][:].tolist() == [[3, 5]]


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
def test_frames_of_other_dimensions_are_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write(tmp_path, [frame(n, pixels(n, shape)) for n in range(3)])
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["entry/data/data"][2], pixels(2, shape))


def damaged(number: int) -> FakeFrame:
    each = frame(number)
    each.payload = each.payload[:-1]
    return each


def bad_chunk(number: int) -> FakeFrame:
    each = frame(number)
    each.encoding, each.payload = "bslz4", memoryview(b"\0" * 40)
    return each


def failing(number: int, error: Exception) -> FakeFrame:
    each = frame(number)
    each.error = error
    return each


@pytest.mark.parametrize(
    ("broken", "bit"),
    [
        (damaged(2), 2),
        (bad_chunk(2), 2),
        (frame(2, pixels(2, (4, 4))), 2),
        (frame(2, pixels(2, dtype="uint16")), 2),
        (value_frame(2), 2),
        (failing(2, BlobNotFoundError("k", store="s")), 4),
        (failing(2, IncompleteFrameError("s", 2, [1])), 8),
    ],
    ids=["cut short", "bad chunk", "shape", "dtype", "no pixels", "no blob", "incomplete"],
)
def test_a_frame_without_usable_pixels_is_missing_and_does_not_stop_the_file(
    tmp_path: Path, broken: FakeFrame, bit: int
) -> None:
    with Hdf5Sink(tmp_path) as sink:
        sink.open(make_info())
        for each in (frame(0), frame(1), broken, frame(3)):
            sink.write(each)
        path = sink.finish({})
    assert list(sink.counts.invalid) == [2]
    assert sink.counts.written == 3
    with h5py.File(path) as file:
        detector = file["entry/instrument/detector"]
        assert detector["frame_valid"][:].tolist() == [1, 1, 0, 1]
        assert detector["frame_status"][:].tolist() == [0, 0, bit, 0]
        assert (file["entry/data/data"][2] == -1).all()
        np.testing.assert_array_equal(file["entry/data/data"][3], pixels(3))
        assert file["entry/provenance/frames_invalid"][:].tolist() == [2]


def test_a_frame_can_be_given_again_when_the_store_was_away(tmp_path: Path) -> None:
    with Hdf5Sink(tmp_path) as sink:
        sink.open(make_info())
        with pytest.raises(StoreUnavailableError):
            sink.write(failing(0, StoreUnavailableError("s", "away")))
        sink.write(frame(0))
        sink.write(damaged(1))
        sink.write(frame(1))
        path = sink.finish({})
    assert sink.counts.invalid == {}
    with h5py.File(path) as file:
        assert file["entry/instrument/detector/frame_valid"][:].tolist() == [1, 1]
        assert file["entry/instrument/detector/frame_status"][:].tolist() == [0, 0]


def test_a_number_given_twice_is_written_once_and_marked(tmp_path: Path) -> None:
    frames = [frame(0), frame(1), frame(0, np.zeros(SHAPE, np.int32))]
    with h5py.File(write(tmp_path, frames)) as file:
        np.testing.assert_array_equal(file["entry/data/data"][0], pixels(0))
        assert file["entry/instrument/detector/frame_status"][:].tolist() == [1, 0]


def bslz4_payload(image: Any, directory: Path) -> memoryview:
    path = directory / "chunk.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "d", data=image[None], chunks=(1, *image.shape), **hdf5plugin.Bitshuffle()
        )
        file.flush()
        return memoryview(data.id.read_direct_chunk((0, 0, 0))[1])


@pytest.mark.parametrize("compression", ["bslz4", "as-is", "none"])
def test_chunks_arrive_as_they_came_where_the_file_has_their_encoding(
    tmp_path: Path, compression: Any
) -> None:
    first, second = frame(0), frame(1)
    first.encoding, first.payload = "bslz4", bslz4_payload(pixels(0), tmp_path)
    path = write(tmp_path / "out", [first, second], compression=compression)
    with h5py.File(path) as file:
        data = file["entry/data/data"]
        filters = data.id.get_create_plist().get_nfilters()
        assert filters == (0 if compression == "none" else 1)
        if compression != "none":
            assert data.id.read_direct_chunk((0, 0, 0))[1] == bytes(first.payload)
            assert data.id.get_create_plist().get_filter(0)[0] == 32008
        np.testing.assert_array_equal(data[0], pixels(0))
        np.testing.assert_array_equal(data[1], pixels(1))


def test_as_is_keeps_raw_pixels_raw(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path, [frame(0)], compression="as-is")) as file:
        assert file["entry/data/data"].id.get_create_plist().get_nfilters() == 0


def test_an_unknown_compression_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match="lzw"):
        Hdf5Sink(Path(), compression="lzw")  # type: ignore[arg-type]


def test_fields_of_the_layout_come_from_the_metadata(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path, [frame(n) for n in (5, 6, 7)])) as file:
        entry, detector = file["entry"], file["entry/instrument/detector"]
        assert entry["definition"].asstr()[()] == "NXmx"
        assert entry["title"].asstr()[()] == "a test"
        assert entry["start_time"].asstr()[()] == "2023-11-14T22:13:20.025000Z"
        assert entry["end_time"].asstr()[()] == "2023-11-14T22:13:20.039000Z"
        assert entry["instrument/beam/incident_wavelength"][()] == 0.9793
        assert entry["sample/name"].asstr()[()] == "lysozyme"
        np.testing.assert_allclose(entry["sample/transformations/omega"][:], [10.0, 10.1, 10.2])
        assert detector["saturation_value"][()] == 1048500
        assert detector["depends_on"].asstr()[()] == detector["transformations/det_z"].name
        offset = detector["module/module_offset"].attrs["offset"]
        np.testing.assert_allclose(offset, [5.5 * 172e-6, 6.25 * 172e-6, 0])
        assert detector["module/data_size"][:].tolist() == list(SHAPE)
        assert detector["detectorSpecific/pixel_mask"].chunks is None
        assert entry["metadata/sample"].asstr()[()] == "lysozyme"


def test_what_the_metadata_lacks_comes_from_the_first_frame(tmp_path: Path) -> None:
    frames = [
        frame(n, energy_eV=12398.419843320026, start_angle_deg=n * 0.5, angle_increment_deg=0.5)
        for n in (3, 4, 2, 6)
    ]
    path = write(tmp_path, frames, info=make_info(metadata={}))
    with h5py.File(path) as file:
        assert file["entry/instrument/beam/incident_wavelength"][()] == pytest.approx(1.0)
        omega = file["entry/sample/transformations/omega"][:]
        np.testing.assert_allclose(omega, [1.0, 1.5, 2.0, 2.5, 3.0])
        assert "sensor_material" not in file["entry/instrument/detector"]
        assert "module_offset" not in file["entry/instrument/detector/module"]


def test_an_open_stream_has_no_observed_end(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path, [frame(0)], info=make_info(state="open"))) as file:
        assert "end_time" not in file["entry"]
        assert "end_time_estimated" in file["entry"]


def test_gaps_and_dead_pixels_of_a_pilatus_are_in_the_mask_and_the_pixels_unchanged(
    tmp_path: Path,
) -> None:
    image = pixels(0)
    image[2], image[3, 4] = -1, -2
    with h5py.File(write(tmp_path, [frame(0, image)])) as file:
        mask = file["entry/instrument/detector/pixel_mask"][:]
        assert (mask[2] == 1).all()
        assert mask[3, 4] == 2
        assert mask.sum() == SHAPE[1] + 2
        np.testing.assert_array_equal(file["entry/data/data"][0], image)


def test_negative_pixels_of_other_detectors_are_no_mask(tmp_path: Path) -> None:
    path = write(tmp_path, [frame(0, -pixels(0))], info=make_info(metadata={}))
    with h5py.File(path) as file:
        assert not file["entry/instrument/detector/pixel_mask"][:].any()


def test_a_given_mask_is_written_and_its_shape_is_checked(tmp_path: Path) -> None:
    mask = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint32).reshape(SHAPE)
    with h5py.File(write(tmp_path, [frame(0)], pixel_mask=mask)) as file:
        np.testing.assert_array_equal(file["entry/instrument/detector/pixel_mask"][:], mask)
    with pytest.raises(SinkError, match="pixel_mask has shape"):
        write(tmp_path / "other", [frame(0)], pixel_mask=mask[1:])
    assert list((tmp_path / "other").iterdir()) == []  # told with the first frame


def test_every_class_and_path_attribute_is_fixed_ascii(tmp_path: Path) -> None:
    found = []

    def visit(_name: str, node: Any) -> None:
        for name in node.attrs:
            kind = node.attrs.get_id(name).get_type()
            if isinstance(kind, h5py.h5t.TypeStringID):
                found.append(name)
                assert not kind.is_variable_str(), name

    with h5py.File(write(tmp_path, [frame(0)])) as file:
        file.visititems(visit)
        assert [n for n in file["entry/data"] if n.startswith("data")] == ["data"]
    assert "NX_class" in found
    assert "depends_on" in found


def test_the_account_is_in_the_provenance(tmp_path: Path) -> None:
    account = {
        "stream": "c1/pilatus/scan_7",
        "state": "complete",
        "expected": None,
        "received": 2,
        "missing": [[1, 1]],
        "late": [],
        "quarantined": [{"source": "x", "reason": "y"}],
        "complete": False,
    }
    with h5py.File(write(tmp_path, [frame(0), frame(2)], account)) as file:
        provenance = file["entry/provenance"]
        assert json.loads(provenance["account"].asstr()[()]) == account
        assert provenance["received"][()] == 2
        assert provenance["missing"][:].tolist() == [[1, 1]]
        assert provenance["late"].shape == (0, 2)
        assert provenance["frames_written"][()] == 2
        assert provenance.attrs["stream"] == b"c1/pilatus/scan_7"
        assert provenance.attrs["encoding"] == b"bslz4"


def test_an_account_of_another_form_is_named(tmp_path: Path) -> None:
    with Hdf5Sink(tmp_path) as sink:
        sink.open(make_info())
        with pytest.raises(InvalidArgumentError, match="missing"):
            sink.finish({"missing": [1, 2]})


# -- the file's name, and failures --------------------------------------------------------------


def test_names_with_any_characters_become_file_names(tmp_path: Path) -> None:
    path = write(tmp_path, [frame(0)], info=make_info("../a b/\u00fc"))
    assert path.parent == tmp_path
    long = write(tmp_path, [frame(0)], info=make_info("\u00fc" * 200))
    assert long.exists()


def test_nothing_has_the_name_before_the_end_and_abort_leaves_nothing(tmp_path: Path) -> None:
    with Hdf5Sink(tmp_path) as sink:
        sink.open(make_info())
        sink.write(frame(0))
        assert not (tmp_path / "pilatus_scan_7.h5").exists()
        assert all(path.name.startswith(".") for path in tmp_path.iterdir())
        sink.abort()
        sink.abort()
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(ClosedError):
            sink.write(frame(1))
    with pytest.raises(ClosedError):
        sink.open(make_info())


def test_what_a_sink_has_left_the_next_one_goes_on_with(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Hdf5Sink(tmp_path) as sink:
        sink.open(make_info())
        for number in range(10, 20):
            sink.write(frame(number, omega=number / 10), (0, number))
        sink.checkpoint([18])
        raise KeyError
    with Hdf5Sink(tmp_path) as sink:
        sink.open(make_info())
        assert sink.marker == [18]
        assert sink.counts.written == 8
        for number in range(17, 25):
            sink.write(frame(number, omega=number / 10), (0, number))
        assert sink.counts.duplicate == 0  # the same record again is no second copy
        path = Path(sink.finish({}))
    assert list(tmp_path.iterdir()) == [path]
    with h5py.File(path) as file:
        detector = file["entry/instrument/detector"]
        for position in range(15):
            np.testing.assert_array_equal(file["entry/data/data"][position], pixels(10 + position))
        assert detector["frame_valid"][:].all()
        assert not detector["frame_status"][:].any()
        assert detector["attributes/omega"][:].tolist() == [n / 10 for n in range(10, 25)]
        assert file["entry/provenance/offset"][:].tolist() == list(range(10, 25))


def test_a_file_is_read_while_it_grows(tmp_path: Path) -> None:
    with Hdf5Sink(tmp_path) as sink:
        sink.open(make_info())
        sink.write(frame(0))
        sink.checkpoint()
        with h5py.File(tmp_path / ".pilatus_scan_7.h5.part", swmr=True, locking=False) as file:
            data, valid = file["entry/data/data"], file["entry/instrument/detector/frame_valid"]
            for number in range(1, 200):
                sink.write(frame(number))
                if number % 50 == 0:
                    sink.checkpoint()
                    valid.refresh()
                    data.refresh()
                    assert int(valid[:].sum()) == number + 1
                    np.testing.assert_array_equal(data[number], pixels(number))
        sink.finish({})


def test_a_file_of_another_stream_with_this_name_is_set_aside(tmp_path: Path) -> None:
    with Hdf5Sink(tmp_path) as sink:
        sink.open(make_info())
        sink.write(frame(0))
    other = make_info()
    other.start = replace(other.start, stream_key=b"abcdefgh")
    path = write(tmp_path, [frame(5)], info=other)
    (aside,) = [entry for entry in tmp_path.iterdir() if entry != path]
    assert aside.name.endswith(".left")
    with h5py.File(path) as file:
        assert file["entry/data/frame_number"][:].tolist() == [5]


def test_an_existing_file_is_kept_unless_asked(tmp_path: Path) -> None:
    path = write(tmp_path, [frame(0)])
    before = path.read_bytes()
    with pytest.raises(SinkError, match="overwrite"), Hdf5Sink(tmp_path) as sink:
        sink.open(make_info())
    with Hdf5Sink(tmp_path, overwrite=True) as sink:
        sink.open(make_info())
        sink.write(frame(0))
        sink.write(frame(1))
        assert path.read_bytes() == before
        sink.finish({})
        sink.abort()
    with h5py.File(path) as file:
        assert file["entry/data/data"].shape[0] == 2
    assert list(tmp_path.iterdir()) == [path]


def test_two_sinks_on_one_file_are_refused(tmp_path: Path) -> None:
    with Hdf5Sink(tmp_path) as first, Hdf5Sink(tmp_path) as second:
        first.open(make_info())
        with pytest.raises(SinkError, match="another sink"):
            second.open(make_info())
        first.write(frame(0))
        assert Path(first.finish({})).exists()


def test_rubbish_in_the_place_of_an_unfinished_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / ".pilatus_scan_7.h5.part").write_bytes(b"rubbish")
    (tmp_path / ".pilatus_scan_7.h5.lock").touch()
    path = write(tmp_path, [frame(0)])
    (aside,) = [entry for entry in tmp_path.iterdir() if entry != path]
    assert aside.read_bytes() == b"rubbish"


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Hdf5Sink(tmp_path / "file" / "below") as sink, pytest.raises(SinkError, match="below"):
        sink.open(make_info())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with Hdf5Sink(tmp_path) as sink, pytest.raises(SinkError, match="permission"):
        sink.open(make_info())


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import numpy as np
    import test_hdf5_sink as t
    from pipeline.errors import SinkError
    from pipeline.sinks.hdf5 import Hdf5Sink

    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
    try:
        with Hdf5Sink(Path({out!r}), compression="none") as sink:
            sink.open(t.make_info(expected={count}))
            for number in range({count}):
                sink.write(t.frame(number, np.full(({side}, 100), number, np.int32)))
                sink.checkpoint(every_s=0.01)
            sink.finish({{"missing": {missing}}})
    except SinkError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("count", "side", "missing"),
    [(100, 500, []), (5000, 5, []), (2, 500, [[2, 60]]), (9, 550, [])],
    ids=["while writing", "small frames", "in finish", "in the layout"],
)
def test_a_full_disk_is_an_error_that_says_so_and_with_room_it_goes_on(
    tmp_path: Path, count: int, side: int, missing: list[list[int]]
) -> None:
    # in a process of its own: the limit cannot be taken back, nor can what HDF5 keeps open
    out = tmp_path / "out"
    code = FULL_DISK.format(
        tests=str(Path(__file__).parent), out=str(out), count=count, side=side, missing=missing
    )
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no room left" in done.stdout
    assert list(out.glob("*.h5")) == []
    with Hdf5Sink(out, compression="none") as sink:
        sink.open(make_info())
        for number in range(count):
            sink.write(frame(number, np.full((side, 100), number, np.int32)))
        path = Path(sink.finish({"missing": missing}))
    assert list(out.iterdir()) == [path]
    with h5py.File(path) as file:
        valid = file["entry/instrument/detector/frame_valid"][:]
        assert int(valid.sum()) == count
        for number in range(0, count, 1 + count // 50):
            assert (file["entry/data/data"][number] == number).all()


@pytest.mark.parametrize("encoding", ["gzip", "lz4", "bszstd", "zstd"])
def test_as_is_keeps_every_encoding_that_hdf5_knows(tmp_path: Path, encoding: str) -> None:
    options: dict[str, Any] = {
        "gzip": {"compression": "gzip"},
        "lz4": hdf5plugin.LZ4(),
        "bszstd": hdf5plugin.Bitshuffle(cname="zstd"),
        "zstd": hdf5plugin.Zstd(),
    }[encoding]
    with h5py.File(tmp_path / "chunk.h5", "w") as file:
        data = file.create_dataset("d", data=pixels(0)[None], chunks=(1, *SHAPE), **options)
        file.flush()
        payload = data.id.read_direct_chunk((0, 0, 0))[1]
    first = frame(0)
    first.encoding, first.payload = encoding, memoryview(payload)
    path = write(tmp_path / "out", [first, frame(1), frame(3)], compression="as-is")
    with h5py.File(path) as file:
        data = file["entry/data/data"]
        assert data.id.read_direct_chunk((0, 0, 0))[1] == payload
        for number in (0, 1, 3):
            np.testing.assert_array_equal(data[number], pixels(number))


def test_tomography_has_its_own_layout(tmp_path: Path) -> None:
    frames = [frame(n, image_key=1 if n < 12 else 0) for n in range(10, 20) if n != 15]
    path = write(tmp_path, frames, {"missing": [[15, 15]]}, layout="nxtomo")
    with h5py.File(path) as file:
        assert file["entry/definition"].asstr()[()] == "NXtomo"
        assert "version" not in file["entry"].attrs
        detector, data = file["entry/instrument/detector"], file["entry/data"]
        assert detector["image_key"][:].tolist() == [1, 1, 0, 0, 0, 3, 0, 0, 0, 0]
        assert data["data"] == detector["data"]
        for position in (0, 9):
            np.testing.assert_array_equal(data["data"][position], pixels(10 + position))
        angles = file["entry/sample/rotation_angle"]
        np.testing.assert_allclose(angles[:], 10 + 0.1 * np.arange(10))
        assert data["rotation_angle"] == angles
        energy = file["entry/instrument/beam/incident_energy"]
        assert energy.attrs["units"] == b"keV"
        assert energy[()] == pytest.approx(12.66, abs=0.001)


@pytest.mark.parametrize("layout", ["nxdata", "nxtomo"])
def test_frames_without_pixels_have_every_layout(tmp_path: Path, layout: str) -> None:
    path = write(tmp_path, [value_frame(n, x=n) for n in range(4)], layout=layout)
    with h5py.File(path) as file:
        assert file["entry/instrument/detector/attributes/x"][:].tolist() == [0, 1, 2, 3]


def test_a_directory_that_goes_away_is_an_error_and_the_next_run_begins_anew(
    tmp_path: Path,
) -> None:
    with Hdf5Sink(tmp_path / "out") as sink:
        sink.open(make_info())
        sink.write(frame(0))
        shutil.rmtree(tmp_path / "out")
        with pytest.raises(SinkError, match="pilatus_scan_7"):
            sink.finish({})
    path = write(tmp_path / "out", [frame(0)])
    assert list((tmp_path / "out").iterdir()) == [path]


def test_a_plugin_directory_of_other_programs_does_not_keep_the_filters_away(
    tmp_path: Path,
) -> None:
    """It did: "Unable to synchronously create dataset (error during user callback)"."""
    code = f"""
    import sys
    from pathlib import Path
    import h5py
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from test_hdf5_sink import frame, pixels, write
    path = write(Path({str(tmp_path)!r}), [frame(0)])
    with h5py.File(path) as file:
        assert (file["entry/data/data"][0] == pixels(0)).all()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH},
    )
    assert done.returncode == 0, done.stderr

"""The tree of a stream against h5py: the same answers to the same questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 -- registers the filters
import numpy as np
import pytest
from h5view_bench import METADATA, Bench, attributes_of, image
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import (
    ChecksumError,
    ClosedError,
    DecodeError,
    InvalidArgumentError,
    NodeNotFoundError,
    PositionError,
)
from pipeline.frame import Module
from pipeline.nexus.text import link_name
from pipeline.nexus.tree import Deferred, Group, Images, Link, PerFrame
from pipeline.sinks.hdf5 import Hdf5Sink

NUMBERS = [n for n in range(3, 40) if n not in (10, 11, 17, 30)]
MODULES = (
    Module(index=0, shape=(2, 3), position=(0, 0)),
    Module(index=1, shape=(2, 3), position=(3, 0)),
)
DETECTOR = "entry/instrument/detector"


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[Bench] = []

    def build(**options: Any) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield build
    for bench in made:
        bench.stream.close()


@pytest.fixture
def bench(make: Any) -> Bench:
    """An ended stream of 33 frames with four holes, all of what the layout knows in it."""
    made: Bench = make(partitions=2, metadata=METADATA)
    made.write(NUMBERS, [image(n) for n in NUMBERS], attributes=[attributes_of(n) for n in NUMBERS])
    made.finish()
    return made


@pytest.fixture
def copy(bench: Bench, tmp_path: Path) -> Iterator[h5py.File]:
    """The same tree in a real file, by the plainest writer there can be."""
    with h5py.File(tmp_path / "copy.h5", "w") as file:
        _copy(bench.stream.h5().snapshot.tree, file)
        yield file


def _copy(node: Group, target: Any) -> None:
    target.attrs.update(node.attributes)
    for name, child in node.nodes.items():
        if isinstance(child, Group):
            _copy(child, target.create_group(name))
        elif isinstance(child, Link):
            target[name] = h5py.SoftLink(child.target)
        else:
            dataset = target.create_dataset(name, data=_values(child.value))
            dataset.attrs.update(child.attributes)


def _values(value: Any) -> Any:
    if isinstance(value, Images):
        return value.read(np.arange(value.shape[0]), (slice(None),) * (len(value.shape) - 1))
    if isinstance(value, PerFrame):
        return value.at(np.arange(value.count))
    if isinstance(value, Deferred):
        return value.make()
    return value.item() if value.dtype == object else value


def assert_same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(theirs, np.ndarray):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    np.testing.assert_array_equal(ours, theirs)


# -- the file that the sink writes ----------------------------------------------------------------


def _plain(bench: Bench) -> None:
    bench.write(
        NUMBERS, [image(n) for n in NUMBERS], attributes=[attributes_of(n) for n in NUMBERS]
    )


def _with_units(bench: Bench) -> None:
    bench.log.change(metadata={"units": {"omega": "degree"}, "sample": "later", "on": True})
    _plain(bench)


def _with_copies_and_late_ones(bench: Bench) -> None:
    bench.write([4, 5, 6], [image(n, dtype="uint16") for n in (4, 5, 6)])
    bench.write([5], [image(5, dtype="uint16")])
    bench.log.mark("idle", floor=9, ceil=6)
    bench.write([8], [image(8, dtype="uint16")])


def _without_pixels(bench: Bench) -> None:
    bench.log.write([4, 5, 8], attributes=[{"ring": 99.5}, {}, {"mode": "top-up"}])


def _values_only(bench: Bench) -> None:
    bench.write([0, 2], [np.array(v, np.float32) for v in (1.5, 2.5)], encoding="raw")


def _with_own_angles(bench: Bench) -> None:
    said = [{"start_angle_deg": 90.0}, {}, {"start_angle_deg": 95.0}]
    bench.write([4, 5, 9], [image(n) for n in (4, 5, 9)], attributes=said)


def _of_lines(bench: Bench) -> None:
    bench.write([0, 1], [image(n, (9,), "float64") for n in (0, 1)])


def _of_modules(bench: Bench) -> None:
    for module, numbers in ((0, [0, 1, 2]), (1, [0, 2, 4])):
        images = [image(n + 9 * module, (2, 3)) for n in numbers]
        said = [{f"of_{module}": n} for n in numbers]
        bench.write(numbers, images, module=module, attributes=said)


@pytest.mark.parametrize("metadata", [METADATA, {"angle_increment_deg": 0.5}], ids=["full", "bare"])
@pytest.mark.parametrize(
    "write",
    [
        _plain,
        _with_units,
        _with_copies_and_late_ones,
        _without_pixels,
        _values_only,
        _with_own_angles,
        _of_lines,
        _of_modules,
    ],
)
def test_it_is_the_tree_of_the_file_that_the_sink_writes(
    make: Any, tmp_path: Path, write: Any, metadata: dict[str, Any]
) -> None:
    bench = make(metadata=metadata, modules=MODULES if write is _of_modules else ())
    write(bench)
    bench.finish()
    with Hdf5Sink(tmp_path) as sink:
        sink.open(bench.stream.info)
        for frame in bench.stream.frames():
            sink.write(frame)
        path = sink.finish(bench.stream.account())
    view = bench.stream.h5()
    with h5py.File(path) as file:
        paths = _paths(file)
        assert _paths(view) == {p for p in paths if not p.startswith("entry/provenance")}
        for path in sorted(_paths(view)):
            _assert_same_node(view[path], file[path])
        assert view.attrs["default"] == file.attrs["default"]


def _paths(file: Any) -> set[str]:
    found: list[str] = []
    file.visit(found.append)
    return set(found)


def _assert_same_node(ours: Any, theirs: Any) -> None:
    assert set(ours.attrs) == set(theirs.attrs), ours.name
    for name, value in theirs.attrs.items():
        np.testing.assert_array_equal(ours.attrs[name], value, err_msg=f"{ours.name}@{name}")
    if isinstance(theirs, h5py.Dataset):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), ours.name
        np.testing.assert_array_equal(ours[()], theirs[()], err_msg=ours.name)
    else:
        assert set(ours) == set(theirs) - {"provenance"}, ours.name


# -- indices --------------------------------------------------------------------------------------

_MASK = np.arange(37) % 5 == 0
INDICES: list[Any] = [
    (),
    ...,
    0,
    -1,
    np.int64(7),
    slice(3, 9),
    slice(None, None, 7),
    slice(-5, None),
    slice(30, 300),
    slice(9, 3),
    [0, 7, 8, 36],
    np.array([1, 2], np.uint8),
    np.zeros(37, bool),
    _MASK,
    (4, 5),
    (4, 5, 4),
    (-1, ..., 0),
    (..., 2),
    (slice(2, 6), slice(1, 3), slice(None, None, 2)),
    (slice(0, 20, 3), -1),
    (_MASK, slice(1, 4), 2),
    ([5, 6, 7], ..., slice(0, 2)),
    (slice(4, 6), [0, 3, 5]),
    (slice(4, 6), 1, [0, 3]),
    (8, [0, 1], slice(2, 4)),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_images_answer_as_h5py_does(bench: Bench, copy: h5py.File, index: Any) -> None:
    assert_same(bench.stream.h5()["entry/data/data"][index], copy["entry/data/data"][index])


@pytest.mark.parametrize(
    "index", [i for i in INDICES if not isinstance(i, tuple) or i == ()], ids=str
)
@pytest.mark.parametrize(
    "path",
    ["timestamp", "frame_valid", "attributes/omega", "attributes/file", "attributes/mixed"],
)
def test_columns_answer_as_h5py_does(bench: Bench, copy: h5py.File, path: str, index: Any) -> None:
    path = f"{DETECTOR}/{path}"
    assert_same(bench.stream.h5()[path][index], copy[path][index])


@pytest.mark.parametrize("index", [(), ..., (0, 1), (slice(1, 3), -1)], ids=str)
def test_arrays_and_single_values_answer_as_h5py_does(
    bench: Bench, copy: h5py.File, index: Any
) -> None:
    view = bench.stream.h5()
    for name in ("pixel_mask", "distance", "description", "module/data_size"):
        path = f"{DETECTOR}/{name}"
        if copy[path].ndim == 2 or not isinstance(index, tuple) or not index:
            assert_same(view[path][index], copy[path][index])


def test_lists_may_be_in_any_order_and_steps_negative(bench: Bench) -> None:
    data = bench.stream.h5()["entry/data/data"]
    whole = data[()]
    np.testing.assert_array_equal(data[[9, 2, 2, -1]], whole[[9, 2, 2, -1]])
    np.testing.assert_array_equal(data[::-3, ::-1], whole[::-3, ::-1])


@pytest.mark.parametrize("index", [37, -38, [0, 37], (0, 6), (0, 0, -6)])
def test_a_position_outside_is_an_index_error(bench: Bench, index: Any) -> None:
    data = bench.stream.h5()["entry/data/data"]
    with pytest.raises(PositionError, match="outside an axis of"):
        data[index]
    with pytest.raises(IndexError):
        data[index]


@pytest.mark.parametrize(
    "index",
    [
        "data",
        None,
        1.5,
        True,
        (0, 0, 0, 0),
        (..., ...),
        ([0], [0]),
        np.zeros(36, bool),
        [[0]],
        [0.5],
    ],
    ids=str,
)
def test_what_is_no_index_is_refused(bench: Bench, index: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        bench.stream.h5()["entry/data/data"][index]


# -- the tree -------------------------------------------------------------------------------------


def test_groups_are_mappings_as_in_h5py(bench: Bench, copy: h5py.File) -> None:
    view = bench.stream.h5()
    assert _paths(view) == _paths(copy)
    for ours, theirs in (
        (view, copy),
        (view["entry"], copy["entry"]),
        (view[DETECTOR], copy[DETECTOR]),
    ):
        assert list(ours) == list(ours.keys()) == list(theirs)
        assert len(ours) == len(theirs)
        assert [n.name for n in ours.values()] == [n.name for n in theirs.values()]
        assert dict(ours.items()).keys() == dict(theirs.items()).keys()
        assert ours.name == theirs.name
        assert ours.parent.name == theirs.parent.name
    entry = view["entry"]
    assert entry["data/data"] == view["/entry/data/data"] == entry["/entry/data/data"]
    assert entry["data"].attrs["NX_class"] == b"NXdata"
    assert "data/data" in entry
    assert "nope" not in entry
    assert "data/data/x" not in entry
    assert entry.get("nope") is None
    assert entry.get("nope", 7) == 7
    assert entry.get("title")[()] == b"detector scan_1"
    assert view[f"{DETECTOR}/data"].shape == view["entry/data/data"].shape
    assert entry.file is view
    assert hash(entry) == hash(view["entry"])
    assert entry != "entry"
    assert "33" not in repr(entry)
    assert "(37, 6, 5)" in repr(view["entry/data/data"])


def test_visiting_ends_with_the_first_result(bench: Bench, copy: h5py.File) -> None:
    def first(path: str, node: Any) -> str | None:
        return path if node.name.endswith("timestamp") else None

    assert bench.stream.h5().visititems(first) == copy.visititems(first) == f"{DETECTOR}/timestamp"


def test_a_path_that_is_not_there_says_what_is(bench: Bench) -> None:
    with pytest.raises(NodeNotFoundError, match="nothing of that name in /entry/data") as caught:
        bench.stream.h5()["entry/data/nope"]
    assert isinstance(caught.value, KeyError)
    with pytest.raises(InvalidArgumentError, match="by name"):
        bench.stream.h5()[0]


def test_datasets_tell_what_they_are(bench: Bench, copy: h5py.File) -> None:
    view = bench.stream.h5()
    for path in ("entry/data/data", f"{DETECTOR}/timestamp", "entry/title"):
        ours, theirs = view[path], copy[path]
        assert (ours.shape, ours.dtype, ours.ndim) == (theirs.shape, theirs.dtype, theirs.ndim)
        assert (ours.size, ours.nbytes) == (theirs.size, theirs.nbytes)
    data = view["entry/data/data"]
    assert data.chunks == (1, 6, 5)
    assert view[f"{DETECTOR}/timestamp"].chunks is None
    assert data.fillvalue == -1
    assert len(data) == 37
    assert data.attrs["interpretation"] == b"image"
    np.testing.assert_array_equal(np.asarray(data, np.float32), copy["entry/data/data"][()])
    for number, frame in enumerate(data):
        np.testing.assert_array_equal(frame, data[number])
    with pytest.raises(InvalidArgumentError, match="no length"):
        len(view["entry/title"])


def test_text_is_bytes_as_in_h5py_and_text_when_asked(bench: Bench, copy: h5py.File) -> None:
    view, path = bench.stream.h5(), f"{DETECTOR}/attributes/file"
    assert view[path].asstr()[1] == copy[path].asstr()[1] == "é_4.cbf"
    assert view[path].asstr()[7:9].tolist() == ["", ""]
    assert len(view[path].asstr()) == 37
    assert view["entry/definition"].asstr()[()] == "NXmx"
    assert h5py.check_string_dtype(view[path].dtype).encoding == "utf-8"
    with pytest.raises(InvalidArgumentError, match="not text"):
        view["entry/data/data"].asstr()


# -- what is missing, and what is wrong -----------------------------------------------------------


def test_missing_frames_read_as_the_sentinel_and_are_not_valid(bench: Bench) -> None:
    view = bench.stream.h5()
    places = [10 - 3, 11 - 3, 17 - 3, 30 - 3]
    assert (view["entry/data/data"][places] == -1).all()
    assert view["entry/data/frame_number"][places].tolist() == [10, 11, 17, 30]
    assert np.flatnonzero(view[f"{DETECTOR}/frame_valid"][:] == 0).tolist() == places
    assert view[f"{DETECTOR}/timestamp"][places].tolist() == [0] * 4
    assert view[f"{DETECTOR}/sequence_number"][places].tolist() == [2**32 - 1] * 4
    assert np.isnan(view[f"{DETECTOR}/attributes/omega"][places]).all()
    assert view[f"{DETECTOR}/attributes/counter"][places].tolist() == [-(2**63)] * 4


@pytest.mark.parametrize(
    ("dtype", "expected"), [("uint16", 65535), ("float32", np.nan), ("int8", -1), ("bool", False)]
)
def test_the_sentinel_is_that_of_the_type(make: Any, dtype: str, expected: Any) -> None:
    bench = make()
    bench.write([0, 2], [image(0, dtype=dtype), image(2, dtype=dtype)])
    data = bench.stream.h5()["entry/data/data"]
    np.testing.assert_array_equal(data[1], np.full((6, 5), expected, dtype))


def test_a_frame_of_another_shape_is_an_error_where_it_is_read(make: Any) -> None:
    bench = make()
    bench.write([0, 1], [image(0), image(1)])
    bench.write([2], [image(2, (5, 6))])
    bench.write([3], [image(3)])
    view = bench.stream.h5()
    data = view["entry/data/data"]
    with pytest.raises(DecodeError, match=r"frame 2 of .* is \(5, 6\) int32, others are \(6, 5\)"):
        data[:]
    np.testing.assert_array_equal(data[3], image(3))
    assert view[f"{DETECTOR}/frame_valid"][:].tolist() == [1, 1, 0, 1]
    assert view[f"{DETECTOR}/frame_status"][:].tolist() == [0, 0, 2, 0]


def test_a_damaged_payload_is_an_error_and_no_pixels(bench: Bench) -> None:
    bench.store.put("b/o%2F0", [b"\0" * 1000], durability="process")
    data = bench.stream.h5()["entry/data/data"]
    with pytest.raises(ChecksumError, match="frame 4"):
        data[1]


def test_a_closed_stream_cannot_be_viewed(bench: Bench) -> None:
    view = bench.stream.h5()
    bench.stream.close()
    with pytest.raises(ClosedError):
        bench.stream.h5()
    with pytest.raises(ClosedError):
        view["entry/data/data"][0]
    with pytest.raises(ClosedError):
        view.refresh()


def test_an_empty_stream_has_its_tree(make: Any) -> None:
    bench = make(metadata=METADATA)
    view = bench.stream.h5()
    assert "data" not in view["entry/data"]
    assert view["entry/data/frame_number"].shape == (0,)
    assert view["entry/data/frame_number"][:].tolist() == []
    assert view["entry/data"].attrs["signal"] == b"timestamp"
    bench.write([5], [image(5)])
    view.refresh()
    assert view["entry/data/data"].shape == (1, 6, 5)


def test_frames_without_pixels_have_times_and_attributes(make: Any) -> None:
    bench = make()
    bench.log.write([4, 5], attributes=[{"ring": 99.5}, {}])
    view = bench.stream.h5()
    assert list(view["entry/data"]) == ["frame_number", "timestamp"]
    assert view["entry/data/timestamp"].shape == (2,)
    assert view[f"{DETECTOR}/attributes/ring"][0] == 99.5
    assert view[f"{DETECTOR}/frame_valid"][:].tolist() == [1, 1]


def test_values_are_a_column(make: Any) -> None:
    bench = make()
    values = [np.array(v, np.float32) for v in (1.5, 2.5)]
    bench.write([0, 2], values, encoding="raw")
    assert "data" not in bench.stream.h5()["entry/data"]
    column = bench.stream.h5()[f"{DETECTOR}/attributes/value"]
    np.testing.assert_array_equal(column[:], [1.5, np.nan, 2.5])


def test_numbers_far_apart_cost_nothing(make: Any) -> None:
    bench = make()
    bench.write([0], [image(0)])
    bench.write([10**11], [image(1)])
    view = bench.stream.h5()
    assert view["entry/data/data"].shape == (10**11 + 1, 6, 5)
    np.testing.assert_array_equal(view["entry/data/data"][-1], image(1))
    assert view[f"{DETECTOR}/frame_valid"][5] == 0


# -- a stream that goes on ------------------------------------------------------------------------


def test_it_grows_when_it_is_told_to(make: Any) -> None:
    bench = make()
    bench.write([0, 1], [image(0), image(1)])
    view = bench.stream.h5()
    data, valid = view["entry/data/data"], view[f"{DETECTOR}/frame_valid"]
    bench.write([3], [image(3)], attributes=[{"omega": 1}])
    assert (data.shape, len(valid)) == ((2, 6, 5), 2)
    view.refresh()
    assert (data.shape, valid[:].tolist()) == ((4, 6, 5), [1, 1, 0, 1])
    np.testing.assert_array_equal(data[-1], image(3))
    bench.write([2], [image(2)], attributes=[{"omega": 1.5}])
    data.refresh()
    assert valid[:].tolist() == [1, 1, 1, 1]
    np.testing.assert_array_equal(
        view[f"{DETECTOR}/attributes/omega"][:], [np.nan, np.nan, 1.5, 1.0]
    )
    assert "end_time" not in view["entry"]
    bench.finish()
    view.refresh()
    assert "end_time" in view["entry"]


def test_a_lower_number_moves_the_positions_at_the_next_refresh(make: Any) -> None:
    bench = make()
    bench.write([5], [image(5)])
    view = bench.stream.h5()
    bench.write([3], [image(3)])
    assert view["entry/data/frame_number"][0] == 5
    view.refresh()
    assert view["entry/data/frame_number"][:].tolist() == [3, 4, 5]
    np.testing.assert_array_equal(view["entry/data/data"][0], image(3))


# -- what is read ---------------------------------------------------------------------------------


def test_the_tree_and_the_columns_read_no_pixels(bench: Bench) -> None:
    view = bench.stream.h5()
    view.visititems(lambda path, node: None)
    for name in view[f"{DETECTOR}/attributes"]:
        view[f"{DETECTOR}/attributes"][name][:]
    view["entry/data/data"][[7, 8]]  # missing ones
    view["entry/data/data"][3:3]
    assert bench.store.reads == []


def test_only_the_frames_that_were_selected_are_read(bench: Bench) -> None:
    data = bench.stream.h5()["entry/data/data"]
    frame = 6 * 5 * 4
    data[2]
    assert bench.store.nbytes == frame
    bench.store.reads.clear()
    data[::8]  # one of each object, and a missing one
    assert bench.store.nbytes == 4 * frame
    bench.store.reads.clear()
    data[13:37]  # whole objects: a read for each
    assert bench.store.nbytes == 22 * frame
    assert len(bench.store.reads) == 3
    bench.store.reads.clear()
    data[[20, 22, 24]]
    assert bench.store.nbytes == 3 * frame


def test_of_large_raw_frames_only_the_rows_that_were_selected_are_read(make: Any) -> None:
    bench = make()
    images = [image(n, (1024, 600), "uint16") for n in range(3)]
    bench.write([0, 1, 2], images)
    data = bench.stream.h5()["entry/data/data"]
    for index in (
        (slice(None), slice(100, 110), slice(5, 9)),
        (1, 7),
        (slice(0, 3, 2), [3, 300], slice(None)),
        (1, slice(300, 100, -50), 4),
    ):
        bench.store.reads.clear()
        np.testing.assert_array_equal(data[index], np.stack(images)[index])
        assert bench.store.nbytes < np.stack(images)[index[0]].nbytes / 3
    bench.store.reads.clear()
    data[0, 10:900]
    assert bench.store.nbytes == images[0].nbytes
    assert data[0, 5:5].shape == (0, 600)


def test_payloads_in_records_are_read_from_there(make: Any) -> None:
    bench = make()
    bench.write([0, 1], [image(0), image(1)], stored=False)
    np.testing.assert_array_equal(bench.stream.h5()["entry/data/data"][1], image(1))
    assert bench.store.reads == []


def test_more_frames_than_are_planned_at_once(make: Any) -> None:
    bench = make()
    numbers = list(range(600))
    bench.write(numbers, [image(n, (2, 2)) for n in numbers])
    found = bench.stream.h5()["entry/data/data"][:]
    np.testing.assert_array_equal(found, [image(n, (2, 2)) for n in numbers])


# -- modules, masks, names ------------------------------------------------------------------------


def test_modules_are_put_together_and_frames_that_lack_one_are_not_valid(make: Any) -> None:
    bench = make(modules=MODULES)
    bench.write([0, 1], [image(0, (2, 3)), image(1, (2, 3))], module=0)
    bench.write([0], [image(7, (2, 3))], module=1)
    bench.finish()
    view = bench.stream.h5()
    data = view["entry/data/data"]
    assert data.shape == (2, 5, 3)
    np.testing.assert_array_equal(data[0, :2], image(0, (2, 3)))
    np.testing.assert_array_equal(data[0, 3:], image(7, (2, 3)))
    assert (data[1] == -1).all()
    assert view[f"{DETECTOR}/frame_valid"][:].tolist() == [1, 0]
    assert view[f"{DETECTOR}/frame_status"][:].tolist() == [0, 8]


def test_the_mask_of_a_pilatus_is_read_when_it_is_asked_for(make: Any) -> None:
    bench = make(metadata={"detector_description": "PILATUS 300K"})
    pixels = image(0)
    pixels[0, 0], pixels[1, 1] = -1, -2
    bench.write([4], [pixels])
    mask = bench.stream.h5()[f"{DETECTOR}/pixel_mask"]
    assert (mask.shape, mask.dtype, bench.store.reads) == ((6, 5), np.uint32, [])
    assert (mask[0, 0], mask[1, 1], mask[()].sum()) == (1, 2, 3)


def test_names_that_are_no_links_and_names_beyond_the_columns(make: Any) -> None:
    bench = make()
    said = {"a/b": 1, **{f"n{i}": i for i in range(520)}}
    bench.write([0, 1], [image(0), image(1)], attributes=[said, {"a/b": 2}])
    attributes = bench.stream.h5()[f"{DETECTOR}/attributes"]
    assert attributes[link_name("a/b")][:].tolist() == [1, 2]
    assert len(attributes) == 513
    rest = attributes["other_attributes"].asstr()[:].tolist()
    assert rest[1] == ""
    assert '"n519": 519' in rest[0]


# -- any index ------------------------------------------------------------------------------------


def _indices(extent: int) -> st.SearchStrategy[Any]:
    ends = st.none() | st.integers(-extent - 3, extent + 3)
    steps = st.none() | st.integers(-4, 4).filter(bool)
    return st.integers(-extent, extent - 1) | st.builds(slice, ends, ends, steps)


@given(
    first=_indices(9) | st.lists(st.integers(-9, 8), max_size=6),
    rest=st.lists(_indices(3), max_size=2),
)
def test_any_index_gives_what_numpy_gives(first: Any, rest: list[Any]) -> None:
    index = (np.array(first, np.int64) if isinstance(first, list) else first, *rest)
    bench = Bench()
    try:
        numbers = [0, 1, 2, 4, 5, 8]
        bench.write(numbers, [image(n, (4, 3)) for n in numbers])
        blank = np.full((4, 3), -1, np.int32)
        whole = np.array([image(n, (4, 3)) if n in numbers else blank for n in range(9)])
        np.testing.assert_array_equal(bench.stream.h5()["entry/data/data"][index], whole[index])
    finally:
        bench.stream.close()

"""References: xarray and zarr, in a process of their own, read the stream where it lies."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codec_payloads import chunk_of, lz4_block
from h5view_bench import START_NS, Bench, image

from pipeline.blobs.file import FileStore
from pipeline.errors import DecodeError, InvalidArgumentError, SinkError
from pipeline.export import write_references
from pipeline.frame import Module
from pipeline.view.references import MAX_POSITIONS
from pipeline.view.zarr_codec import FrameCodec

NUMBERS = [3, 4, 5, 7, 8, 9, 17]
LIMIT_S = 60


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    made: list[Bench] = []

    def build(**options: Any) -> Bench:
        folder = tmp_path / "store with spaces%20"
        made.append(Bench(store=FileStore(folder), **options))
        return made[-1]

    yield build
    for bench in made:
        bench.stream.close()


def refer(bench: Bench, path: Path) -> dict[str, Any]:
    write_references(bench.stream, path, store_url=bench.store.url)
    found: dict[str, Any] = json.loads(path.read_text())["refs"]
    return found


def read_elsewhere(path: Path, **options: Any) -> dict[str, Any]:
    reader = Path(__file__).with_name("reference_reader.py")
    done = subprocess.run(
        [sys.executable, str(reader), str(path), json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def stack(images: dict[int, Any], fill: Any) -> Any:
    first, last = min(images), max(images)
    blank = np.full_like(images[first], fill)
    return np.array([images.get(n, blank) for n in range(first, last + 1)])


def test_xarray_and_zarr_read_pixels_times_and_attributes(make: Any, tmp_path: Path) -> None:
    bench = make(metadata={"energy_eV": 12000, "sample": "lysozyme", "bad": np.nan})
    images = {n: image(n, dtype="uint16") for n in NUMBERS}
    said = [{"omega": n / 2, "shot": n, "a/b c": n, "file": f"f{n}"} for n in NUMBERS]
    bench.write(NUMBERS[:-1], list(images.values())[:-1], attributes=said[:-1])
    bench.write(NUMBERS[-1:], [images[17]], stored=False, attributes=[{"data": 1.5, **said[-1]}])
    bench.finish()
    report = write_references(bench.stream, tmp_path / "r.json", store_url=bench.store.url)
    assert (report.frames, report.positions) == (7, 15)
    assert report.nbytes == (tmp_path / "r.json").stat().st_size

    found = read_elsewhere(tmp_path / "r.json")
    assert found["imported"] == []
    assert found["attributes"] == {
        "stream": "test/detector/scan_1",
        "energy_eV": 12000,
        "sample": "lysozyme",
        "bad": "NaN",
    }
    expected = stack(images, 65535)
    assert found["zarr"] == expected.tolist()
    plain, masked = found["values"], found["masked"]
    assert plain["data"] == {
        "dtype": "uint16",
        "dims": ["frame_number", "y", "x"],
        "values": expected.tolist(),
    }
    np.testing.assert_array_equal(
        masked["data"]["values"], np.where(expected == 65535, np.nan, expected)
    )
    assert found["coordinates"] == [
        "attribute_data", "frame_number", "frame_valid", "omega", "shot", "timestamp",
    ]  # fmt: skip
    assert plain["frame_number"]["values"] == list(range(3, 18))
    assert plain["frame_valid"]["values"] == [int(n in images) for n in range(3, 18)]
    assert masked["timestamp"]["dtype"] == "datetime64[ns]"
    nat = -(2**63)
    assert masked["timestamp"]["values"] == [
        START_NS + n * 5_000_000 if n in images else nat for n in range(3, 18)
    ]
    np.testing.assert_array_equal(
        masked["omega"]["values"], [n / 2 if n in images else np.nan for n in range(3, 18)]
    )
    np.testing.assert_array_equal(
        masked["shot"]["values"], [n if n in images else np.nan for n in range(3, 18)]
    )
    assert plain["a%2Fb c"]["values"] == plain["shot"]["values"]
    assert found["selected"][0] == images[5][0, 0]


def test_compressed_frames_are_read_by_the_codecs_of_zarr(make: Any, tmp_path: Path) -> None:
    import blosc
    import zstandard

    pack = {
        "gzip": zlib.compress,
        "zstd": zstandard.ZstdCompressor().compress,
        "blosc": lambda raw: blosc.compress(raw, typesize=4),
    }
    for encoding, compress in pack.items():
        bench = make()
        images = {n: image(n) for n in (0, 2)}
        payloads = [compress(i.tobytes()) for i in images.values()]
        bench.write([0, 2], list(images.values()), payloads=payloads, encoding=encoding)
        path = tmp_path / f"{encoding}.json"
        refer(bench, path)
        found = read_elsewhere(path)
        assert found["imported"] == []
        assert found["zarr"] == stack(images, -1).tolist(), encoding


@pytest.mark.parametrize(("encoding", "pack"), [("bslz4", chunk_of), ("lz4-block", None)])
def test_other_encodings_are_read_by_the_codec_that_comes_with_us(
    make: Any, tmp_path: Path, encoding: str, pack: Any
) -> None:
    bench = make()
    images = {n: image(n) for n in (0, 2)}
    payloads = [pack(i, encoding) if pack else lz4_block(i) for i in images.values()]
    bench.write([0, 2], list(images.values()), payloads=payloads, encoding=encoding)
    refs = refer(bench, tmp_path / "r.json")
    assert refs["data/.zarray"]["compressor"] == {
        "id": "lichtstrom",
        "encoding": encoding,
        "shape": [6, 5],
        "dtype": "int32",
    }
    found = read_elsewhere(tmp_path / "r.json")
    assert found["zarr"] == stack(images, -1).tolist()
    assert "pipeline.view.zarr_codec" in found["imported"]


def test_an_object_that_is_gone_is_an_error_and_no_missing_frame(make: Any, tmp_path: Path) -> None:
    bench = make()
    bench.write([0, 2], [image(0), image(2)])
    refer(bench, tmp_path / "r.json")
    bench.store.delete(["b/o%2F0"])
    with pytest.raises(AssertionError, match="ReferenceNotReachable"):
        read_elsewhere(tmp_path / "r.json")


def test_frames_are_referred_to_where_they_lie(make: Any, tmp_path: Path) -> None:
    bench = make()
    bench.write([0, 2], [image(0), image(2)])
    refs = refer(bench, tmp_path / "r.json")
    where = f"file://{tmp_path}/store with spaces%20/b/o%2F0"
    assert refs["data/0.0.0"] == [where, 0, 120]
    assert refs["data/2.0.0"] == [where, 120, 120]
    assert "data/1.0.0" not in refs


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("s3://", "s3://b/o%2F0"),
        ("s3://bucket/pre%20fix", "s3://bucket/pre fix/b/o%2F0"),
        ("file:///a%25b/", "file:///a%b/b/o%2F0"),
    ],
)
def test_a_reference_is_the_url_as_fsspec_reads_it(
    make: Any, tmp_path: Path, url: str, where: str
) -> None:
    bench = make()
    bench.write([0], [image(0)])
    write_references(bench.stream, tmp_path / "r.json", store_url=url)
    assert json.loads((tmp_path / "r.json").read_text())["refs"]["data/0.0.0"][0] == where


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [
        ("uint8", 255),
        ("int64", -1),
        ("float32", "NaN"),
        ("complex64", ["NaN", 0.0]),
        ("bool", False),
    ],
)
def test_missing_frames_have_no_reference_and_the_fill_value_of_the_type(
    make: Any, tmp_path: Path, dtype: str, fill: Any
) -> None:
    bench = make()
    bench.write([0, 2], [image(0, dtype=dtype), image(2, dtype=dtype)])
    assert refer(bench, tmp_path / "r.json")["data/.zarray"]["fill_value"] == fill


def test_lines_and_volumes_have_axes_of_their_own(make: Any, tmp_path: Path) -> None:
    for shape, names in (((4,), ["x"]), ((2, 3, 4), ["axis_0", "axis_1", "axis_2"])):
        bench = make()
        bench.write([0], [image(0, shape)])
        refs = refer(bench, tmp_path / "r.json")
        assert refs["data/.zattrs"]["_ARRAY_DIMENSIONS"] == ["frame_number", *names]
        assert "data/0" + ".0" * len(shape) in refs


def test_frames_without_pixels_leave_the_columns(make: Any, tmp_path: Path) -> None:
    bench = make()
    bench.log.write([4, 6], attributes=[{"ring": 99.5}, {}])
    refs = refer(bench, tmp_path / "r.json")
    assert not [key for key in refs if key.startswith("data/")]
    np.testing.assert_array_equal(
        read_elsewhere(tmp_path / "r.json")["values"]["ring"]["values"], [99.5, np.nan, np.nan]
    )


def test_modules_have_an_axis_of_their_own(make: Any, tmp_path: Path) -> None:
    modules = (
        Module(index=2, shape=(6, 5), position=(0, 0)),
        Module(index=7, shape=(6, 5), position=(8, 0)),
    )
    bench = make(modules=modules)
    bench.write([0, 1], [image(0), image(1)], module=2)
    bench.write([1, 2], [image(11), image(12)], module=7, stored=False)
    bench.finish()
    refs = refer(bench, tmp_path / "r.json")
    assert refs["data/.zattrs"]["_ARRAY_DIMENSIONS"] == ["frame_number", "module", "y", "x"]
    assert [m["position"] for m in refs["data/.zattrs"]["modules"]] == [[0, 0], [8, 0]]
    none = np.full((6, 5), -1)
    expected = [[image(0), none], [image(1), image(11)], [none, image(12)]]
    found = read_elsewhere(tmp_path / "r.json")
    np.testing.assert_array_equal(found["zarr"], expected)
    assert found["values"]["frame_valid"]["values"] == [0, 1, 0]


# -- what cannot be referred to -------------------------------------------------------------------


def _refused(bench: Bench, path: Path, match: str) -> None:
    path.write_text("as before")
    with pytest.raises(DecodeError, match=match):
        write_references(bench.stream, path, store_url=bench.store.url)
    assert path.read_text() == "as before"
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".part")] == []


def test_frames_of_another_shape_are_refused(make: Any, tmp_path: Path) -> None:
    bench = make()
    bench.write([0], [image(0)])
    bench.write([1], [image(1, (2, 2))])
    _refused(bench, tmp_path / "r.json", r"several kinds .*\(6, 5\).*\(2, 2\)")


def test_frames_of_several_encodings_are_refused(make: Any, tmp_path: Path) -> None:
    bench = make()
    bench.write([0], [image(0)])
    bench.write([1], [image(1)], payloads=[zlib.compress(image(1).tobytes())], encoding="gzip")
    _refused(bench, tmp_path / "r.json", "int32 raw.*int32 gzip.*sink hdf5")


def test_numbers_that_are_no_counters_are_refused(make: Any, tmp_path: Path) -> None:
    bench = make()
    bench.write([0], [image(0)])
    bench.write([MAX_POSITIONS], [image(0)])
    _refused(bench, tmp_path / "r.json", "are they counters")


def test_a_store_that_nobody_else_reaches_is_refused(make: Any, tmp_path: Path) -> None:
    bench = make()
    with pytest.raises(InvalidArgumentError, match="file: or s3:"):
        write_references(bench.stream, tmp_path / "r.json", store_url="memory://x")


def test_a_file_that_cannot_be_written_is_an_error_of_ours(make: Any, tmp_path: Path) -> None:
    bench = make()
    with pytest.raises(SinkError, match="No such file or directory"):
        write_references(bench.stream, tmp_path / "no/r.json", store_url="s3://")


# -- the codec ------------------------------------------------------------------------------------


def test_the_codec_decodes_into_what_it_is_given_and_knows_damage() -> None:
    codec = FrameCodec.from_config({"encoding": "gzip", "shape": [6, 5], "dtype": "int32"})
    assert FrameCodec.from_config(codec.get_config()).get_config() == codec.get_config()
    payload, out = zlib.compress(image(1).tobytes()), np.empty((6, 5), np.int32)
    np.testing.assert_array_equal(codec.decode(payload), image(1))
    assert codec.decode(np.frombuffer(payload, np.uint8), out) is out
    np.testing.assert_array_equal(out, image(1))
    with pytest.raises(DecodeError):
        codec.decode(payload[:-3])
    with pytest.raises(NotImplementedError, match="read-only"):
        codec.encode(out)


def test_zarr_finds_the_codec_by_its_name() -> None:
    import numcodecs

    codec = numcodecs.get_codec(FrameCodec("raw", (6, 5), "int32").get_config())
    assert isinstance(codec, FrameCodec)

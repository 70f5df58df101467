"""The messages of both streams, written for the simulator; nothing is shared with the readers."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import cbor2
import numpy.typing as npt

_TYPED = {"uint8": 64, "uint16": 69, "uint32": 70, "float32": 85}
#: The detector's clock ticks 50 million times a second.
_TICKS_PER_S = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """An image as the detector encodes it: bytes as in HDF5, and as the legacy stream has them."""

    pixels: npt.NDArray[Any]
    framed: bytes
    bare: bytes
    sha256: str


def coded(pixels: npt.NDArray[Any], compression: str) -> Coded:
    """Compress an image by ``bslz4``, ``lz4`` or ``none``."""
    raw = pixels.tobytes()
    framed = bare = raw
    if compression == "bslz4":
        framed = bare = _bitshuffle(pixels)
    elif compression == "lz4":
        import lz4.block

        bare = lz4.block.compress(raw, store_size=False)
        framed = struct.pack(">QII", len(raw), len(raw), len(bare)) + bare
    return Coded(pixels=pixels, framed=framed, bare=bare, sha256=hashlib.sha256(raw).hexdigest())


def _bitshuffle(pixels: npt.NDArray[Any]) -> bytes:
    """Return what HDF5's bitshuffle filter makes of an image; it is what the detector sends."""
    import h5py
    import hdf5plugin

    with h5py.File(io.BytesIO(), "w") as file:
        dataset = file.create_dataset(
            "d", data=pixels, chunks=pixels.shape, **hdf5plugin.Bitshuffle(cname="lz4")
        )
        file.flush()
        return bytes(dataset.id.read_direct_chunk((0,) * pixels.ndim)[1])


# -- stream V1 ----------------------------------------------------------------------------------


def v1_start(
    series: int, config: Mapping[str, Any], detail: str, tables: Mapping[str, npt.NDArray[Any]]
) -> list[bytes]:
    """Return the start: 1, 2 or 8 parts by ``detail`` none, basic, all."""
    parts = [_json({"htype": "dheader-1.0", "series": series, "header_detail": detail})]
    if detail != "none":
        parts.append(_json(config))
    if detail == "all":
        for htype, name in (
            ("dflatfield-1.0", "flatfield"),
            ("dpixelmask-1.0", "pixel_mask"),
            ("dcountrate_table-1.0", "countrate_table"),
        ):
            array = tables[name]
            shape = array.shape if name == "countrate_table" else array.shape[::-1]
            parts.append(_json({"htype": htype, "shape": shape, "type": array.dtype.name}))
            parts.append(array.tobytes())
    return parts


def v1_image(
    series: int, frame: int, image: Coded, compression: str, times_ns: tuple[int, int, int]
) -> list[bytes]:
    """Return an image: four parts."""
    bits = 8 * image.pixels.dtype.itemsize
    encoding = {"bslz4": f"bs{bits}-lz4<", "lz4": "lz4<", "none": "<"}[compression]
    rows, columns = image.pixels.shape
    start, stop, real = times_ns
    return [
        _json({"htype": "dimage-1.0", "series": series, "frame": frame, "hash": image.sha256[:32]}),
        _json(
            {
                "htype": "dimage_d-1.0",
                "shape": [columns, rows],
                "type": image.pixels.dtype.name,
                "encoding": encoding,
                "size": len(image.bare),
            }
        ),
        image.bare,
        _json({"htype": "dconfig-1.0", "start_time": start, "stop_time": stop, "real_time": real}),
    ]


def v1_end(series: int) -> list[bytes]:
    """Return the end."""
    return [_json({"htype": "dseries_end-1.0", "series": series})]


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode()


# -- stream V2 ----------------------------------------------------------------------------------


def v2_start(
    series: int,
    unique: str,
    config: Mapping[str, Any],
    *,
    channels: Sequence[str],
    date: datetime,
    detail: str,
    tables: Mapping[str, npt.NDArray[Any]],
) -> bytes:
    """Return the start; ``detail`` all adds the arrays."""
    turning = {"start": config["omega_start"], "increment": config["omega_increment"]}
    found: dict[str, Any] = {
        "type": "start",
        "series_id": series,
        "series_unique_id": unique,
        "arm_date": date,
        "beam_center_x": config["beam_center_x"],
        "beam_center_y": config["beam_center_y"],
        "channels": list(channels),
        "count_time": config["count_time"],
        "frame_time": config["frame_time"],
        "countrate_correction_enabled": True,
        "detector_description": config["description"],
        "detector_serial_number": config["detector_number"],
        "detector_translation": [0.0, 0.0, config["detector_distance"]],
        "goniometer": {"omega": turning, "phi": {"start": 0.0, "increment": 0.0}},
        "image_dtype": f"uint{config['bit_depth_image']}",
        "image_size_x": config["x_pixels_in_detector"],
        "image_size_y": config["y_pixels_in_detector"],
        "incident_energy": config["photon_energy"],
        "incident_wavelength": config["wavelength"],
        "number_of_images": config["nimages"] * config["ntrigger"],
        "pixel_size_x": config["x_pixel_size"],
        "pixel_size_y": config["y_pixel_size"],
        "saturation_value": config["countrate_correction_count_cutoff"],
        "sensor_material": config["sensor_material"],
        "sensor_thickness": config["sensor_thickness"],
        "threshold_energy": dict.fromkeys(channels, config["threshold_energy"]),
        "user_data": {},
    }
    if detail == "all":
        found["flatfield"] = {name: _grid(tables["flatfield"]) for name in channels}
        found["pixel_mask"] = {name: _grid(tables["pixel_mask"]) for name in channels}
        found["countrate_correction_lookup_table"] = _typed(tables["countrate_table"][1])
    return _message(found)


def v2_image(
    series: int,
    unique: str,
    number: int,
    images: Mapping[str, Coded],
    compression: str,
    *,
    date: datetime,
    times_ns: tuple[int, int, int],
) -> bytes:
    """Return an image, with one array for each channel."""
    start, stop, real = ([_ticks(ns), _TICKS_PER_S] for ns in times_ns)
    data = {}
    for name, image in images.items():
        size = image.pixels.dtype.itemsize if compression == "bslz4" else 0
        payload: Any = image.framed
        if compression != "none":
            payload = cbor2.CBORTag(56500, [compression, size, image.framed])
        typed = cbor2.CBORTag(_TYPED[image.pixels.dtype.name], payload)
        data[name] = cbor2.CBORTag(40, [list(image.pixels.shape), typed])
    return _message(
        {
            "type": "image",
            "series_id": series,
            "series_unique_id": unique,
            "image_id": number,
            "series_date": date,
            "start_time": start,
            "stop_time": stop,
            "real_time": real,
            "data": data,
            "user_data": {},
        }
    )


def v2_end(series: int, unique: str) -> bytes:
    """Return the end."""
    return _message({"type": "end", "series_id": series, "series_unique_id": unique})


def _message(found: Mapping[str, Any]) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(55799, dict(found)))


def _grid(array: npt.NDArray[Any]) -> Any:
    return cbor2.CBORTag(40, [list(array.shape), _typed(array)])


def _typed(array: npt.NDArray[Any]) -> Any:
    return cbor2.CBORTag(_TYPED[array.dtype.name], array.tobytes())


def _ticks(nanoseconds: int) -> int:
    return nanoseconds * _TICKS_PER_S // 10**9

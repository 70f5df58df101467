"""What xarray and zarr make of references, told as JSON; lichtstrom is not imported here."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import xarray
import zarr


def main() -> None:
    path, options = sys.argv[1], json.loads(sys.argv[2])
    storage = {"fo": path, **options}
    backend = {"consolidated": False, "storage_options": storage}
    masked = xarray.open_dataset("reference://", engine="zarr", backend_kwargs=backend)
    plain = xarray.open_dataset(
        "reference://", engine="zarr", mask_and_scale=False, backend_kwargs=backend
    )
    group: Any = zarr.open_group("reference://", storage_options=storage, mode="r")
    found: dict[str, Any] = {
        "zarr": group["data"][...].tolist() if "data" in group else None,
        "attributes": dict(masked.attrs),
        "coordinates": sorted(masked.coords),
        "values": {name: _told(array) for name, array in plain.variables.items()},
        "masked": {name: _told(array) for name, array in masked.variables.items()},
        "imported": sorted(name for name in sys.modules if name.startswith("pipeline")),
    }
    if "data" in group:
        cut = masked["data"].sel(frame_number=slice(5, 8)).isel(x=0, y=0)
        found["selected"] = cut.values.tolist()
    print(json.dumps(found))


def _told(array: Any) -> Any:
    values = np.asarray(array.values)
    plain = values.astype(np.int64) if values.dtype.kind == "M" else values
    return {"dtype": str(values.dtype), "dims": list(array.dims), "values": plain.tolist()}


if __name__ == "__main__":
    main()

"""Fields of a user's own in the HDF5 files."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
from test_hdf5_sink import FULL_METADATA, frame, make_info, write

from pipeline.errors import InvalidArgumentError
from pipeline.sinks.hdf5.mapping import load_mapping

MAPPING = """
["entry/sample/temperature"]
from = "temperature_K"
units = "K"

["/entry/instrument/attenuator/attenuator_transmission"]
value = 0.35
class = "NXattenuator"

["entry/sample/name"]
value = "another name"

["entry/sample/kappa"]
each = "kappa/deg"
units = "degree"

["entry/user/name"]
from = "nobody_said"

["entry/sample/lattice"]
value = [1.0, 2.0]
"""


def test_fields_come_from_metadata_attributes_and_the_file_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "map.toml"
    file.write_text(MAPPING)
    info = make_info(metadata={**FULL_METADATA, "temperature_K": 293.5})
    frames = [frame(n, **{"kappa/deg": n / 2}) for n in range(3)]
    path = write(tmp_path / "out", frames, info=info, extras=[load_mapping(file)])
    with h5py.File(path) as found:
        sample = found["entry/sample"]
        assert sample["temperature"][()] == 293.5
        assert sample["temperature"].attrs["units"] == b"K"
        assert sample["name"].asstr()[()] == "another name"
        assert sample["kappa"][:].tolist() == [0, 0.5, 1]
        assert sample["kappa"].attrs["units"] == b"degree"
        assert sample["lattice"].asstr()[()] == "[1.0, 2.0]"
        attenuator = found["entry/instrument/attenuator"]
        assert attenuator.attrs["NX_class"] == b"NXattenuator"
        assert attenuator["attenuator_transmission"][()] == 0.35
        assert "name" not in found["entry"].get("user", {})
    assert "entry/user/name" in caplog.text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("not toml", "map.toml"),
        ("x = 1", "must be a table"),
        ('["entry/sample/x"]\nvalu = 1', "'valu' is none of"),
        ('["entry/sample/x"]\nunits = "K"', "one of from, value, each"),
        ('["entry/sample/x"]\nvalue = 1\nfrom = "y"', "one of from, value, each"),
        ('["sample/x/y"]\nvalue = 1', "a path like"),
        ('["entry/data/data"]\nvalue = 1', "the sink's own"),
    ],
)
def test_a_mapping_that_is_wrong_says_where(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "map.toml"
    file.write_text(text)
    with pytest.raises(InvalidArgumentError, match=problem):
        load_mapping(file)
    with pytest.raises(InvalidArgumentError, match="gone"):
        load_mapping(tmp_path / "gone.toml")

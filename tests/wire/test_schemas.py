"""Every schema version that was ever published: recorded bytes are still read as what they were.

``recorded/NAME-FINGERPRINT.hex`` holds one record with every field set (``wire_samples``), encoded
by the version that published the schema.  A change of a schema needs a new file beside the old
schema's (``schemas/NAME-vN.avsc``); no file here is ever changed.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
from wire_samples import plain, samples

from pipeline.errors import WireError
from pipeline.wire import codec, schemas

RECORDED = Path(__file__).parent / "recorded"
VERSIONS = {
    f"{schema.name.rpartition('.')[2]}-{fingerprint.hex()}": (kind, schema)
    for fingerprint, (kind, schema) in schemas.by_fingerprint().items()
}


@pytest.mark.parametrize("version", sorted(VERSIONS))
def test_a_record_of_every_published_version_is_read(version: str) -> None:
    kind, schema = VERSIONS[version]
    path = RECORDED / f"{version}.hex"
    assert path.exists(), f"record the bytes of the new version in {path.name}"
    data = bytes.fromhex(path.read_text())
    assert data.startswith(schema.marker)
    found = codec.decode(data)
    assert type(found) is kind
    expected = plain(samples()[kind])[1]
    written = {field["name"] for field in json.loads(schema.text)["fields"]}
    told = {name: value for name, value in plain(found)[1].items() if name in written}
    assert told == {name: value for name, value in expected.items() if name in written}


def test_no_published_version_was_forgotten() -> None:
    assert {path.stem for path in RECORDED.glob("*.hex")} == set(VERSIONS)


@pytest.mark.parametrize("version", sorted(VERSIONS))
def test_what_was_added_later_has_a_default(version: str) -> None:
    kind, schema = VERSIONS[version]
    old = {field["name"] for field in json.loads(schema.text)["fields"]}
    newest = {f["name"]: f for f in json.loads(schemas.shipped()[kind].text)["fields"]}
    assert old <= newest.keys()
    assert all("default" in newest[name] for name in newest.keys() - old)


@pytest.mark.parametrize("version", sorted(VERSIONS))
def test_fingerprints_are_those_of_the_specification(version: str) -> None:
    # CRC-64-AVRO as the Avro 1.12 specification gives it, over the parsing canonical form.
    from fastavro.schema import to_parsing_canonical_form

    _, schema = VERSIONS[version]
    empty = 0xC15D213AA4D7A795
    table = []
    for first in range(256):
        value = first
        for _ in range(8):
            value = (value >> 1) ^ (empty & -(value & 1))
        table.append(value)
    crc = empty
    for byte in to_parsing_canonical_form(json.loads(schema.text)).encode():
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    assert schema.fingerprint == crc.to_bytes(8, "little")


def test_every_field_of_every_schema_belongs_to_its_record() -> None:
    for kind, schema in schemas.shipped().items():
        names = [field["name"] for field in json.loads(schema.text)["fields"]]
        assert sorted(names) == sorted(kind.__dataclass_fields__), kind
        assert schema.name == kind.__name__


def test_all_schemas_are_in_the_package() -> None:
    names = {e.name for e in resources.files("pipeline.schemas").iterdir()}
    assert set(schemas.FILES.values()) <= names


def test_a_text_that_is_no_schema_is_a_wire_error() -> None:
    for text in ("", "null", "5", '"long"', '{"type": "record"}', '["null"]'):
        with pytest.raises(WireError):
            schemas.make_schema(text)

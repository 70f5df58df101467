"""The Avro schemas that this version writes and reads, and their fingerprints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import fastavro
from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form

from pipeline import records
from pipeline.errors import WireError
from pipeline.policy import Policy

#: Record class -> file in ``schemas/``; the newest version of each, which is what is written.
FILES: Mapping[type, str] = {
    records.Segment: "segment.avsc",
    records.Mark: "mark.avsc",
    records.Pointer: "pointer.avsc",
    records.Start: "start.avsc",
    records.Claim: "claim.avsc",
    records.End: "end.avsc",
    records.ManifestRef: "manifest_ref.avsc",
    records.UserMetadata: "user_metadata.avsc",
    records.Attachment: "attachment.avsc",
    records.Deleted: "deleted.avsc",
    records.Seal: "seal.avsc",
    Policy: "policy.avsc",
}


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema ready to use; ``marker`` is what a record written with it begins with."""

    name: str
    text: str
    parsed: Any
    fingerprint: bytes
    sha256: str

    @property
    def marker(self) -> bytes:
        """The ten bytes before the Avro body: C3 01 and the CRC-64-AVRO, little-endian."""
        return b"\xc3\x01" + self.fingerprint


def make_schema(text: str) -> Schema:
    """Parse a schema text; raises WireError if it is not an Avro schema."""
    try:
        definition = json.loads(text)
        parsed = parse_schema(definition)
        canonical = to_parsing_canonical_form(definition)
        # fastavro prints the 64-bit value's bytes in the order that single-object encoding wants.
        crc = bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        return Schema(str(definition["name"]), text, parsed, crc, digest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WireError(f"not the Avro schema of a record: {error!r:.200}") from error
    except fastavro.schema.SchemaParseException as error:
        raise WireError(f"not an Avro schema: {error}") from error


@cache
def shipped() -> Mapping[type, Schema]:
    """Return the schemas of this version by record class."""
    folder = resources.files("pipeline.schemas")
    return {kind: make_schema((folder / name).read_text()) for kind, name in FILES.items()}


@cache
def by_fingerprint() -> Mapping[bytes, tuple[type, Schema]]:
    """Return every shipped schema by fingerprint, older published versions included."""
    known = {schema.fingerprint: (kind, schema) for kind, schema in shipped().items()}
    classes = {schema.name: kind for kind, schema in shipped().items()}
    for entry in resources.files("pipeline.schemas").iterdir():
        if entry.name.endswith(".avsc"):
            schema = make_schema(entry.read_text())
            known.setdefault(schema.fingerprint, (classes[schema.name], schema))
    return known

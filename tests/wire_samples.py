"""One of every record, with every field set, and what tests compare them by."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from pipeline import records
from pipeline.frame import Module
from pipeline.policy import Policy
from pipeline.wire.columns import pack

KEY = bytes.fromhex("0123456789abcdef")


def segment(**changes: Any) -> records.Segment:
    columns, extra = pack(
        [
            {"omega": 0.1, "count": 7, "note": "é", "flag": True},
            {"omega": 0.2, "count": -8, "note": ""},
            {"omega": 0.3, "note": "x", "nested": {"a": [1, None]}},
        ]
    )
    values: dict[str, Any] = {
        "stream_key": KEY,
        "epoch": 3,
        "module": 1,
        "floor": 9,
        "ceil": 14,
        "shape": (2, 3),
        "dtype": "uint16",
        "encoding": "raw",
        "blob": "",
        "inline": bytes(range(36)),
        "numbers": np.array([10, 11, 14], np.int64),
        "timestamps_ns": np.array([1, 2, 2**62], np.int64),
        "offsets": np.array([0, 12, 24], np.int64),
        "lengths": np.array([12, 12, 12], np.uint32),
        "checksums": np.array([0, 1, 2**32 - 1], np.uint32),
        "digests": np.array([5, 5, 6], np.uint32),
        "columns": columns,
        "extra": tuple(extra),
        "member": "m1",
        "generation": 4,
        "skipped": np.array([12], np.int64),
        "rejected": np.array([13], np.int64),
    }
    return records.Segment(**{**values, **changes})


def samples() -> dict[type, Any]:
    """One record of every class that travels."""
    start = records.Start(
        stream_key=KEY,
        beamtime="c20261122",
        detector="lambda",
        stream="scan é",
        created_ns=1_795_000_000_000_000_000,
        partitions=2,
        frames_per_chunk=4,
        offsets=(5, 0),
        modules=(
            Module(index=0, shape=(2, 3), position=(0, 0)),
            Module(index=3, shape=(2, 3), position=(0, 4), rotation_deg=90.0),
        ),
        rate_hz=200.0,
        expected=1000,
        metadata={"energy_eV": 12000, "sample": "é", "list": [1, None]},
        run={"adapter": "files"},
        lineage={"group": "g"},
        writer="host:1",
        nonce="01020304",
    )
    shared = {"stream_key": KEY, "nonce": "01020304"}
    found = [
        segment(),
        records.Mark(
            epoch=3,
            module=1,
            floor=-1,
            ceil=14,
            kind="closing",
            member="m1",
            skipped=np.array([1, 2], np.int64),
            rejected=np.array([3], np.int64),
            **shared,
        ),
        records.Pointer(
            stream_key=KEY,
            number=7,
            attempt=2,
            due_ms=1_795_000_000_000,
            group="g",
            member="host:1",
            reason="because",
            trace="Traceback ...",
        ),
        start,
        records.Claim(
            module=1,
            epoch=3,
            holder="host:1",
            instance="files@host",
            closing=True,
            reopen=True,
            **shared,
        ),
        records.End(
            module=1,
            epoch=3,
            state="complete",
            offsets=(8, 2),
            expected=1000,
            account={"received": 1000},
            **shared,
        ),
        records.ManifestRef(
            epoch=3,
            part=-1,
            key="b/d/manifest/seal",
            offsets=(8, 2),
            frames=1000,
            account={"received": 1000},
            **shared,
        ),
        records.UserMetadata(
            metadata={"sample": "x"},
            quarantined=({"source": "a.cbf", "reason": "cut short"},),
            **shared,
        ),
        records.Attachment(name="mask", key="b/d/mask.npy", **shared),
        records.Deleted(
            by="host:1",
            at_ns=123,
            reason="older than 30d",
            policy="0000beef",
            seal="b/d/manifest/seal-00000003-nonce.avro",
            offsets=(7, 8),
            frames=9,
            objects=3,
            nbytes=4096,
            archive="s3://archive/2026",
            receipt="ab" * 32,
            **shared,
        ),
        Policy(
            nonce="0000beef",
            previous="0000cafe",
            by="host:1",
            at_ns=123,
            records_age_s=3600.5,
            age_s=86400.0,
            nbytes=2 * 10**12,
            hold=("lambda/*", "eiger/scan_1"),
            archive="file:///archive",
        ),
        records.Seal(
            epoch=3,
            start=b"start",
            ends=(b"end 0", b"end 1"),
            metadata={"sample": "x"},
            attachments={"mask": "b/d/mask.npy"},
            quarantined=({"source": "a.cbf", "reason": "cut short"},),
            account={"received": 1000},
            frames=1000,
            parts=(
                {
                    "key": "b/d/manifest/part",
                    "epoch": 3,
                    "nonce": "01020304",
                    "part": 0,
                    "nbytes": 100,
                    "header_nbytes": 50,
                    "header_sha256": bytes(32),
                    "records": 10,
                    "frames": 1000,
                    "starts": [5, 0],
                    "stops": [8, 2],
                    "first_numbers": [0, -1],
                    "last_numbers": [999, -1],
                },
            ),
            **shared,
        ),
    ]
    return {type(record): record for record in found}


def plain(value: Any) -> Any:
    """Return a record (or part of one) as something that ``==`` compares, types included."""
    if isinstance(value, np.ndarray):
        return value.dtype.newbyteorder("=").str, value.tolist()
    if isinstance(value, (records.Column, *samples())):
        return type(value).__name__, {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, (tuple, list)):
        return [plain(entry) for entry in value]
    return value

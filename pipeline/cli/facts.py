"""What ``streams`` and ``show`` say about a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.records import StreamInfo
    from pipeline.session import Session, StreamSummary
    from pipeline.stream import Stream


def summary_facts(session: Session, summary: StreamSummary) -> dict[str, Any]:
    """Return one entry of ``streams --json``; of an open stream what is known so far."""
    name = summary.name
    with session.stream(name.beamtime, name.detector, name.stream) as stream:
        return stream_facts(stream)


def stream_facts(stream: Stream) -> dict[str, Any]:
    """Return name, state, size and times of a stream; reads all its records."""
    table = stream.table()
    account = stream.account()
    rows = table.merged().rows
    times = table.timestamps_ns[rows]
    info = stream.info
    start = info.start
    return {
        "stream": str(stream.name),
        "state": info.state,
        "frames": account["received"],
        "first_ns": int(times.min()) if len(times) else None,
        "last_ns": int(times.max()) if len(times) else None,
        "nbytes": int(table.nbytes[rows].sum()),
        "created_ns": start.created_ns,
        "expected": info.expected,
        "complete": account["complete"],
        "sealed": info.seal is not None,
        "rate_hz": start.rate_hz,
        "modules": len(start.modules),
        "writer": writer_of(info),
    }


def writer_of(info: StreamInfo) -> str:
    """Return who holds the stream now, or held it last."""
    holders = [state.claim.holder for state in info.modules.values() if state.claim is not None]
    return ", ".join(dict.fromkeys(holders)) or info.start.writer


def details(session: Session, stream: Stream) -> dict[str, Any]:
    """Return everything ``show`` says."""
    info = stream.info
    start = info.start
    return {
        **stream_facts(stream),
        "key": start.stream_key.hex(),
        "opened_by": start.writer,
        "claims": [
            {
                "module": module,
                "epoch": state.claim.epoch,
                "holder": state.claim.holder,
                "instance": state.claim.instance,
                "closing": state.claim.closing,
            }
            for module, state in sorted(info.modules.items())
            if state.claim is not None
        ],
        "partitions": start.partitions,
        "frames_per_chunk": start.frames_per_chunk,
        "topic": session.services.names.topic(start.beamtime, start.detector),
        "broker": session.settings.kafka.bootstrap or None,
        "store": session.services.store.url,
        "prefix": session.services.prefix(info),
        "manifest": info.seal.key if info.seal else None,
        "metadata": _plain(stream.metadata),
        "run": _plain(start.run),
        "lineage": _plain(start.lineage),
        "module_layout": [asdict(module) for module in start.modules],
        "attachments": sorted(info.attachments),
        "account": dict(stream.account()),
    }


def metadata_rows(metadata: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, value and unit of each value; units are in ``units`` or end the names."""
    units = metadata.get("units")
    known = units if isinstance(units, dict) else {}
    return [
        (name, _short(value), str(known.get(name, "")))
        for name, value in sorted(metadata.items())
        if name != "units"
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _plain(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return dict(mapping)

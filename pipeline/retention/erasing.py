"""Erasing a stream with a receipt: who, when, which objects, and what the account said."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InvalidArgumentError, SinkError
from pipeline.publishing import deleting
from pipeline.publishing.claims import holder
from pipeline.records import StreamInfo
from pipeline.retention.policies import require_broker
from pipeline.services import Services
from pipeline.wire.catalogue import stream_id

#: What the receipt's form is called; it changes when the fields do.
FORM = "lichtstrom-erase-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What an erase did: objects removed, and records of its that are still on the topic."""

    stream: str
    objects: int
    nbytes: int
    records_left: int
    receipt: dict[str, Any]


def erase(
    services: Services,
    infos: Sequence[StreamInfo],
    *,
    force: bool = False,
    receipt: Path | None = None,
) -> list[Erased]:
    """Delete streams of one beamtime: mark all as gone, trim their records, remove their objects.

    Parameters
    ----------
    force:
        Also what is being written: its writer is stopped.
    receipt:
        Of one stream only: file for the receipt, JSON.  It is begun before anything goes: the
        same command again finishes what was killed.

    Records between those of streams that still need theirs cannot be deleted alone: nobody can
    reach them any more, and `retention apply` trims them when that is possible.

    Raises
    ------
    WriterActiveError
        One is being written; those before it are gone or about to go, like after a crash.
    InvalidArgumentError
        A stream is held, or the file of the receipt exists.
    SinkError
        The receipt cannot be written; nothing was deleted then.
    """
    require_broker(services)
    if receipt is not None and receipt.exists():
        raise InvalidArgumentError("receipt", f"{receipt} exists: name another file")
    if receipt is not None and len(infos) != 1:
        raise InvalidArgumentError("receipt", f"is of one stream, these are {len(infos)}")
    marked: list[tuple[StreamInfo, dict[str, Any]]] = []
    try:
        for info in infos:
            deleting.stop_writers(services, info, force=force)
            body = _body(services, info)
            if receipt is not None:
                _write(_begun(receipt), body)
            _mark(services, info, body, receipt="" if receipt is None else body["sha256"])
            marked.append((info, body))
    finally:
        done = _finish(services, marked, receipt)
    return done


def _mark(services: Services, info: StreamInfo, body: Mapping[str, Any], *, receipt: str) -> None:
    deleting.mark(
        services,
        info,
        by=body["erased_by"],
        at_ns=body["erased_at_ns"],
        objects=body["objects_count"],
        nbytes=body["nbytes"],
        receipt=receipt,
    )


def resume(services: Services, beamtime: str, receipt: Path) -> Erased | None:
    """Finish an erase that was killed; None if none was begun with this receipt.

    Raises InvalidArgumentError if the file is not what it should be.
    """
    begun = _begun(receipt)
    if receipt.exists() or not begun.exists():
        return None
    require_broker(services)
    try:
        body = json.loads(begun.read_text())
    except ValueError:
        body = {}
    if not isinstance(body, dict) or not check_receipt(body):
        raise InvalidArgumentError("receipt", f"{begun} is not a receipt, or was changed")
    info = services.catalogue(beamtime).look().by_key(bytes.fromhex(body["stream_id"]))
    if info is None or not info.deleted:
        return None  # it died before anything went: begin anew
    (done,) = _finish(services, [(info, body)], receipt)
    return done


def _finish(
    services: Services,
    marked: Sequence[tuple[StreamInfo, dict[str, Any]]],
    receipt: Path | None,
) -> list[Erased]:
    """Trim the records of streams that are marked as gone, and remove their objects."""
    left = deleting.trim_gone(services, [info for info, _ in marked])
    done = []
    for info, body in marked:
        deleting.remove_blobs(services, services.prefix(info))
        if receipt is not None:
            _begun(receipt).replace(receipt)
        done.append(
            Erased(
                stream=str(stream_id(info)),
                objects=body["objects_count"],
                nbytes=body["nbytes"],
                records_left=left[info.start.stream_key],
                receipt=body,
            )
        )
    return done


def _body(services: Services, info: StreamInfo) -> dict[str, Any]:
    """Return the receipt of an erase that begins now, signed by its SHA-256."""
    objects = {blob.key: blob.nbytes for blob in services.store.list(services.prefix(info))}
    account = dict(info.seal.account) if info.seal is not None else {}
    body: dict[str, Any] = {
        "form": FORM,
        "stream": str(stream_id(info)),
        "stream_id": info.start.stream_key.hex(),
        "created_ns": info.start.created_ns,
        "state": info.state,
        "erased_by": f"{_user()}@{holder()}",
        "erased_at_ns": time.time_ns(),
        "store": services.store.url,
        "topic": services.names.topic(info.start.beamtime, info.start.detector),
        "objects_count": len(objects),
        "nbytes": sum(objects.values()),
        "objects": [{"key": key, "nbytes": n} for key, n in sorted(objects.items())],
        "account": account,
        "account_sha256": _digest(account),
        "lineage": dict(info.start.lineage),
    }
    return {**body, "sha256": _digest(body)}


def check_receipt(body: Mapping[str, Any]) -> bool:
    """Whether a receipt is whole: its SHA-256 is that of everything else in it.

    The digest is over the JSON text with sorted keys, without spaces, in UTF-8.
    """
    rest = {name: value for name, value in body.items() if name != "sha256"}
    return body.get("form") == FORM and body.get("sha256") == _digest(rest)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())


def _digest(value: Mapping[str, Any] | Sequence[Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _begun(receipt: Path) -> Path:
    return receipt.with_name(f"{receipt.name}.begun")


def _write(path: Path, body: Mapping[str, Any]) -> None:
    part = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump(body, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SinkError(f"{path}: {os.strerror(error.errno or 0)}: nothing was deleted") from error

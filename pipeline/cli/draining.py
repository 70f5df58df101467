"""Publishing what dead writers left in a spool."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError, SpoolError, TopicMissingError, WriterActiveError
from pipeline.publishing.spool import SpoolFolder, left_behind
from pipeline.publishing.window import Role
from pipeline.records import Start
from pipeline.wire.codec import from_plain

if TYPE_CHECKING:
    from pipeline.naming import StreamId
    from pipeline.publisher import Publisher
    from pipeline.records import StreamInfo
    from pipeline.session import Session

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What became of one stream's spool; ``problem`` is empty if all of it was published."""

    stream: str
    segments: int
    state: str
    problem: str = ""


def drain(session: Session, root: Path, *, timeout_s: float) -> Iterator[Drained]:
    """Publish stream by stream; one that cannot be does not keep the others from it."""
    folders: dict[StreamId, list[SpoolFolder]] = {}
    for folder in left_behind(root):
        folders.setdefault(folder.name, []).append(folder)
    for name, found in folders.items():
        segments = sum(len(folder.files()) for folder in found)
        try:
            state = _drain_stream(session, root, name, found, timeout_s)
        except PipelineError as error:
            left = sum(len(folder.files()) for folder in left_behind(root, name))
            yield Drained(stream=str(name), segments=segments - left, state="", problem=str(error))
        else:
            yield Drained(stream=str(name), segments=segments, state=state)


def _drain_stream(
    session: Session, root: Path, name: StreamId, folders: list[SpoolFolder], timeout_s: float
) -> str:
    """Publish what waits for one stream, and leave it ended or open as it was."""
    if not any(folder.files() for folder in folders):
        for folder in folders:
            folder.remove()  # its writer died after the last frame was published
        return "empty"
    _refuse_deleted(session, name, folders)
    info = _known(session, name)
    # Kept now: the catalogue's own view of the stream changes as it is reopened.
    state, expected = (info.state, info.expected) if info is not None else ("open", None)
    ended = state != "open"
    try:
        out = _open(session, root, name, folders, reopen=ended, role=None)
    except WriterActiveError:
        # Its writer goes on; these frames are added under the claim that it holds.
        out = _open(session, root, name, folders, reopen=False, role=Role(drains=True))
    try:
        out.flush(timeout_s)
        if ended:
            out.end(state, expected=expected, timeout_s=timeout_s)
        else:
            out.close(timeout_s)
    finally:
        out.abandon()
    return state


def _refuse_deleted(session: Session, name: StreamId, folders: list[SpoolFolder]) -> None:
    try:
        catalogue = session.services.catalogue(name.beamtime).look()
    except TopicMissingError:
        return
    for folder in folders:
        found = catalogue.by_key(folder.stream_key)
        if found is not None and found.deleted:
            raise SpoolError(
                f"spool {folder.path} is of a stream that was deleted: remove the folder, if nobody"
                " wants its frames"
            )


def _known(session: Session, name: StreamId) -> StreamInfo | None:
    try:
        return session.services.catalogue(name.beamtime).look().find(name.detector, name.stream)
    except TopicMissingError:
        return None


def _open(
    session: Session,
    root: Path,
    name: StreamId,
    folders: list[SpoolFolder],
    *,
    reopen: bool,
    role: Role | None,
) -> Publisher:
    """Open the stream, which takes over what is in the spool; start it if nobody could so far."""
    start, frames_per_chunk = _start(folders[0])
    first = next(folder.read(file) for folder in folders for file in folder.files())
    return session.publish(
        name.beamtime,
        name.detector,
        name.stream,
        rate_hz=start.rate_hz,
        metadata=start.metadata,
        modules=start.modules,
        expected=start.expected,
        frames_per_chunk=frames_per_chunk or None,
        frame_nbytes=max(1, len(first.payload) // max(1, len(first))),
        run=start.run,
        lineage=start.lineage,
        reopen=reopen,
        role=role,
        spool=str(root),
    )


def _start(folder: SpoolFolder) -> tuple[Start, int]:
    """Return what the writer of a folder knew of its stream, and the chunk length if it did."""
    try:
        plain = folder.facts["start"]
        known = {**plain, "stream_key": bytes.fromhex(plain["stream_key"])}
        if not plain["partitions"]:  # it was never opened: how it is spread is decided now
            known |= {"partitions": 1, "offsets": [0]}
            known["frames_per_chunk"] = plain["frames_per_chunk"] or 1
        return from_plain(Start, known), int(plain["frames_per_chunk"])
    except (KeyError, TypeError, ValueError) as error:
        raise SpoolError(f"spool {folder.path}: stream.json is damaged ({error!r})") from error

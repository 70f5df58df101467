"""Runs of a group's derived stream: a reset begins a new one (design section 5.6).

The stream of a run is named as its source, from the second run on with ``.r2``, ``.r3``, ... .  A
stream that has a later run says so in its metadata, under ``next_run``; workers follow that.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.naming import StreamId, new_nonce
from pipeline.publishing import claims, ending
from pipeline.records import Start, StreamInfo, UserMetadata
from pipeline.services import Services

#: Metadata of a derived stream: the name of the run that took its place.
NEXT_RUN = "next_run"


def current(services: Services, base: StreamId) -> tuple[StreamId, int]:
    """Return the name of a derived stream's newest run and which one that is, from 1."""
    name, run = base, 1
    state = services.catalogue(base.beamtime).look()
    while True:
        info = state.find(name.detector, name.stream)
        following = info.metadata.get(NEXT_RUN) if info is not None else None
        if following is None:
            return name, run
        name, run = replace(name, stream=str(following)), run + 1


def outputs(services: Services, source: Start, group: str) -> list[StreamInfo]:
    """Return the newest run of each derived stream that a group has made of ``source``."""
    key = source.stream_key.hex()
    return [
        info
        for info in services.catalogue(source.beamtime).look().streams()
        if (info.start.lineage.get("source_id"), info.start.lineage.get("group")) == (key, group)
        and NEXT_RUN not in info.metadata
    ]


def begin_next(services: Services, info: StreamInfo) -> StreamId:
    """End a run and name the one that the group's workers write from now on.

    The stream of the new run is made by the first worker, with the version of its code.
    """
    start = info.start
    run = int(start.lineage.get("run", 1)) + 1  # type: ignore[arg-type]  # written by workers
    source = StreamId.parse(str(start.lineage["source"])).stream
    name = replace(claims.name_of(start), stream=f"{source}.r{run}")
    note = UserMetadata(
        stream_key=start.stream_key, nonce=new_nonce(), metadata={NEXT_RUN: name.stream}
    )
    services.catalogue(start.beamtime).append(note)
    if info.state == "open":
        ending.end_abandoned(services, info, state="aborted", takeover=True)
    return name


def reopen(services: Services, info: StreamInfo, group: str) -> None:
    """Let the group's workers add to a derived stream that has ended."""
    claim = claims.claim(services, info, 0, instance=instance_of(group), reopen=True)
    claims.resume(services, info, claim)


def instance_of(group: str) -> str:
    """Return in whose name a group's derived streams are claimed."""
    return f"group:{group}"

"""From a name to a window that sends: start or continue a stream, claim it, read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config import PublishSettings
from pipeline.errors import InvalidFrameError, StreamExistsError
from pipeline.publishing import claims, trimmed
from pipeline.publishing.claims import Held
from pipeline.publishing.draft import Draft, known_frames
from pipeline.publishing.floors import Progress
from pipeline.publishing.tally import Known
from pipeline.publishing.window import Role, Window
from pipeline.records import NO_CEIL, Start, StreamInfo
from pipeline.services import Services


@dataclass(frozen=True, slots=True, kw_only=True)
class Claiming:
    """How a writer takes a stream (see ``Session.publish``)."""

    reopen: bool = False
    takeover: bool = False
    instance: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A stream that this writer may write."""

    info: StreamInfo
    held: Mapping[int, Held]
    progress: Mapping[int, Progress]
    window: Window
    #: The number after the highest that was ever sent.
    following: int

    def epoch(self, module: int) -> int:
        """Return the epoch under which a module is written."""
        return self.held[module].claim.epoch


def needs_frame(services: Services, start: Start, frame_nbytes: int | None) -> bool:
    """Whether a new stream has to wait for its first frame: the chunk length follows from it."""
    if start.rate_hz or start.frames_per_chunk or frame_nbytes:
        return False
    catalogue = services.catalogue(start.beamtime)
    return catalogue.look().find(start.detector, start.stream) is None


def open_stream(
    services: Services,
    start: Start,
    settings: PublishSettings,
    *,
    modules: Sequence[int],
    claiming: Claiming,
    role: Role,
    frame_nbytes: int | None,
    known: Known,
    on_confirmed: Callable[[Sequence[Any], int], None],
    on_released: Callable[[Draft], None],
    on_safe: Callable[[list[Draft]], object],
) -> Opened:
    """Start or continue the stream, and get ready to send.

    Raises what :func:`pipeline.publishing.claims.claim` raises.
    """
    name = claims.name_of(start)
    frames = start.frames_per_chunk or claims.default_frames_per_chunk(
        rate_hz=start.rate_hz, frame_nbytes=frame_nbytes, segment_nbytes=settings.segment_nbytes
    )
    partitions = claims.ensure_topics(services, name)
    wanted = replace(start, partitions=partitions, frames_per_chunk=frames)
    info = claims.find_or_start(services, wanted)
    if settings.durability == "disk":
        topic = services.names.topic(name.beamtime, name.detector)
        services.admin.flush_every_record(topic)
    held, progress = {}, {}
    for module in modules:
        if module not in info.start.module_indices:
            raise InvalidFrameError("module", f"{name} has no module {module}")
        ours = held[module] = _hold(services, info, module, claiming, role)
        progress[module] = Progress(info.start.partitions, hole_wait_s=settings.hole_wait_s)
        present = list(known_frames(ours.records, module))
        progress[module].resume(ours.floor, ours.ceils, [number for number, *_ in present])
        known.update(module, present)
    window = Window(
        services,
        info,
        held,
        progress,
        settings,
        role=role,
        on_confirmed=on_confirmed,
        on_released=on_released,
        on_safe=on_safe,
    )
    window.start()
    following = max(ceil for p in progress.values() for ceil in (p.highest, *p.ceils)) + 1
    return Opened(info=info, held=held, progress=progress, window=window, following=following)


def _hold(
    services: Services, info: StreamInfo, module: int, claiming: Claiming, role: Role
) -> Held:
    current = info.modules[module].claim
    joins = role.drains or (
        bool(role.member) and current is not None and current.instance == claiming.instance
    )
    if joins and current is not None and not current.closing:
        if info.state != "open":
            raise StreamExistsError(claims.name_of(info.start), info.state)
        # Written under somebody else's claim: a group's, or the writer's that spooled.
        offsets = list(info.start.offsets)
        ceils = _ceils(services, info, module) if role.drains else [NO_CEIL] * len(offsets)
        return Held(claim=current, marks=offsets, ceils=ceils)
    claim = claims.claim(
        services,
        info,
        module,
        instance=claiming.instance,
        reopen=claiming.reopen,
        takeover=claiming.takeover,
    )
    return claims.resume(services, info, claim)


def _ceils(services: Services, info: StreamInfo, module: int) -> list[int]:
    """Return what was sent to each partition, so that a drained spool's ceils do not fall."""
    reader = services.log(info)
    try:
        limit_s = services.settings.kafka.timeout_s
        return trimmed.progress(services, reader, module, timeout_s=limit_s)[1]
    finally:
        reader.close()

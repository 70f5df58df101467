"""Which frames of a PCO camera belong together: the images of files become events.

The counter in the pixels begins again at 1 whenever the camera is armed, and nothing else tells: a
counter that does not go on although time does is a new series.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pipeline.detectors.files import FoundFile
from pipeline.detectors.pco.wire import Image, Stamp
from pipeline.detectors.watch import ReadyFile
from pipeline.frame import AttributeValue, FrameHeader
from pipeline.protocols import (
    AdapterEvent,
    PlacedFrame,
    Quarantined,
    SeriesBegin,
    SeriesEnd,
    SourceFile,
    SourceFrame,
)

log = logging.getLogger(__name__)
#: Frames whose origin is remembered, to tell a repeated one; files come late by far fewer.
_REMEMBERED = 4096
_MAX_NOTES = 1000

NumberSource = Literal["stamp", "file", "page"]
#: Number of the file, and of the page in it.
Place = tuple[int, int]


@dataclass(slots=True, eq=False)
class Token:
    """A file that is let go when all parts of it are confirmed.

    ``spoilt``: something in it was not published, so it must stay.
    """

    file: ReadyFile
    parts: int = 0
    spoilt: bool = False


@dataclass(slots=True, eq=False)
class _Taken:
    """What was taken from a file that may grow."""

    stamp: Stamp | None
    count: int
    token: Token

    def is_same(self, file: ReadyFile, stamp: Stamp | None, count: int) -> bool:
        """Tell whether this is that file, seen again or grown, rather than its name used again."""
        if stamp is None and count <= self.count:
            return file == self.token.file
        return stamp == self.stamp and count >= self.count


@dataclass(slots=True, kw_only=True)
class Arm:
    """The frames since the camera was armed, or files without stamps.

    Parameters
    ----------
    source:
        Where the frame numbers come from.
    first, since_ns:
        Number and time of the first frame that was seen.
    first_at, newest_at:
        Where the first and the newest frame were.
    """

    source: NumberSource
    first: int
    since_ns: int
    first_at: Place
    layout: tuple[tuple[int, int], str]
    newest: int = -1
    newest_ns: int = -1
    newest_at: Place = (-1, -1)
    #: number -> time and place (file and page) of recent frames
    origins: OrderedDict[int, tuple[int, str]] = field(default_factory=OrderedDict)

    def is_over(self, number: int, timestamp_ns: int, at: Place) -> bool:
        """Tell whether a frame proves that the camera was armed again.

        Its counter does not go on although time or the files do.  Both are asked: a clock may be
        set back, and names may be used again.
        """
        known = self.origins.get(number)
        if known is not None and known[0] == timestamp_ns:
            return False
        return number <= self.newest and (timestamp_ns > self.newest_ns or at > self.newest_at)

    def is_after(self, number: int, timestamp_ns: int, at: Place) -> bool:
        """Tell whether a frame that came late belongs to the series before this one."""
        return at < self.first_at and timestamp_ns < self.since_ns and number >= self.first

    def is_repeated(self, number: int, timestamp_ns: int, origin: str) -> bool:
        """Tell whether the same frame has come from another place."""
        known = self.origins.get(number)
        return known is not None and known[0] == timestamp_ns and known[1] != origin

    def add(self, number: int, timestamp_ns: int, at: Place, origin: str) -> None:
        """Remember a frame that is published."""
        if timestamp_ns >= self.newest_ns or at > self.newest_at:
            self.newest, self.newest_ns, self.newest_at = number, timestamp_ns, at
        self.origins[number] = (timestamp_ns, origin)
        if len(self.origins) > _REMEMBERED:
            self.origins.popitem(last=False)


class PcoSeries:
    """The files of one name, and the series that their images make.

    Parameters
    ----------
    key:
        Under which all events go.
    keeps:
        Whether published files stay, so that a restarted adapter sees the first frame again.
    """

    def __init__(self, key: str, *, keeps: bool) -> None:
        self._key = key
        self._keeps = keeps
        self._arm: Arm | None = None
        self._notes: list[Quarantined] = []
        self._counts: dict[str, int] = {}
        self._taken: OrderedDict[str, _Taken] = OrderedDict()

    def take(
        self,
        found: FoundFile,
        images: Sequence[Image],
        *,
        source: str,
        facts: Mapping[str, AttributeValue],
        software: str = "",
    ) -> Iterator[AdapterEvent]:
        """Yield what the images of one file give.

        Parameters
        ----------
        source:
            The file's name in messages.
        facts:
            By what files of this name are found again.
        software:
            What the file says about its writer.
        """
        whole = len(images) == 1 and found.extension != ".pcoraw"
        token, images = self._not_taken(found, images)
        placed: list[PlacedFrame] = []
        events: list[AdapterEvent] = []
        for image in images:
            place = source if whole else f"{source}#{image.page}"
            frame, before, note = self._sort(found, image, place, facts, software, whole=whole)
            if before and placed:
                events.append(self._file(found, placed, source))
                placed = []
            events += before
            if note:
                events.append(Quarantined(series=self._key, source=place, reason=note))
            elif frame is not None:
                placed.append(frame)
        if placed:
            events.append(self._file(found, placed, source, whole=whole))
        yield from self._with_tokens(events, token)

    def note(self, note: Quarantined) -> Iterator[AdapterEvent]:
        """Yield a note once it is known which series it belongs to."""
        if self._arm is not None:
            yield note
        elif len(self._notes) < _MAX_NOTES:
            self._notes.append(note)

    def end(self, facts: Mapping[str, AttributeValue]) -> Iterator[AdapterEvent]:
        """Yield the end; before it, what had to wait for a first frame that never came."""
        if self._arm is None and not self._notes:
            return  # nothing but empty images
        if self._arm is None:
            yield SeriesBegin(series=self._key, run=facts)
            yield from self._notes
        yield self._ended()

    def _ended(self) -> SeriesEnd:
        counts, self._counts, self._arm = dict(self._counts), {}, None
        return SeriesEnd(series=self._key, metadata=counts)

    # -- one image ------------------------------------------------------------------------------

    def _sort(
        self,
        found: FoundFile,
        image: Image,
        place: str,
        facts: Mapping[str, AttributeValue],
        software: str,
        *,
        whole: bool,
    ) -> tuple[PlacedFrame | None, list[AdapterEvent], str]:
        """Return the frame, what happens before it, and why there is no frame."""
        if image.empty:
            self._count("empty_frames")
            return None, [], ""
        if image.problem and not (whole and image.encoding):
            return None, [], image.problem
        number, time_ns, origin = self._numbered(found, image, whole=whole)
        at = (found.number, image.page)
        arm, before = self._arm, list[AdapterEvent]()
        if arm is not None and arm.source == "stamp":
            if image.stamp is None:
                self._count("unstamped")
                return None, [], "no time stamp in its pixels, unlike the frames before"
            if arm.is_repeated(number, time_ns, place):
                self._count("repeated")
                # the same to the microsecond: nothing is missing without it
                log.warning("frame again number=%d source=%s", number, place)
                return None, [], ""
            if arm.is_after(number, time_ns, at):
                return None, [], f"frame {number} of the series before, which has ended"
        if arm is not None and self._is_over(arm, origin, number, time_ns, at):
            before.append(self._ended())
            arm = None
        if arm is None:
            arm = self._arm = Arm(
                source=origin,
                first=number,
                since_ns=time_ns,
                first_at=at,
                layout=(image.shape, image.dtype),
            )
            before += self._begun(arm, found, facts, software)
        if arm.layout != (image.shape, image.dtype):
            return None, before, f"{image.shape} {image.dtype} in a series of {arm.layout}"
        arm.add(number, time_ns, at, place)
        return self._placed(found, image, number, time_ns, whole=whole), before, ""

    @staticmethod
    def _numbered(found: FoundFile, image: Image, *, whole: bool) -> tuple[int, int, NumberSource]:
        if image.stamp is not None:
            return image.stamp.counter, image.stamp.timestamp_ns, "stamp"
        time_ns = max(0, found.token.mtime_ns)
        return (found.number, time_ns, "file") if whole else (image.page, time_ns, "page")

    @staticmethod
    def _is_over(arm: Arm, origin: NumberSource, number: int, time_ns: int, at: Place) -> bool:
        if origin != arm.source:
            return True
        if origin == "page":  # nothing joins the pages of two files
            return at[0] != arm.newest_at[0]
        return origin == "stamp" and arm.is_over(number, time_ns, at)

    def _begun(
        self, arm: Arm, found: FoundFile, facts: Mapping[str, AttributeValue], software: str
    ) -> list[AdapterEvent]:
        run, late = dict(facts), False
        if arm.source == "page":
            run["file"] = found.token.path
        elif arm.source == "stamp":
            # kept files are all read again, and tell the same once more; deleted ones cannot
            late = arm.first > 1 and not self._keeps
            run.update({} if late else {"first_stamp_ns": arm.since_ns})
        metadata: dict[str, AttributeValue] = {"number_source": arm.source}
        if arm.source == "stamp":
            metadata["timestamp_is"] = "end of exposure"
        if software:
            metadata["software"] = software
        begin = SeriesBegin(
            series=self._key,
            name=found.prefix.strip("_-. ") or None,
            metadata=metadata,
            run=run,
            late=late,
        )
        notes, self._notes = self._notes, []
        return [begin, *notes]

    @staticmethod
    def _placed(
        found: FoundFile, image: Image, number: int, time_ns: int, *, whole: bool
    ) -> PlacedFrame:
        attributes: dict[str, AttributeValue] = {"file_number": found.number}
        if not whole:
            attributes["page"] = image.page
        header = FrameHeader(
            number=number,
            timestamp_ns=time_ns,
            shape=image.shape,
            dtype=image.dtype,
            encoding=image.encoding if whole else "raw",
            attributes=attributes,
        )
        return PlacedFrame(header=header, offset=image.offset or 0, nbytes=image.nbytes)

    def _count(self, name: str) -> None:
        self._counts[name] = self._counts.get(name, 0) + 1

    # -- one file -------------------------------------------------------------------------------

    def _file(
        self, found: FoundFile, frames: list[PlacedFrame], source: str, *, whole: bool = False
    ) -> AdapterEvent:
        if whole:
            return SourceFrame(
                series=self._key, header=frames[0].header, payload=found.payload, source=source
            )
        return SourceFile(
            series=self._key, payload=found.payload, frames=tuple(frames), source=source
        )

    def _not_taken(
        self, found: FoundFile, images: Sequence[Image]
    ) -> tuple[Token, Sequence[Image]]:
        """Return the file's token, and its images but for those that were taken before it grew."""
        path, first = found.token.path, images[0].stamp
        known = self._taken.get(path)
        if known is None or not known.is_same(found.token, first, len(images)):
            known = self._taken[path] = _Taken(first, 0, Token(found.token))
        images, known.count = images[known.count :], len(images)
        token = known.token
        token.file = found.token
        if len(self._taken) > _REMEMBERED:
            self._taken.popitem(last=False)
        return token, images

    @staticmethod
    def _with_tokens(events: list[AdapterEvent], token: Token) -> Iterator[AdapterEvent]:
        """Give the file's token to its parts, unless something in it was not published."""
        token.spoilt |= any(isinstance(event, Quarantined) for event in events)
        token.parts += sum(isinstance(event, SourceFrame | SourceFile) for event in events)
        for event in events:
            if isinstance(event, SourceFrame | SourceFile):
                yield replace(event, token=token)
            else:
                yield event

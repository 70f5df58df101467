"""PerkinElmer and Varex flat panels: the files of QXRD and XIS, read on the PC or over a share.

An image of QXRD is complete with its sidecar, which is written after it.  What a sidecar says
becomes attributes; ``docs/detectors/perkinelmer.md`` lists them.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pipeline.codecs import byte_view
from pipeline.detectors.files import FilesAdapter, FileSeries, FoundFile, Waiting
from pipeline.detectors.options import Option
from pipeline.detectors.perkinelmer import wire
from pipeline.detectors.reading import FileHeader, Reader, map_file, read_file
from pipeline.detectors.timezones import timezone_of
from pipeline.detectors.watch import ReadyFile, look
from pipeline.errors import InvalidArgumentError, InvalidFrameError
from pipeline.frame import Buffer, FrameHeader
from pipeline.protocols import AdapterEvent, PlacedFrame, SeriesEnd, SourceFile, SourceFrame

log = logging.getLogger(__name__)

PATTERNS = "*.tif,*.tiff,*.his,*.metadata,*.overflow"
_IMAGES = (".tif", ".tiff")
#: Sidecars of 2.5 MB were seen.  Of a larger one only both ends are read: the facts come first in
#: a new file, and last in one that Qt has sorted.
_MAX_SIDECAR = 16 << 20
_EDGE = 64 << 10
#: Images whose sidecar is remembered, to tell a late one.
_REMEMBERED = 20_000
_MAPPED_NBYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and the sidecar that was read with it; both go together."""

    image: ReadyFile
    sidecar: ReadyFile | None = None


class PerkinElmerAdapter(FilesAdapter):
    """Watches the directory where QXRD or XIS put their files.

    Parameters
    ----------
    timezone:
        Where the PC's clock is, for dates without a zone: ``local`` (of this machine), ``UTC``, or
        a name like ``Europe/Berlin``.
    sidecars:
        Whether every TIFF has a sidecar; an image waits ``grace_s`` for it.
    digits:
        How many digits a counter in a file name has at least.
    grace_s:
        How long an image waits for its sidecar, and an unreadable file may stay unchanged.
    settings:
        As for :class:`pipeline.detectors.files.FilesAdapter`.
    """

    name = "perkinelmer"
    #: A Windows program keeps its file visible while it writes.
    stable_s: ClassVar[float] = 1.0
    varying: ClassVar[frozenset[str]] = frozenset(
        (
            "image_number",
            "phase_number",
            "date_string",
            "time_stamp",
            "time_source",
            "file_name",
            "file_base",
            "title",
            "image_saved",
            "normalization",
            "extra_inputs",
            "used",
            "phase",
            "retake",
            "ambiguous_counter",
            "sidecar",
            "sidecar_nbytes",
            "user_comment1",
            "user_comment2",
            "user_comment3",
            "user_comment4",
        )
    )

    def __init__(
        self,
        *,
        timezone: str = "local",
        sidecars: bool = True,
        digits: int = 5,
        patterns: str | Sequence[str] = PATTERNS,
        grace_s: float = 10.0,
        **settings: Any,
    ) -> None:
        if not 1 <= digits <= 18:
            raise InvalidArgumentError("digits", f"{digits} is outside 1 to 18")
        self._timezone = timezone_of(timezone)
        self._sidecars = sidecars
        self._digits = digits
        #: Images that are published without their sidecar, or with a broken one, for good.
        self._given_up: dict[str, str] = {}
        self._lacking: dict[str, str] = {}
        #: Images that are published, and whether their sidecar has come.
        self._done: OrderedDict[str, tuple[ReadyFile, bool]] = OrderedDict()
        #: Sidecars without an image, and since when.
        self._lone: dict[str, float] = {}
        self._counts: dict[str, dict[str, int]] = {}
        super().__init__(patterns=patterns, grace_s=grace_s, **settings)

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set."""
        own = {
            "patterns": Option(
                name="patterns",
                default=PATTERNS,
                help="names of files, separated by commas",
                unit="GLOBS",
            ),
            "grace_s": Option(
                name="grace_s",
                type=float,
                default=10.0,
                help="how long an image waits for its sidecar, and a bad file to be quarantined",
                unit="SECONDS",
            ),
        }
        inherited = [own.get(option.name, option) for option in super().options()]
        return [
            *(option for option in inherited if option.name != "name_pattern"),
            Option(
                name="timezone",
                default="local",
                help="where the PC's clock is: local, UTC, or a name like Europe/Berlin",
                unit="ZONE",
            ),
            Option(
                name="sidecars",
                type=bool,
                default=True,
                help="every TIFF has a .metadata file, and waits for it",
            ),
            Option(
                name="digits",
                type=int,
                default=5,
                help="digits that a counter in a file name has at least",
                unit="N",
            ),
        ]

    def readers(self) -> Mapping[str, Reader]:
        """Return no readers: an image and its sidecar are read together."""
        return {}

    def acknowledge(self, tokens: Sequence[Any]) -> None:
        """Keep, delete or move images, each with its sidecar."""
        for pair in tokens:
            super().acknowledge([pair.image])
            self._done.pop(pair.image.path, None)
            # the sidecar last: an image without one would be taken for one that lost it
            if pair.sidecar is not None and look(pair.image.path) is None:
                super().acknowledge([pair.sidecar])

    # -- pairs ----------------------------------------------------------------------------------

    def _take(self, file: ReadyFile) -> Iterator[AdapterEvent]:
        path = file.path
        if path.lower().endswith(wire.SIDECAR):
            yield from self._take_sidecar(file)
            return
        self._lone.pop(path + wire.SIDECAR, None)
        if path in self._done and self._done[path][0] == file:
            return  # found twice, as happens to what comes while the first look is taken
        if self._wants_sidecar(path) and look(path + wire.SIDECAR) is None:
            # not read yet: images are large
            prefix, _, extension = self._split(path)
            self._lacking[path] = "missing"
            series = self._series_of(path, prefix, extension)
            series.last_s = self._clock()
            self._put_off(file, series, "its sidecar is missing")
            return
        self._lacking.pop(path, None)
        yield from super()._take(file)

    def _take_sidecar(self, file: ReadyFile) -> Iterator[AdapterEvent]:
        path = file.path[: -len(wire.SIDECAR)]
        waiting = self._waiting.get(path)
        if waiting is not None:
            yield from self._take(look(path) or waiting.file)
        elif path in self._done:
            image, has_sidecar = self._done[path]
            if not has_sidecar:
                self._done[path] = image, True
                self._count(path, "sidecars_late")
                log.warning("sidecar came after its image was published path=%s", file.path)
        elif look(path) is None and len(self._lone) < _REMEMBERED:
            self._lone.setdefault(file.path, self._clock())

    def _look_again(self) -> Iterator[AdapterEvent]:
        yield from super()._look_again()
        for path, since_s in list(self._lone.items()):
            if self._clock() - since_s >= self._grace_s:
                del self._lone[path]
                self._count(path[: -len(wire.SIDECAR)], "sidecars_alone")
                log.warning("sidecar without an image path=%s", path)

    def _quarantine(self, waiting: Waiting) -> Iterator[AdapterEvent]:
        path = waiting.file.path
        lacking = self._lacking.pop(path, None)
        if lacking is None:
            self._given_up.pop(path, None)
            yield from super()._quarantine(waiting)
            return
        self._given_up[path] = lacking  # the image is published as it is
        yield from super()._take(waiting.file)

    def _wants_sidecar(self, path: str) -> bool:
        is_image = path.lower().endswith(_IMAGES)
        return is_image and self._sidecars and path not in self._given_up

    def _count(self, path: str, what: str) -> None:
        prefix, _, extension = self._split(path)
        counts = self._counts.setdefault(self._series_of(path, prefix, extension).key, {})
        counts[what] = counts.get(what, 0) + 1

    def _end(self, series: FileSeries) -> Iterator[AdapterEvent]:
        yield SeriesEnd(series=series.key, metadata=self._counts.pop(series.key, {}))

    # -- one file -------------------------------------------------------------------------------

    def _read(self, path: str) -> tuple[ReadyFile, Buffer]:
        is_his = path.lower().endswith(".his")
        if is_his and os.stat(path).st_size > _MAPPED_NBYTES:  # noqa: PTH116 -- faster than Path.stat
            return map_file(path)
        return super()._read(path)

    def _frames(self, series: FileSeries, found: FoundFile) -> list[AdapterEvent]:
        if not len(found.payload):
            raise InvalidFrameError("payload", "zero bytes")
        if found.extension == ".his":
            return self._of_his(series, found)
        header, date = wire.read_image(found.payload)
        name = self._name_of(found.token.path)
        sidecar, token, appended = self._sidecar_of(found.token.path)
        values = sidecar.values if sidecar is not None else {}
        time_ns, source = wire.time_of(values, date, self._timezone)
        attributes = dict(sidecar.attributes) if sidecar is not None else {}
        rows, columns = header.shape
        if (attributes.get("height"), attributes.get("width")) == (rows, columns):
            del attributes["height"], attributes["width"]
        attributes |= wire.meaning_of_suffix(name, values)
        attributes["time_source"] = source
        if found.extension in _IMAGES and self._sidecars:
            attributes["sidecar"] = self._given_up.get(found.token.path, "ok")
        if appended:
            attributes["sidecar_nbytes"] = len(appended)
        units = {"exposure_s": "s"} if "exposure_s" in attributes else {}
        header = replace(header, timestamp_ns=time_ns, attributes=attributes, units=units)
        payload = found.payload
        if appended:
            payload = b"".join((byte_view(payload), appended))
        return self._published(series, found, header, payload, token)

    def _published(
        self,
        series: FileSeries,
        found: FoundFile,
        header: FileHeader,
        payload: Buffer,
        sidecar: ReadyFile | None,
    ) -> list[AdapterEvent]:
        self._check_layout(series, header, found.number)
        series.number = max(series.number, found.number)
        path = found.token.path
        lacking = self._given_up.pop(path, None)
        if lacking is not None:
            self._count(path, f"sidecars_{lacking}")
        self._lacking.pop(path, None)
        self._done[path] = found.token, lacking != "missing"
        if len(self._done) > _REMEMBERED:
            self._done.popitem(last=False)
        time_ns = header.timestamp_ns
        frame = FrameHeader(
            number=found.number,
            timestamp_ns=max(0, found.token.mtime_ns) if time_ns is None else time_ns,
            shape=header.shape,
            dtype=header.dtype,
            encoding="tiff",
            attributes=header.attributes,
        )
        return [
            *self._begin(series, found.prefix, found.extension, path, header),
            SourceFrame(
                series=series.key,
                header=frame,
                payload=payload,
                token=Pair(found.token, sidecar),
                source=self._relative(path),
            ),
        ]

    def _sidecar_of(self, path: str) -> tuple[wire.Sidecar | None, ReadyFile | None, bytes]:
        """Return what the sidecar says, its identity, and what is to be kept behind the image."""
        if not self._sidecars or not path.lower().endswith(_IMAGES):
            return None, None, b""
        if self._given_up.get(path) == "missing":
            return None, None, b""
        token, payload = _read_sidecar(path + wire.SIDECAR)
        sidecar = wire.read_sidecar(payload)
        if not sidecar.whole and path not in self._given_up:
            self._lacking[path] = "malformed"
            raise InvalidFrameError("sidecar", "not a complete .metadata file")
        if token.nbytes != len(payload):  # too large to be kept with the image: it stays
            return sidecar, None, b""
        return sidecar, token, payload if sidecar.is_more or not sidecar.whole else b""

    def _of_his(self, series: FileSeries, found: FoundFile) -> list[AdapterEvent]:
        """Return the frames of a HIS file; the number is the place in the file, from 0."""
        his = wire.read_his(found.payload)
        header = FileHeader(
            shape=his.shape,
            dtype=his.dtype,
            encoding="raw",
            attributes={**his.attributes, "row_order": "as in the file"},
            units={"integration_s": "s"} if "integration_s" in his.attributes else {},
        )
        frame = FrameHeader(
            number=0,
            timestamp_ns=max(0, found.token.mtime_ns),
            shape=his.shape,
            dtype=his.dtype,
            encoding="raw",
        )
        nbytes = (len(found.payload) - his.offset) // his.count
        frames = tuple(
            PlacedFrame(
                header=replace(frame, number=number),
                offset=his.offset + number * nbytes,
                nbytes=nbytes,
            )
            for number in range(his.count)
        )
        path = found.token.path
        return [
            *self._begin(series, found.prefix, found.extension, path, header),
            SourceFile(
                series=series.key,
                payload=found.payload,
                frames=frames,
                token=Pair(found.token),
                source=self._relative(path),
            ),
        ]

    # -- names ----------------------------------------------------------------------------------

    def _split(self, path: str) -> tuple[str, int, str]:
        file_name = path.rpartition("/")[2]
        if file_name.lower().endswith(wire.SIDECAR):
            file_name = file_name[: -len(wire.SIDECAR)]
        stem, extension = os.path.splitext(file_name)  # noqa: PTH122 -- as the base class
        if extension.lower() == wire.OVERFLOW:
            stem = os.path.splitext(stem)[0]  # noqa: PTH122
        if extension.lower() == ".his":
            return stem, 0, extension.lower()
        name = wire.split_name(stem, digits=self._digits)
        return name.prefix, name.number, extension.lower()

    def _name_of(self, path: str) -> wire.Name:
        stem = os.path.splitext(path.rpartition("/")[2])[0]  # noqa: PTH122
        return wire.split_name(stem, digits=self._digits)


def _read_sidecar(path: str) -> tuple[ReadyFile, bytes]:
    """Return a sidecar, of one that is too large both ends."""
    found = look(path)
    if found is None or found.nbytes <= _MAX_SIDECAR:
        return read_file(path)
    with open(path, "rb") as file:  # noqa: PTH123 -- as read_file
        head = file.read(_EDGE)
        file.seek(-_EDGE, os.SEEK_END)
        return found, head + b"\n" + file.read()

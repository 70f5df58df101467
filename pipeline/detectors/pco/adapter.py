"""PCO cameras: files that Camware or the recorder writes, read on the PC or over a share.

The image counter that the camera writes into the pixels numbers the frames;
``docs/detectors/pco.md`` says what happens without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pipeline.detectors.files import FilesAdapter, FileSeries, FoundFile, Waiting
from pipeline.detectors.options import Option
from pipeline.detectors.pco import wire
from pipeline.detectors.pco.series import PcoSeries
from pipeline.detectors.reading import ImageHeader, Reader, map_file
from pipeline.detectors.timezones import timezone_of
from pipeline.detectors.watch import ReadyFile
from pipeline.errors import InvalidArgumentError, InvalidFrameError
from pipeline.frame import AttributeValue, Buffer
from pipeline.protocols import AdapterEvent, Quarantined

#: Camware puts A and B behind the number of the two images of a double shutter.
NAME_PATTERN = r"(?P<prefix>.*?)(?P<number>[0-9]+)(?P<half>[AB]?)"
PATTERNS = "*.tif,*.tiff,*.b16,*.pcoraw"
#: Larger files are looked at where they lie, rather than read into memory.
_MAPPED_NBYTES = 256 << 20
_SHIFTS = {"auto": wire.SHIFTS, "16": (0,), "14": (2,), "12": (4,)}


class PcoAdapter(FilesAdapter):
    """Watches the directory where a PCO camera's images appear.

    Parameters
    ----------
    timezone:
        Where the camera's clock is: ``local`` (of this machine), ``UTC``, or a name like
        ``Europe/Berlin``.  The stamps carry no zone.
    alignment:
        How many bits of a pixel's 16 count when data is left-aligned: ``12``, ``14``, ``16`` for
        right-aligned data, ``auto`` to look at the stamp.
    pattern:
        Regular expression for a name without its extension, with groups ``prefix`` and ``number``.
    settings:
        As for :class:`pipeline.detectors.files.FilesAdapter`.
    """

    name = "pco"
    #: A Windows program keeps its file visible while it writes.
    stable_s: ClassVar[float] = 1.0

    def __init__(
        self,
        *,
        timezone: str = "local",
        alignment: str = "auto",
        pattern: str = "",
        patterns: str | Sequence[str] = PATTERNS,
        **settings: Any,
    ) -> None:
        if alignment not in _SHIFTS:
            raise InvalidArgumentError("alignment", f"{alignment!r} is not auto, 12, 14 or 16")
        self._timezone = timezone_of(timezone)
        self._shifts = _SHIFTS[alignment]
        self._sorted: dict[str, PcoSeries] = {}
        self._facts_of: dict[str, dict[str, AttributeValue]] = {}
        super().__init__(patterns=patterns, name_pattern=pattern or NAME_PATTERN, **settings)

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set."""
        hidden = ("name_pattern", "patterns")
        return [
            *(option for option in super().options() if option.name not in hidden),
            Option(
                name="patterns",
                default=PATTERNS,
                help="names of image files, separated by commas",
                unit="GLOBS",
            ),
            Option(
                name="pattern",
                default="",
                help="regular expression for names without extension, groups prefix and number",
                unit="REGEX",
            ),
            Option(
                name="timezone",
                default="local",
                help="where the camera's clock is: local, UTC, or a name like Europe/Berlin",
                unit="ZONE",
            ),
            Option(
                name="alignment",
                default="auto",
                help="bits of left-aligned pixels, 16 for right-aligned data",
                choices=tuple(_SHIFTS),
            ),
        ]

    def readers(self) -> Mapping[str, Reader]:
        """Return no readers: what a file gives depends on its pixels."""
        return {}

    def split_name(self, stem: str) -> tuple[str, int] | None:
        """Return prefix and number; the halves of a double shutter in two files are two series."""
        found = super().split_name(stem)
        if found is None or stem[-1:] not in ("A", "B"):
            return found
        return found[0] + stem[-1], found[1]

    def acknowledge(self, tokens: Sequence[Any]) -> None:
        """Let go of files of which every frame is confirmed."""
        done: list[ReadyFile] = []
        for token in tokens:
            token.parts -= 1
            if not token.parts and not token.spoilt:
                done.append(token.file)
        super().acknowledge(done)

    # -- one file -------------------------------------------------------------------------------

    def _read(self, path: str) -> tuple[ReadyFile, Buffer]:
        if os.stat(path).st_size > _MAPPED_NBYTES:  # noqa: PTH116 -- a third of the time of Path.stat
            return map_file(path)
        return super()._read(path)

    def _frames(self, series: FileSeries, found: FoundFile) -> list[AdapterEvent]:
        images, software = self._images(found)
        path = found.token.path
        return list(
            self._of(series.key).take(
                found,
                images,
                source=self._relative(path),
                facts=self._facts(found.prefix, found.extension, path),
                software=software,
            )
        )

    def _images(self, found: FoundFile) -> tuple[list[wire.Image], str]:
        if not len(found.payload):
            raise InvalidFrameError("payload", "zero bytes")
        how: dict[str, Any] = {"timezone": self._timezone, "shifts": self._shifts}
        if found.extension == ".b16":
            return [wire.read_b16(found.payload, **how)], ""
        return wire.read_tiff(found.payload, **how)

    # -- series ---------------------------------------------------------------------------------

    def _of(self, key: str) -> PcoSeries:
        if key not in self._sorted:
            self._sorted[key] = PcoSeries(key, keeps=self.after == "keep")
        return self._sorted[key]

    def _begin(
        self, series: FileSeries, prefix: str, extension: str, path: str, header: ImageHeader | None
    ) -> Iterator[AdapterEvent]:
        """Begin nothing: only the first image tells which series it is."""
        self._facts_of[series.key] = self._facts(prefix, extension, path)
        yield from ()

    def _quarantine(self, waiting: Waiting) -> Iterator[AdapterEvent]:
        for event in super()._quarantine(waiting):
            if isinstance(event, Quarantined):
                yield from self._of(event.series).note(event)

    def _end(self, series: FileSeries) -> Iterator[AdapterEvent]:
        ended = self._sorted.pop(series.key, None)
        facts = self._facts_of.pop(series.key, {})
        if ended is not None:
            yield from ended.end(facts)

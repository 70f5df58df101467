"""Pilatus detectors: files that camserver puts into a directory.

The header lines become typed attributes of each frame; a file is a frame once it is whole.
``docs/detectors/pilatus.md`` lists the values and their units.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

from pipeline.codecs import cbf
from pipeline.detectors.files import FilesAdapter, FileSeries, FoundFile, Reader
from pipeline.detectors.options import Option
from pipeline.detectors.pilatus import wire
from pipeline.detectors.pilatus.acquisition import Acquisition, OpenSeries
from pipeline.detectors.pilatus.camserver import split_target
from pipeline.detectors.pilatus.link import Began, CamserverLink, Seen
from pipeline.detectors.timezones import timezone_of
from pipeline.errors import InvalidFrameError
from pipeline.frame import AttributeValue, Buffer
from pipeline.protocols import AdapterEvent, SeriesBegin

log = logging.getLogger(__name__)
#: Series whose last files have not come yet; more are ended by silence.
_MAX_ACQUISITIONS = 8
#: Files come so much later than the end of their series at most: network file systems cache.
_MISSING_S = 2.0


class PilatusAdapter(FilesAdapter):
    """Watches the directory where a Pilatus puts its CBF, TIFF or EDF files.

    Parameters
    ----------
    timezone:
        Where the detector's clock is, for the dates in the headers: ``local`` (of this machine),
        ``UTC``, or a name like ``Europe/Berlin``.
    check_md5:
        Whether the MD5 digest in a CBF file must be right (600 MB/s of one core).
    camserver:
        ``HOST`` or ``HOST:PORT`` of camserver, which then tells when series begin and end; it is
        looked at and never commanded.  Empty: series end by silence.
    low_space_gb:
        Free space of camserver's directory (10**9 bytes) below which a warning is logged.
    settings:
        As for :class:`pipeline.detectors.files.FilesAdapter`.
    """

    name = "pilatus"
    varying: ClassVar[frozenset[str]] = frozenset(
        (
            "start_angle_deg",
            "detector_2theta",
            "alpha",
            "kappa",
            "phi",
            "chi",
            "omega",
            "start_position",
            "flux",
        )
    )

    def __init__(
        self,
        *,
        timezone: str = "local",
        check_md5: bool = False,
        camserver: str = "",
        low_space_gb: float = 1.0,
        **settings: Any,
    ) -> None:
        self._timezone = timezone_of(timezone)
        self._check_md5 = check_md5
        self._link = CamserverLink(camserver, low_gb=low_space_gb) if camserver else None
        self._acquisitions: deque[Acquisition] = deque(maxlen=_MAX_ACQUISITIONS)
        self._open: dict[str, OpenSeries] = {}
        super().__init__(**settings)

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set."""
        return [
            *(option for option in super().options() if option.name != "name_pattern"),
            Option(
                name="timezone",
                default="local",
                help="where the detector's clock is: local, UTC, or a name like Europe/Berlin",
                unit="ZONE",
            ),
            Option(
                name="check_md5",
                type=bool,
                default=False,
                help="check the MD5 digest of CBF files (costs a core at 600 MB/s)",
            ),
            Option(
                name="camserver",
                default="",
                help="camserver, which tells when series begin and end; it is never commanded",
                unit="HOST[:PORT]",
            ),
            Option(
                name="low_space_gb",
                type=float,
                default=1.0,
                help="warn when camserver's directory has less space left",
                unit="GB",
            ),
        ]

    def events(self, *, poll_s: float) -> Iterator[AdapterEvent | None]:
        """Yield what happens; the end of a series as soon as camserver and the files tell it."""
        if self._link is not None:
            self._link.start()
        for event in super().events(poll_s=poll_s):
            yield event
            if self._link is not None:
                for seen in self._link.take():
                    yield from self._heed(seen)
                yield from self._end_told(is_silent=event is None)

    def check(self) -> Mapping[str, AttributeValue]:
        """Look into the directory once, and at camserver."""
        found = dict(super().check())
        return found | self._link.check() if self._link is not None else found

    def close(self) -> None:
        """Stop watching; may be called twice."""
        super().close()
        if self._link is not None:
            self._link.close()

    def readers(self) -> Mapping[str, Reader]:
        """Return the readers of the formats that camserver writes."""
        tiff = partial(wire.read_tiff, timezone=self._timezone)
        return {
            ".cbf": self._read_cbf,
            ".tif": tiff,
            ".tiff": tiff,
            ".edf": partial(wire.read_edf, timezone=self._timezone),
        }

    def split_name(self, stem: str) -> tuple[str, int] | None:
        """Return prefix and number: camserver counts behind the last underscore."""
        return wire.split_name(f"{stem}.")

    # -- what camserver tells -------------------------------------------------------------------

    def _heed(self, seen: Seen) -> Iterator[AdapterEvent]:
        if isinstance(seen, Began):
            acquisition = self._acquisition(seen)
            self._acquisitions.append(acquisition)
            for key in self._open.keys() - self._series.keys():
                del self._open[key]
            for series in self._open.values():
                begin = acquisition.adopt(series)
                if begin is not None:
                    yield begin
        elif self._acquisitions and self._acquisitions[-1].ended_s is None:
            acquisition = self._acquisitions[-1]
            prefix, last, extension = self._split(seen.last)
            acquisition.ended_s = self._clock()
            acquisition.state = "aborted" if seen.killed else "complete"
            same = (prefix, extension) == (acquisition.prefix, acquisition.extension)
            acquisition.last = last if same and last >= acquisition.first else None

    def _acquisition(self, began: Began) -> Acquisition:
        target = began.target
        prefix, first, extension = (
            self._split(target) if began.images == 1 else split_target(target)
        )
        return Acquisition(
            began=began,
            directory=target.rpartition("/")[0],
            prefix=prefix,
            first=first,
            extension=extension,
        )

    def _end_told(self, *, is_silent: bool) -> Iterator[AdapterEvent]:
        """End the series whose files are all there, or of which nothing more comes."""
        for acquisition in list(self._acquisitions):
            if acquisition.ended_s is None:
                continue
            series = self._series.get(acquisition.series)
            quiet_s = self._clock() - max(acquisition.ended_s, series.last_s if series else 0.0)
            if not acquisition.is_whole and not (
                is_silent
                and quiet_s >= max(_MISSING_S, self._grace_s)
                and (series is None or not series.waiting)
            ):
                continue
            self._acquisitions.remove(acquisition)
            if series is None or acquisition.last is None:
                log.warning(
                    "camserver ended a series that is not seen whole target=%s files=%d",
                    acquisition.began.target,
                    len(acquisition.numbers),
                )
                continue  # the rule of silence ends what there is of it
            del self._series[series.key]
            self._open.pop(series.key, None)
            yield acquisition.end()

    def _frames(self, series: FileSeries, found: FoundFile) -> list[AdapterEvent]:
        if self._link is None:
            return super()._frames(series, found)
        prefix, number, extension = found.prefix, found.number, found.extension
        directory = self._relative(found.token.path).rpartition("/")[0]
        acquisition = next(
            (
                each
                for each in reversed(self._acquisitions)
                if each.has(directory, prefix, number, extension)
            ),
            None,
        )
        if acquisition is not None and acquisition.is_stale(found.token.mtime_ns):
            acquisition.stale += 1
            if acquisition.stale == 1:
                log.warning("file is older than its series, left alone path=%s", found.token.path)
            return []
        events = super()._frames(series, found)
        begin = events[0]
        if isinstance(begin, SeriesBegin):
            self._open[series.key] = OpenSeries(
                begin=begin, directory=directory, prefix=prefix, extension=extension
            )
            if acquisition is not None:
                events[0] = acquisition.tell(begin)
        if series.key in self._open:
            self._open[series.key].times_ns[number] = found.token.mtime_ns
        if acquisition is not None:
            acquisition.series = series.key
            acquisition.numbers.add(number)
        return events

    def _read_cbf(self, payload: Buffer) -> wire.PilatusFile:
        header = wire.read_cbf(payload, timezone=self._timezone)
        if self._check_md5 and not cbf.matches_md5(payload, cbf.parse(payload)):
            raise InvalidFrameError("payload", "CBF: the MD5 digest of the image is wrong")
        return header

"""Pilatus detectors: files that camserver puts into a directory.

The header lines become typed attributes of each frame; a file is a frame once it is whole.
``docs/detectors/pilatus.md`` lists the values and their units.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from pipeline.codecs import cbf
from pipeline.detectors.files import FilesAdapter, Reader
from pipeline.detectors.options import Option
from pipeline.detectors.pilatus import wire
from pipeline.detectors.timezones import timezone_of
from pipeline.errors import InvalidFrameError
from pipeline.frame import Buffer


class PilatusAdapter(FilesAdapter):
    """Watches the directory where a Pilatus puts its CBF, TIFF or EDF files.

    Parameters
    ----------
    timezone:
        Where the detector's clock is, for the dates in the headers: ``local`` (of this machine),
        ``UTC``, or a name like ``Europe/Berlin``.
    check_md5:
        Whether the MD5 digest in a CBF file must be right (600 MB/s of one core).
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
        self, *, timezone: str = "local", check_md5: bool = False, **settings: Any
    ) -> None:
        self._timezone = timezone_of(timezone)
        self._check_md5 = check_md5
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
        ]

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

    def _read_cbf(self, payload: Buffer) -> wire.PilatusFile:
        header = wire.read_cbf(payload, timezone=self._timezone)
        if self._check_md5 and not cbf.matches_md5(payload, cbf.parse(payload)):
            raise InvalidFrameError("payload", "CBF: the MD5 digest of the image is wrong")
        return header

"""What the FileWriter of an Eiger offers over HTTP: its listing, its files, its state."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.detectors.eiger.hdf5 import FileName, parse_names, split_name
from pipeline.detectors.rest import Device, NotThereError
from pipeline.errors import InvalidFrameError, SourceError

log = logging.getLogger(__name__)

#: What is left free on the disk for everybody else.
_RESERVE_NBYTES = 64 << 20
#: Trouble that lasts is told again so often.
_SAY_S = 30.0
# name -> module and path behind the version: SIMPLON API reference 1.8, FileWriter and Detector
_PARAMETERS = {
    "files": ("filewriter", "files/"),
    "status/files": ("filewriter", "status/files"),
    "state": ("filewriter", "status/state"),
    "buffer_free": ("filewriter", "status/buffer_free"),
    "mode": ("filewriter", "config/mode"),
    "nimages_per_file": ("filewriter", "config/nimages_per_file"),
    "image_nr_start": ("filewriter", "config/image_nr_start"),
    "detector": ("detector", "status/state"),
}


class Complaints:
    """Warnings about trouble that lasts: each at most every half minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}

    def say(self, about: str, text: str, *values: Any) -> None:
        """Log a warning unless the one about the same was logged a short while ago."""
        now_s = self._clock()
        if now_s - self._said.get(about, -_SAY_S) >= _SAY_S:
            if len(self._said) > 1000:
                self._said.clear()
            self._said[about] = now_s
            log.warning(text, *values)


class FileServer:
    """The files of one control unit.  Every call raises SourceError if the unit is away.

    Parameters
    ----------
    device:
        Not closed here.
    api:
        Version of the interface, for example ``1.8.0``.
    folder:
        Where files are fetched to; None for a temporary directory of its own.
    """

    def __init__(self, device: Device, api: str, *, folder: Path | None = None) -> None:
        self.endpoint = device.endpoint
        self._device = device
        self._paths = {
            name: f"/{module}/api/{api}/{rest}" for name, (module, rest) in _PARAMETERS.items()
        }
        self._own_folder = folder is None
        self._folder = folder

    def names(self) -> list[FileName]:
        """Return what is there, by series, the master first."""
        try:
            return parse_names(self._device.get(self._paths["files"]))
        except (NotThereError, InvalidFrameError) as error:
            try:
                return parse_names(self._device.get(self._paths["status/files"]))
            except InvalidFrameError:
                raise SourceError(f"{self.endpoint}: {error}") from error

    def integer(self, name: str, default: int) -> int:
        """Return a parameter that counts something, ``default`` where there is none."""
        value = self.value(name)
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return value if is_count else default

    def value(self, name: str) -> Any:
        """Return a parameter's value; None where there is no such parameter."""
        try:
            answer = self._device.get(self._paths[name])
        except NotThereError:
            return None
        return answer.get("value") if isinstance(answer, Mapping) else answer

    def first_number(self, name: str, start: int) -> int:
        """Return the first number of a data file that does not tell it; InvalidFrameError: unknown.

        ``start`` is that of the series' first image.
        """
        item = split_name(name)
        part = item.part if item else 0
        if part <= 1:
            return start
        per_file = self.integer("nimages_per_file", 0)
        if not per_file:
            raise InvalidFrameError("number", "no image_nr_low, and nimages_per_file is not known")
        return start + (part - 1) * per_file

    def is_active(self) -> bool:
        """Tell whether files of the newest series may still come.

        A detector that is armed (``ready``) has a master, and no data file yet.
        """
        return self.value("state") == "acquire" or self.value("detector") in ("acquire", "ready")

    def size(self, name: str) -> int | None:
        """Return a file's length in bytes; None if it is not there (any more)."""
        try:
            return self._device.size(f"/data/{name}")
        except NotThereError:
            return None

    def digest(self, name: str) -> str:
        """Return what tells one content of a file from another."""
        digest = sha256()
        for piece in self._device.download(f"/data/{name}"):
            digest.update(piece)
        return digest.hexdigest()

    def delete(self, name: str) -> None:
        """Remove a file; one that is gone is no error."""
        self._device.delete(f"/data/{name}")

    def fetch(self, name: str, nbytes: int) -> Generator[None, None, Path]:
        """Download a file of this length and return its path; the caller removes it.

        Yields about four times a second.  Raises SourceError also when the disk is too full or the
        file has another length.
        """
        folder = self.folder()
        free = shutil.disk_usage(folder).free - _RESERVE_NBYTES
        if nbytes > free:
            raise SourceError(
                f"{name}: no room for {nbytes} bytes in {folder}, {max(0, free)} are free; the"
                " file waits in the control unit"
            )
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".h5", delete=False) as file:
            path = Path(file.name)
            try:
                yield from self._copy(name, nbytes, file)
            except BaseException as error:
                path.unlink(missing_ok=True)
                if isinstance(error, OSError):
                    raise SourceError(f"{name}: cannot be kept in {folder}: {error}") from error
                raise
        return path

    def _copy(self, name: str, nbytes: int, file: Any) -> Generator[None, None, None]:
        got, said_s = 0, time.monotonic()
        for piece in self._device.download(f"/data/{name}"):
            got += len(piece)
            if got > nbytes:
                break
            file.write(piece)
            if time.monotonic() - said_s >= 0.25:
                said_s = time.monotonic()
                yield
        if got != nbytes:
            raise SourceError(f"{name}: {got} bytes came, announced were {nbytes}")

    def folder(self) -> Path:
        """Return where files are fetched to; it exists."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="lichtstrom-eiger-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def close(self) -> None:
        """Remove the temporary directory; may be called twice."""
        if self._own_folder and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

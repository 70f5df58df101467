"""Which beamtime new streams belong to: a name, or what a file or a command says just now."""

from __future__ import annotations

import logging
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

from pipeline.config import BeamtimeSettings
from pipeline.errors import ConfigError, PipelineError
from pipeline.naming import check_name

log = logging.getLogger(__name__)
#: In place of a name: follow what the settings ``[beamtime]`` name.
AUTO = "auto"
#: How long the command may take; a source is held back meanwhile.
_COMMAND_S = 5.0
#: More is no name.
_MAX_NBYTES = 4096


class CurrentBeamtime:
    """Asked whenever a stream begins; never inside a stream.

    A name that cannot be had, or of which there is no beamtime, leaves the last good one in force:
    frames go on to be published, and a warning says so once for each reason.

    Parameters
    ----------
    settings:
        The file or the command that says the name: the first line of its text, without blanks
        around it.
    exists:
        Tells whether there is such a beamtime, or it will be made; may raise PipelineError where
        nobody can be asked.
    """

    def __init__(self, settings: BeamtimeSettings, exists: Callable[[str], bool]) -> None:
        if bool(settings.file) == bool(settings.command):
            raise ConfigError(
                "--beamtime auto follows a file or a command: set one of [beamtime] file and"
                " command in lichtstrom.toml, or LICHTSTROM_BEAMTIME_FILE, _COMMAND"
            )
        self._settings = settings
        self._exists = exists
        self._name = ""
        self._told = ""

    def __call__(self) -> str:
        """Return the name; blocks as long as file, command (5 s at most) and broker do.

        Raises ConfigError if there never was a good one.
        """
        try:
            name = self._read()
            if name != self._name:
                self._check(name)
        except (ConfigError, PipelineError) as error:
            if not self._name:
                raise
            if str(error) != self._told:
                log.warning("%s; new streams go to %s as before", error, self._name)
                self._told = str(error)
            return self._name
        if name != self._name:
            log.info("new streams go to beamtime %s from now on", name)
        self._name, self._told = name, ""
        return name

    @property
    def _where(self) -> str:
        return self._settings.file or f"`{self._settings.command}`"

    def _read(self) -> str:
        text = self._of_file() if self._settings.file else self._of_command()
        name = next(iter(text.splitlines()), "").strip()
        if not name:
            raise ConfigError(f"{self._where} names no beamtime: its first line is empty")
        return name

    def _of_file(self) -> str:
        try:
            with Path(self._settings.file).open("rb") as file:
                return file.read(_MAX_NBYTES).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{self._where} cannot be read as a beamtime's name: {error}"
            ) from error

    def _of_command(self) -> str:
        try:
            argv = shlex.split(self._settings.command)
            done = subprocess.run(
                argv, capture_output=True, timeout=_COMMAND_S, check=True, stdin=subprocess.DEVNULL
            )
            return done.stdout[:_MAX_NBYTES].decode()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise ConfigError(f"{self._where} does not tell the beamtime: {error}") from error

    def _check(self, name: str) -> None:
        try:
            check_name("beamtime", name)
        except PipelineError as error:
            raise ConfigError(f"{self._where}: {error}") from error
        if not name.isprintable() or name == AUTO:
            raise ConfigError(f"{self._where}: {name[:60]!r} is no name of a beamtime")
        try:
            known = self._exists(name)
        except PipelineError as error:
            if not error.retriable:
                raise
            # Frames are spooled, or wait, under the name that is in force.
            log.warning("%s names %s; not looked for: %s", self._where, name, error)
            return
        if not known:
            raise ConfigError(
                f"{self._where} names {name}, and there is no such beamtime:"
                f" `lichtstrom beamtime create {name}`"
            )

"""The processes of the demo: the real commands, as a user would start them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pipeline.errors import PipelineError

#: Tells a directory that an earlier demo made, and that may be emptied.
_MARKER = ".lichtstrom-demo"
_TERMINATE_S = 10.0


@dataclass(slots=True, kw_only=True)
class Part:
    """One command that runs; its output is in files."""

    name: str
    process: subprocess.Popen[bytes]
    out: Path
    log: Path
    files: list[IO[bytes]] = field(default_factory=list)

    @property
    def progress(self) -> dict[str, int]:
        """The counts of its last report."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
        for line in reversed(lines):
            if line.startswith('{"progress": ') and line.endswith("}"):
                found: dict[str, int] = json.loads(line)["progress"]
                return found
        return {}

    @property
    def result(self) -> dict[str, Any]:
        """What it printed, after it ended."""
        found: dict[str, Any] = json.loads(self.out.read_text())
        return found

    def has_ended(self) -> bool:
        """Whether it is over; raises PipelineError if it failed."""
        code = self.process.poll()
        if code:
            lines = self.log.read_text(errors="replace").splitlines()
            words = [line for line in lines if not line.startswith('{"progress"')]
            tail = "\n  ".join(words[-8:]) or "it said nothing"
            raise PipelineError(f"{self.name} ended with exit status {code}:\n  {tail}")
        return code is not None

    def stop(self) -> None:
        """End it, gently first."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_TERMINATE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for file in self.files:
            file.close()


class Stage:
    """The directory of a demo, and what runs in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.home = self.directory / "home"
        self.images = self.directory / "detector"
        self.files = self.directory / "hdf5"
        self.truth = self.directory / "truth.jsonl"
        self._logs = self.directory / "log"
        self._parts: list[Part] = []
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("LICHTSTROM_") or name == "LICHTSTROM_MAVEN_REPOSITORY"
        } | {"LICHTSTROM_HOME": str(self.home)}
        # The demo is the same wherever it is started.
        self._environment["LICHTSTROM_CONFIG"] = str(self.directory / _MARKER)

    def prepare(self, *, keep: bool) -> None:
        """Make the directory; empty one that an earlier demo made, unless it is to be kept.

        Raises PipelineError for a directory that is not ours.
        """
        marker = self.directory / _MARKER
        if self.directory.exists() and any(self.directory.iterdir()) and not marker.exists():
            raise PipelineError(
                f"{self.directory} is not empty and was not made by a demo: choose another --home"
            )
        if marker.exists():
            from pipeline.local import down

            down(self.home)
            wanted = [self.images, self.files, self._logs]
            for folder in wanted if keep else [*wanted, self.home]:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.images, self.files, self._logs):
            folder.mkdir(parents=True, exist_ok=True)
        marker.touch()

    def start(self, name: str, *arguments: str, **settings: str) -> Part:
        """Start a command; ``settings`` are further environment variables."""
        out, log = self._logs / f"{name}.out", self._logs / f"{name}.log"
        files: list[IO[bytes]] = [out.open("wb"), log.open("wb")]
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=files[0],
            stderr=files[1],
            env={**self._environment, **settings},
            start_new_session=True,  # Ctrl-C is for us, and we end the parts in order
        )
        part = Part(name=name, process=process, out=out, log=log, files=files)
        self._parts.append(part)
        return part

    @property
    def parts(self) -> Mapping[str, Part]:
        """What was started, by name."""
        return {part.name: part for part in self._parts}

    def running(self) -> bool:
        """Whether any part runs; raises PipelineError if one has failed."""
        ended = [part.has_ended() for part in self._parts]  # each is looked at
        return not all(ended)

    def stop(self) -> None:
        """End everything that was started here, the servers too."""
        from pipeline.local import down

        try:
            for part in reversed(self._parts):
                part.stop()
        finally:
            down(self.home)


@contextlib.contextmanager
def staged(directory: Path, *, keep: bool) -> Iterator[Stage]:
    """Give a stage whose parts and servers are gone afterwards, whatever happens."""
    stage = Stage(directory)
    stage.prepare(keep=keep)
    try:
        yield stage
    finally:
        stage.stop()


class Stalled:
    """Notices when nothing goes on any more."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._last: object = None
        self._since_s = time.monotonic()

    def check(self, state: object) -> None:
        """Raise PipelineError when ``state`` has been the same for too long."""
        if state != self._last:
            self._last, self._since_s = state, time.monotonic()
        elif time.monotonic() - self._since_s > self._limit_s:
            raise PipelineError(f"nothing has moved for {self._limit_s:g} s: {state}")

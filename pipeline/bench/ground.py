"""Where measurements run: a broker and a store of their own, and the disk they may use."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pipeline.config import KafkaSettings, Settings, StoreSettings
from pipeline.credentials import Secret
from pipeline.errors import PipelineError, RuntimeUnavailableError
from pipeline.kafka.admin import Admin
from pipeline.local import RuntimeInfo, down, status, up
from pipeline.naming import Names

GB = 1_000_000_000
#: What the largest row may occupy at one moment, manifests and topics included.
DISK_NBYTES = 20 * GB

#: Most that is written and deleted before a run, see :func:`heat`.
HEAT_NBYTES = 4 * GB


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A running runtime, and how thorough to be.

    ``tell`` is called with a line of text at each step.
    """

    home: Path
    info: RuntimeInfo
    quick: bool
    tell: Callable[[str], None]

    def settings(self, kind: str) -> Settings:
        """Return settings for the ``file`` or ``s3`` way to the store."""
        info = self.info
        store = StoreSettings(url=info.store_url)
        if kind == "s3":
            if info.s3 is None:
                raise RuntimeUnavailableError("there is no S3 server: see `lichtstrom doctor`")
            store = StoreSettings(
                url="s3://",
                endpoints=(info.s3.endpoint,),
                access_key=info.s3.access_key,
                secret_key=Secret(info.s3.secret_key),
                region=info.s3.region,
            )
        kafka = KafkaSettings(bootstrap=info.kafka.bootstrap)
        return Settings(kafka=kafka, store=store, create=True)

    def folder(self, beamtime: str) -> Path:
        """Return where the objects of a beamtime lie, whichever way they came."""
        return self.home / "store" / Names().bucket(beamtime)

    @contextmanager
    def beamtime(self) -> Iterator[str]:
        """Give a beamtime that nobody has used; its topics and objects are deleted afterwards."""
        name = f"bench{secrets.token_hex(4)}"
        try:
            yield name
        finally:
            shutil.rmtree(self.folder(name), ignore_errors=True)
            admin = Admin(self.settings("file").kafka)
            try:
                ours = [topic for topic in admin.topics() if f".{name}." in topic]
                admin.delete_topics(ours)
            finally:
                admin.close()

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give an empty folder on the store's file system; it is deleted afterwards."""
        folder = Path(tempfile.mkdtemp(prefix="bench-", dir=self.home))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def prepared(home: Path | None, *, quick: bool, tell: Callable[[str], None]) -> Iterator[Ground]:
    """Give a ground: the runtime of ``home``, or one of its own that is deleted afterwards.

    A runtime that was found running is left running. Raises RuntimeUnavailableError, or
    PipelineError when there is not enough disk.
    """
    if home is None:
        with (
            tempfile.TemporaryDirectory(prefix="lichtstrom-bench-") as folder,
            prepared(Path(folder), quick=quick, tell=tell) as ground,
        ):
            yield ground
        return
    home = home.expanduser().absolute()
    home.mkdir(parents=True, exist_ok=True)
    _check_disk(home)
    was_running = status(home).running
    try:
        info = up(home, progress=tell)
        yield Ground(home=home, info=info, quick=quick, tell=tell)
    finally:
        if not was_running:
            down(home)


def _check_disk(home: Path) -> None:
    free = shutil.disk_usage(home).free
    if free < DISK_NBYTES:
        raise PipelineError(
            f"the bench needs {DISK_NBYTES / GB:g} GB of free disk and {home} has"
            f" {free / GB:.1f} GB: choose another disk with --home or TMPDIR"
        )


def heat(folder: Path, nbytes: int) -> None:
    """Write and delete as much as a run is going to write.

    The system's free memory is then backed by real memory. On virtual machines it often is not:
    the first write to a page costs three times as much as the next, whoever makes it.
    """
    block = bytes(64 * 1024 * 1024)
    paths = []
    try:
        for index in range(-(-nbytes // len(block))):
            paths.append(folder / f"heat-{index}")
            paths[-1].write_bytes(block)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def prune(folder: Path, below: int) -> None:
    """Delete the objects whose frames were all consumed: another one begins at most at ``below``.

    Keys hold the first frame's number (:func:`pipeline.naming.segment_key`), segments are in order.
    """
    found = [(int(path.name[3:15]), path) for path in folder.glob("*/*/*/*/[0-9]*.bin")]
    found.sort()
    for (_, path), (following, _) in pairwise(found):
        if following <= below:
            path.unlink(missing_ok=True)

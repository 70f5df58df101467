"""Class paths of Kafka's programs: lock files, a cache, and checksums in between."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pipeline.errors import RuntimeUnavailableError
from pipeline.local.locks import locked
from pipeline.local.paths import cache_dir
from pipeline.local.progress import Progress, quiet

#: The class path of the broker, and the one of a Connect worker.
KAFKA_LOCK = "kafka.lock"
CONNECT_LOCK = "connect.lock"

_LINE = re.compile(r"([\w.-]+):([\w.-]+):([\w.-]+) ([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One jar of a Maven repository and what its bytes must be."""

    group: str
    name: str
    version: str
    sha256: str

    @property
    def coordinate(self) -> str:
        """``group:artifact:version``."""
        return f"{self.group}:{self.name}:{self.version}"

    @property
    def path(self) -> str:
        """Path in a Maven repository, and so in our cache."""
        folder = self.group.replace(".", "/")
        return f"{folder}/{self.name}/{self.version}/{self.name}-{self.version}.jar"


def read_lock(name: str = KAFKA_LOCK) -> tuple[Artifact, ...]:
    """Return the artifacts of a lock file that is shipped with the package."""
    text = resources.files("pipeline.local").joinpath(name).read_text("utf-8")
    return parse_lock(text, name=name)


def parse_lock(text: str, *, name: str = KAFKA_LOCK) -> tuple[Artifact, ...]:
    """Parse ``group:artifact:version sha256`` lines; ``#`` starts a comment line.

    ``name`` is the file's, for the error.
    """
    artifacts = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise RuntimeUnavailableError(
                f"{name} line {number} is not 'group:artifact:version sha256': {line!r}"
            )
        group, artifact, version, sha256 = match.groups()
        artifacts.append(Artifact(group=group, name=artifact, version=version, sha256=sha256))
    return tuple(artifacts)


def jars_dir() -> Path:
    """Our cache of jars, laid out like a Maven repository."""
    return cache_dir() / "maven"


def missing(artifacts: Sequence[Artifact]) -> tuple[Artifact, ...]:
    """Return those artifacts that the cache lacks or holds damaged."""
    return tuple(a for a in artifacts if not matches(jars_dir() / a.path, a))


def ensure(
    artifacts: Sequence[Artifact], *, timeout_s: float, progress: Progress = quiet
) -> tuple[Path, ...]:
    """Return the jars' paths in the cache, fetching and checking what is not there.

    Blocks up to ``timeout_s`` per way of fetching; raises RuntimeUnavailableError that names the
    ways tried.  Whatever is returned has the checksum of its lock line.
    """
    if missing(artifacts):
        # One fetcher at a time; who waited finds everything there.
        with locked(cache_dir() / "maven.lock", timeout_s=timeout_s):
            _fill(missing(artifacts), timeout_s=timeout_s, progress=progress)
    return tuple(jars_dir() / artifact.path for artifact in artifacts)


def matches(path: Path, artifact: Artifact) -> bool:
    """Tell whether a file is there and has the locked checksum."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == artifact.sha256
    except OSError:
        return False


def _fill(wanted: Sequence[Artifact], *, timeout_s: float, progress: Progress) -> None:
    # The subprocess machinery is needed here only, once per machine.
    from pipeline.local.fetch import ways_to_fetch

    wanted = _from_local_repository(wanted)
    problems: list[str] = []
    for name, fetch in ways_to_fetch() if wanted else ():
        progress(f"fetching {len(wanted)} jars of Kafka ({name})")
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache_dir()) as folder:
            try:
                fetch(wanted, Path(folder), timeout_s)
            except RuntimeUnavailableError as error:
                problems.append(f"{name}: {error}")
            wanted, wrong = _take(wanted, Path(folder))
        problems += [f"{name}: {problem}" for problem in wrong]
        if not wanted:
            return
    if wanted:
        raise RuntimeUnavailableError(
            f"{len(wanted)} jars of Kafka could not be had, the first {wanted[0].coordinate}."
            f" Tried: {'; '.join(problems) or 'nothing'}. Is the network up? A site's own Maven"
            " repository can be named by LICHTSTROM_MAVEN_REPOSITORY (a URL)"
        )


def _from_local_repository(wanted: Sequence[Artifact]) -> Sequence[Artifact]:
    """Copy what Maven on this machine has fetched before; return what is still wanted."""
    repository = Path(os.environ.get("M2_REPO") or Path.home() / ".m2" / "repository")
    left = []
    for artifact in wanted:
        if matches(repository / artifact.path, artifact):
            _put(repository / artifact.path, jars_dir() / artifact.path)
        else:
            left.append(artifact)
    return left


def _take(wanted: Sequence[Artifact], folder: Path) -> tuple[Sequence[Artifact], list[str]]:
    """Move good files from ``folder`` to the cache; return what is wanted still, and why."""
    left, problems = [], []
    for artifact in wanted:
        source = folder / artifact.path
        if matches(source, artifact):
            _put(source, jars_dir() / artifact.path)
            continue
        left.append(artifact)
        if source.exists():
            problems.append(f"{artifact.coordinate} has another SHA-256 than the lock file says")
    return left, problems


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(source, partial)
    partial.replace(target)

"""Ways to bring jars of a lock file here: a named repository, Maven, or jgo.

The address of the public repository is nowhere in this package: Maven and jgo know it, and
Maven knows a site's mirrors, proxies and credentials besides.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

from pipeline.errors import RuntimeUnavailableError
from pipeline.local.commands import pip_folder, run
from pipeline.local.jars import Artifact

Fetch = Callable[[Sequence[Artifact], Path, float], None]

JGO = "jgo==3.2.0"

# Eight at once keep a fast link busy and offend no server.
_PARALLEL = 8
_ATTEMPTS = 4

# jgo's transitive resolver gives a wrong class path for Kafka (no scala-library, clients 3.8.0;
# measured 2026-11-22), so it is asked for single artifacts only.
_JGO_SCRIPT = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from jgo.maven import MavenContext

context = MavenContext(repo_cache=Path(sys.argv[1]), timeout=30)

def fetch(line):
    group, name, version = line.split(":")
    context.project(group, name).at_version(version).artifact().resolve()

with ThreadPoolExecutor(8) as pool:
    list(pool.map(fetch, sys.stdin.read().split()))
"""

_POM = """<project>
<modelVersion>4.0.0</modelVersion>
<groupId>lichtstrom</groupId><artifactId>fetch</artifactId><version>1</version>
<dependencies>{}</dependencies>
</project>
"""
_POM_DEPENDENCY = (
    "<dependency><groupId>{0.group}</groupId><artifactId>{0.name}</artifactId>"
    "<version>{0.version}</version><exclusions><exclusion><groupId>*</groupId>"
    "<artifactId>*</artifactId></exclusion></exclusions></dependency>"
)


def ways_to_fetch() -> Iterator[tuple[str, Fetch]]:
    """Yield the ways this machine has, the most specific first, each with its name.

    ``LICHTSTROM_MAVEN_REPOSITORY`` excludes all others: who names a repository means it.
    """
    named = os.environ.get("LICHTSTROM_MAVEN_REPOSITORY")
    if named:
        yield "LICHTSTROM_MAVEN_REPOSITORY", _from_url(named)
        return
    mirror = settings_mirror(Path.home() / ".m2" / "settings.xml")
    if mirror:
        yield "the mirror in ~/.m2/settings.xml", _from_url(mirror)
    maven = shutil.which("mvn")
    if maven:
        yield "mvn", lambda artifacts, folder, limit_s: _by_maven(maven, artifacts, folder, limit_s)
    yield "jgo", _by_jgo


def settings_mirror(path: Path) -> str | None:
    """Return the URL of the mirror of Maven Central in a user's settings, if there is one."""
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314 - the user's own settings
    except (OSError, ElementTree.ParseError):
        return None
    for mirror in root.iterfind("{*}mirrors/{*}mirror"):
        of = mirror.findtext("{*}mirrorOf", "").replace(" ", "").split(",")
        url = mirror.findtext("{*}url", "").strip()
        if url and {"*", "external:*", "central"} & set(of) and "!central" not in of:
            return url
    return None


def _from_url(base: str) -> Fetch:
    def fetch(artifacts: Sequence[Artifact], folder: Path, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s

        def one(artifact: Artifact) -> None:
            download(f"{base.rstrip('/')}/{artifact.path}", folder / artifact.path, deadline)

        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(one, artifacts))

    return fetch


def download(url: str, target: Path, deadline: float) -> None:
    """Fetch one file, again after failures that may pass, until ``deadline`` (monotonic)."""
    if not url.startswith(("https://", "http://", "file://")):
        raise RuntimeUnavailableError(f"{url} is not an https URL")
    target.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(_ATTEMPTS):
        limit_s = min(30.0, deadline - time.monotonic())
        if limit_s <= 0:
            raise RuntimeUnavailableError(f"{url}: out of time")
        try:
            with (
                urllib.request.urlopen(url, timeout=limit_s) as answer,  # noqa: S310 - checked above
                target.open("wb") as file,
            ):
                shutil.copyfileobj(answer, file)
            return
        except OSError as error:
            if attempt == _ATTEMPTS - 1 or not _may_pass(error):
                raise RuntimeUnavailableError(f"{url}: {error}") from error
        time.sleep(min(0.5 * 2**attempt, max(0.0, deadline - time.monotonic())))


def _may_pass(error: OSError) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return error.code == 429 or error.code >= 500
    return True


def _by_maven(maven: str, artifacts: Sequence[Artifact], folder: Path, timeout_s: float) -> None:
    """Let Maven copy exactly the locked artifacts: every transitive one is excluded."""
    pom = folder / "pom.xml"
    pom.write_text(_POM.format("".join(_POM_DEPENDENCY.format(a) for a in artifacts)))
    argv = [maven, "-B", "-q", "-f", str(pom), "dependency:copy-dependencies"]
    argv += ["-Dmdep.useRepositoryLayout=true", f"-DoutputDirectory={folder}"]
    run(argv, timeout_s=timeout_s)


def _by_jgo(artifacts: Sequence[Artifact], folder: Path, timeout_s: float) -> None:
    packages = pip_folder(JGO, timeout_s=timeout_s)
    run(
        [sys.executable, "-c", _JGO_SCRIPT, str(folder)],
        env={**os.environ, "PYTHONPATH": str(packages)},
        stdin="\n".join(a.coordinate for a in artifacts),
        timeout_s=timeout_s,
    )

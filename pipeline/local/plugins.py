"""Plugins of a Kafka Connect worker: a site's folders, or what was built in a checkout."""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import RuntimeUnavailableError
from pipeline.local.jars import Artifact, jars_dir

#: Folders of plugins, separated as in PATH; instead of what a checkout has built.
VARIABLE = "LICHTSTROM_CONNECT_PLUGINS"
#: Kafka's own connectors for files; plugins by their nature, so not on the class path.
FILE_CONNECTORS = "connect-file"

_HOW_TO_BUILD = (
    "build them in a checkout of lichtstrom with `make connectors` (needs a JDK 17 or newer and"
    f" Maven; Debian: apt install maven), or name folders of built plugins by {VARIABLE}"
)


def split(artifacts: Sequence[Artifact]) -> tuple[list[Artifact], list[Artifact]]:
    """Return what goes on the worker's class path, and what is a plugin."""
    plugins = [a for a in artifacts if a.name == FILE_CONNECTORS]
    return [a for a in artifacts if a not in plugins], plugins


def gather(home: Path, plugins: Sequence[Artifact]) -> tuple[Path, ...]:
    """Lay out the plugins in the home and return the worker's ``plugin.path``.

    Copies, so that a build does not change jars under a running worker; and what is there as it
    should be is not touched, because another worker of the home may be reading it.

    Raises
    ------
    RuntimeUnavailableError
        When there is nothing that lichtstrom's connectors could come from.
    """
    named = [Path(part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    for path in named:
        if not path.exists():
            raise RuntimeUnavailableError(f"{path} (from {VARIABLE}) does not exist")
    built = [] if named else built_plugins(Path(__file__).parents[2])
    if not named and not built:
        raise RuntimeUnavailableError(f"no connector of lichtstrom was built: {_HOW_TO_BUILD}")
    folder = home / "connect" / "plugins"
    wanted = {folder / a.name / Path(a.path).name: jars_dir() / a.path for a in plugins}
    wanted |= {folder / jar.parent.parent.name / jar.name: jar for jar in built}
    for jar in set(folder.rglob("*.jar")) - wanted.keys():
        jar.unlink()
        with contextlib.suppress(OSError):  # another plugin's jar lies there, too
            jar.parent.rmdir()
    for target, source in wanted.items():
        _put(source, target)
    return (folder, *(path.absolute() for path in named))


def built_plugins(checkout: Path) -> list[Path]:
    """Return the jar of each connector that a checkout has built; none in an installed package."""
    # What Maven's shading leaves beside its result is called original-connect-...
    targets = sorted(checkout.glob("connectors/*/target"))
    jars = [list(target.glob("connect-*.jar")) for target in targets]
    return [max(found, key=lambda jar: jar.stat().st_mtime_ns) for found in jars if found]


def _put(source: Path, target: Path) -> None:
    if target.exists() and filecmp.cmp(source, target, shallow=False):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, partial)
    partial.replace(target)

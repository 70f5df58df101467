"""versitygw as ``up --secure`` runs it: built with one check more.

Version 1.7.0 joins the ``uploadId`` of a request into a path without looking at it: who may write
to one bucket can list, plant and delete folders of every other one, and of whatever else the
server's user owns, by ``uploadId=../../../../other-bucket/folder`` (tried 2026-11-24;
``tests/services/test_secure.py`` tries it again).  The server makes UUIDs only, so nothing else is
let in.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import RuntimeUnavailableError
from pipeline.local.commands import run
from pipeline.local.locks import locked
from pipeline.local.paths import cache_dir
from pipeline.local.progress import Progress
from pipeline.local.s3 import VERSION, go_and_environment

_MODULE = f"github.com/versity/versitygw@{VERSION}"
#: Every route to a bucket or an object passes through this.
_FILE = "s3api/middlewares/bucket-object-name-validator.go"
_ANCHOR = "		bucket, object := parsePath(ctx.Path())\n"
_CHECK = """\
		// An upload's id becomes a part of a path: UUIDs only, which is what this server makes.
		for name, value := range ctx.Request().URI().QueryArgs().All() {
			if string(name) == "uploadId" && uuid.Validate(string(value)) != nil {
				return s3err.GetNoSuchUploadErr(string(value))
			}
		}
"""
_IMPORT = '	"github.com/gofiber/fiber/v3"\n'


def checked_path() -> Path:
    """Where the build with the check lies, once it was made."""
    return cache_dir() / "bin" / f"versitygw-{VERSION}-checked"


def ensure_checked(*, timeout_s: float, progress: Progress) -> str:
    """Return the path of versitygw with the check, building it into the cache if need be.

    Raises RuntimeUnavailableError that says what was tried.
    """
    if not checked_path().exists():
        with locked(cache_dir() / "versitygw.lock", timeout_s=timeout_s):
            if not checked_path().exists():
                _build(timeout_s, progress)
    return str(checked_path())


def _build(timeout_s: float, progress: Progress) -> None:
    checked_path().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=cache_dir()) as name:
        folder = Path(name)
        go, env = go_and_environment(folder, timeout_s=timeout_s, progress=progress)
        progress(f"building versitygw {VERSION} with a check of upload ids (once; a minute)")
        source = _source(go, env, folder, timeout_s)
        # A copy: Go lets nobody replace files of its module cache, which is read-only.
        copy = Path(shutil.copytree(source, folder / "source", copy_function=shutil.copyfile))
        copy.chmod(0o700)
        for changed in (copy / _FILE).parents:
            changed.chmod(0o700)
            if changed == copy:
                break
        (copy / _FILE).write_text(_checked((source / _FILE).read_text()))
        built = folder / "versitygw"
        argv = [go, "build", "-C", str(copy), "-modcacherw", "-trimpath", "-buildvcs=false"]
        argv += ["-ldflags=-s -w", "-o", str(built), "./cmd/versitygw"]
        run(argv, env=env, timeout_s=timeout_s)
        built.replace(checked_path())


def _source(go: str, env: Mapping[str, str], folder: Path, timeout_s: float) -> Path:
    # In a folder without a go.mod: the module by its name and sum alone.
    argv = [go, "mod", "download", "-modcacherw", "-json", _MODULE]
    answer = run(argv, env={**env, "GOFLAGS": "-mod=mod", "PWD": str(folder)}, timeout_s=timeout_s)
    return Path(json.loads(answer[answer.index("{") :])["Dir"])


def _checked(text: str) -> str:
    if _ANCHOR not in text or _IMPORT not in text:
        raise RuntimeUnavailableError(
            f"versitygw {VERSION}: {_FILE} is not what the check of upload ids was written for"
        )
    text = text.replace(_IMPORT, _IMPORT + '	"github.com/google/uuid"\n')
    return text.replace(_ANCHOR, _CHECK + _ANCHOR)

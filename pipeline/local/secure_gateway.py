"""versitygw as ``up --secure`` runs it: built with two checks more.

Version 1.7.0 joins the ``uploadId`` of a request, and the keys in the body of a request that
deletes many, into paths without looking at them: who may write to, or delete in, one bucket can
list, plant and delete files of every other one, and of whatever else the server's user owns, by
``../`` in them (tried 2026-11-24; ``tests/services/test_secure.py`` tries it again).  The server
makes upload ids that are UUIDs, and no key of ours leaves its bucket, so nothing else is let in.
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
_VALIDATOR = "s3api/middlewares/bucket-object-name-validator.go"
_POSIX = "backend/posix/posix.go"
_FIBER = '	"github.com/gofiber/fiber/v3"\n'
_PATH = "		bucket, object := parsePath(ctx.Path())\n"
_DELETE = """\
	object := *input.Key
	isDir := strings.HasSuffix(object, "/")

	if !p.isBucketValid(bucket) {
"""
#: File, what is there once, and what stands there instead.
_CHANGES = (
    (_VALIDATOR, _FIBER, _FIBER + '	"github.com/google/uuid"\n'),
    # Every route to a bucket or an object passes here.
    (
        _VALIDATOR,
        _PATH,
        """\
		for name, value := range ctx.Request().URI().QueryArgs().All() {
			if string(name) == "uploadId" && uuid.Validate(string(value)) != nil {
				return s3err.GetNoSuchUploadErr(string(value))
			}
		}
"""
        + _PATH,
    ),
    (
        _POSIX,
        _DELETE,
        _DELETE.replace(
            "\n	if",
            """
	if !filepath.IsLocal(object) {
		return nil, s3err.GetAPIError(s3err.ErrBadRequest)
	}
	if""",
        ),
    ),
)


def checked_path() -> Path:
    """Where the build with the checks lies, once it was made."""
    return cache_dir() / "bin" / f"versitygw-{VERSION}-checked-2"


def ensure_checked(*, timeout_s: float, progress: Progress) -> str:
    """Return the path of versitygw with the checks, building it into the cache if need be.

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
        progress(f"building versitygw {VERSION} with checks of paths (once; a minute)")
        source = _source(go, env, folder, timeout_s)
        # A copy: Go lets nobody replace files of its module cache, which is read-only.
        copy = Path(shutil.copytree(source, folder / "source", copy_function=shutil.copyfile))
        copy.chmod(0o700)
        for folder_of_copy in (copy / "s3api" / "middlewares", copy / "backend" / "posix"):
            folder_of_copy.chmod(0o700)
        for file, there, instead in _CHANGES:
            _change(copy / file, there, instead)
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


def _change(path: Path, there: str, instead: str) -> None:
    text = path.read_text()
    if text.count(there) != 1:
        raise RuntimeUnavailableError(
            f"versitygw {VERSION}: {path.name} is not what our checks were written for"
        )
    path.write_text(text.replace(there, instead))

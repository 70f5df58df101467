"""What an error of the operating system means for a store in a directory."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import (
    InvalidArgumentError,
    PipelineError,
    StoreDeniedError,
    StoreFullError,
    StoreUnavailableError,
)

#: EFBIG: the limit on the size of a file (``ulimit -f``) has the same cure as a full quota.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_BAD_NAME = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.EISDIR, errno.ENOTDIR})


@contextmanager
def translated(store: str, path: Path) -> Iterator[None]:
    """Turn errors of the system at ``path`` into the errors of a store."""
    try:
        yield
    except PipelineError:
        raise
    except OSError as error:
        raise _translate(error, store, path) from error


def _translate(error: OSError, store: str, path: Path) -> PipelineError:
    problem = f"{path}: {error.strerror or error}"
    if error.errno in _FULL:
        return StoreFullError(store, problem)
    if error.errno in _DENIED:
        return StoreDeniedError(store, problem)
    if error.errno in _BAD_NAME:
        return InvalidArgumentError("key", problem)
    return StoreUnavailableError(store, problem)

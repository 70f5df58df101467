"""Whether an HDF5 file of a detector can be read to its last chunk, and holds what it says.

The rules are those of the readers named in ``docs/sinks/check.md``.  A file is looked at in a
process of its own: a damaged one can crash the HDF5 library.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline.errors import SinkError
from pipeline.sinks.hdf5.comparing import Proof, wanted_of
from pipeline.sinks.hdf5.differences import Pixels, Progress, Wanted, check_owner, differences
from pipeline.sinks.hdf5.findings import Finding, first_of_each_file
from pipeline.sinks.hdf5.sayings import AllSaid, Said, Sayings
from pipeline.sinks.hdf5.structure import findings_of
from pipeline.stream import Stream

__all__ = ["Finding", "check_file"]
#: A file that cannot be read so long hangs.
_SILENCE_S = 60.0
_AGAIN = "take it from the stream again"


def check_file(
    path: Path,
    *,
    stream: Stream | None = None,
    progress: Progress = lambda _done, _total: None,
) -> list[Finding]:
    """Look at a file and all that it refers to, and decode every chunk; blocks until then.

    ``stream``: the one it was made from, with which every frame is compared.  One frame is in
    memory at a time, and some 200 bytes of each.

    Raises
    ------
    SinkError
        There is no such file, it is none of HDF5, or one that cannot be compared with ``stream``.
    StreamOpenError
        The stream may still grow.
    StoreUnavailableError, StoreDeniedError
        Its pixels cannot be read at all.
    """
    if not path.is_file():
        raise SinkError(f"{path} is not there, or no file")
    with path.open("rb") as file:
        if file.read(8) != b"\x89HDF\r\n\x1a\n":
            raise SinkError(f"{path} is no HDF5 file")
    if stream is None:
        return list(_of_process(path, None, progress, lambda _: ()))
    wanted, rows = wanted_of(stream)
    proof = Proof(stream, wanted, rows)
    sayings = Sayings(stream, path.name)

    def answer(value: Pixels | Said | AllSaid) -> Iterable[Finding]:
        if not isinstance(value, Pixels):
            return sayings.differences(value)
        proof.add(value)
        return ()

    findings = list(first_of_each_file(_of_process(path, wanted, progress, answer)))
    return [*findings, *first_of_each_file(proof.differences(progress))]


def _of_process(
    path: Path,
    wanted: Wanted | None,
    progress: Progress,
    answer: Callable[[Pixels | Said | AllSaid], Iterable[Finding]],
) -> Iterator[Finding]:
    """Yield what a process of its own finds, and what ``answer`` does by what it hands over."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_examine, args=(path, wanted, theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        while True:
            if not ours.poll(_SILENCE_S):
                what = f"nothing was heard of it for {_SILENCE_S:g} s while it was read"
                yield Finding(path.name, "/", what, "is its disk there?")
                return
            kind, value = ours.recv()
            if kind == "progress":
                progress(*value)
            elif kind == "refused":
                raise SinkError(value)
            elif kind == "done":
                return
            elif isinstance(value, Finding):
                yield value
            else:
                yield from answer(value)
    except (EOFError, ConnectionError):
        child.join()
        what = f"the HDF5 library crashed while it was read (status {child.exitcode})"
        yield Finding(path.name, "/", what, _AGAIN)
    finally:
        child.kill()
        child.join()
        ours.close()


def _examine(path: Path, wanted: Wanted | None, connection: Connection) -> None:
    try:
        for found in _findings(path, wanted, lambda *at: connection.send(("progress", at))):
            connection.send(("finding", found))
    except SinkError as error:
        connection.send(("refused", str(error)))
    except Exception as error:  # noqa: BLE001 -- a damaged file can raise anything
        text = f"cannot be read ({type(error).__name__}: {error})"
        todo = "if its writer was killed: lichtstrom hdf5 repair"
        connection.send(("finding", Finding(path.name, "/", text, todo)))
    connection.send(("done", None))


def _findings(path: Path, wanted: Wanted | None, progress: Progress) -> Iterator[Any]:
    if wanted is not None:
        check_owner(path, wanted)
    yield from findings_of(path, progress)
    if wanted is not None:
        yield from first_of_each_file(differences(path, wanted, progress))

"""The limits: the same bytes moved by bare calls, by as many threads and processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.bench.children import Child, Line, Usage
from pipeline.bench.ground import HEAT_NBYTES, heat
from pipeline.config import Settings
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from obstore.store import S3Store

#: Threads that a publisher uploads with, and a reader reads with, by default.
THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """Objects of these sizes, to be written in this folder or bucket."""

    sizes: Sequence[int]
    folder: Path
    sync: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of all."""
        return sum(self.sizes)


def write_objects(line: Line, objects: Objects) -> None:
    """Write the objects as plain files, each in one call; says ``ready``, ``done``."""
    data = _data(objects)

    def write(index: int, nbytes: int) -> None:
        descriptor = os.open(objects.folder / f"{index}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        rest = data[:nbytes]
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if objects.sync:
            os.fsync(descriptor)
        os.close(descriptor)

    line.say("ready")
    line.wait()
    usage = Usage()
    _in_threads(objects.sizes, write)
    line.say("done", **usage.facts())


def plain_write(objects: Objects) -> tuple[float, float]:
    """Return MB/s and processor seconds per GB of plain writes in a process of its own."""
    with Child(write_objects, objects) as writer:
        writer.hear("ready")
        heat(objects.folder, min(objects.nbytes, HEAT_NBYTES))
        writer.go_on()
        facts = writer.hear("done")
    elapsed_s = facts["done_s"] - facts["begun_s"]
    return objects.nbytes / elapsed_s / 1e6, facts["cpu_s"] / objects.nbytes * 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Objects through an S3 server, from one process to another."""

    settings: Settings
    bucket: str
    sizes: Sequence[int]
    pipe: Connection


def put_objects(line: Line, transfer: Transfer) -> None:
    """Put the objects, telling the other process of each; says ``ready``, ``done``."""
    import obstore

    client = bare_client(transfer.settings, transfer.bucket)
    data = np.random.default_rng(0).bytes(max(transfer.sizes))
    view, lock = memoryview(data), threading.Lock()

    def put(index: int, nbytes: int) -> None:
        obstore.put(client, f"bare/{index}", view[:nbytes], use_multipart=False)
        with lock:
            transfer.pipe.send((index, nbytes))

    line.say("ready")
    line.wait()
    usage = Usage()
    _in_threads(transfer.sizes, put)
    transfer.pipe.send(None)
    line.say("done", **usage.facts())


def get_objects(line: Line, transfer: Transfer) -> None:
    """Get each object as soon as it is there; says ``ready``, ``done``."""
    import obstore

    client = bare_client(transfer.settings, transfer.bucket)
    lock = threading.Lock()

    def get() -> None:
        while True:
            with lock:
                found = transfer.pipe.recv()
                if found is None:
                    transfer.pipe.close()
            if found is None:
                return
            index, nbytes = found
            if len(obstore.get(client, f"bare/{index}").bytes()) != nbytes:
                raise PipelineError(f"object {index} was cut short")

    line.say("ready")
    usage = Usage()
    _run_threads([_until_closed(get)] * THREADS)
    line.say("done", **usage.facts())


def put_and_get(settings: Settings, bucket: str, sizes: Sequence[int], scratch: Path) -> float:
    """Return MB/s of bare obstore put and get of the same objects running together.

    ``scratch`` is a folder on the server's file system.
    """
    import multiprocessing

    theirs, ours = multiprocessing.get_context("spawn").Pipe(duplex=False)
    put = Transfer(settings=settings, bucket=bucket, sizes=sizes, pipe=ours)
    get = Transfer(settings=settings, bucket=bucket, sizes=sizes, pipe=theirs)
    try:
        with Child(put_objects, put) as putter, Child(get_objects, get) as getter:
            putter.hear("ready")
            getter.hear("ready")
            heat(scratch, min(sum(sizes), HEAT_NBYTES))
            putter.go_on()
            begun = putter.hear("done")["begun_s"]
            done = getter.hear("done")["done_s"]
    finally:
        theirs.close()
        ours.close()
    return float(sum(sizes) / (done - begun) / 1e6)


def bare_client(settings: Settings, bucket: str) -> S3Store:
    """Return obstore's own client with nothing of ours around it."""
    from obstore.store import S3Store

    store = settings.store
    return S3Store(
        bucket,
        endpoint=store.endpoints[0],
        access_key_id=store.access_key,
        secret_access_key=str(store.secret_key),
        region=store.region,
        unsigned_payload=True,  # as ours
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


def _data(objects: Objects) -> memoryview:
    return memoryview(np.random.default_rng(0).bytes(max(objects.sizes)))


def _in_threads(sizes: Sequence[int], action: Callable[[int, int], None]) -> None:
    work, lock = iter(enumerate(sizes)), threading.Lock()

    def run() -> None:
        while True:
            with lock:
                item = next(work, None)
            if item is None:
                return
            action(*item)

    _run_threads([run] * THREADS)


def _run_threads(actions: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _until_closed(action: Callable[[], None]) -> Callable[[], None]:
    """Return ``action`` ending quietly when another thread has met the end of the pipe."""

    def run() -> None:
        try:
            action()
        except OSError:
            return

    return run

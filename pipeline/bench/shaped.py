"""Several links of a known bandwidth on one machine: gateways in a network namespace.

A veth pair for each link, both ends shaped by tbf, one versitygw at the far end of each, all on
one directory.  Needs root and iproute2.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pipeline.bench.ground import Ground
from pipeline.bench.rows import Row, row
from pipeline.config import StoreSettings
from pipeline.credentials import Secret
from pipeline.errors import RuntimeUnavailableError
from pipeline.local.commands import run
from pipeline.local.processes import ProcessId, is_running, spawn, stop, wait_until
from pipeline.local.s3 import REGION, ensure_versitygw

_PORT = 7070
_STEP_LIMIT_S = 20.0
_BUILD_LIMIT_S = 900.0


def why_not() -> str:
    """Return why links cannot be made on this machine, nothing if they can."""
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing:
        return f"no {' and no '.join(missing)} here (Debian: apt install iproute2)"
    if os.geteuid() != 0:
        return "network namespaces and tc need root"
    name = f"lt{secrets.token_hex(3)}"
    try:
        run(["ip", "netns", "add", name], timeout_s=_STEP_LIMIT_S)
        run(["ip", "netns", "del", name], timeout_s=_STEP_LIMIT_S)
    except RuntimeUnavailableError as error:
        return f"network namespaces do not work here ({error})"
    return ""


@dataclass(kw_only=True)
class ShapedLinks:
    """Links to one storage, each with its gateway; made by :func:`shaped_links`.

    Parameters
    ----------
    folder:
        The storage: each directory in it is a bucket.
    count:
        How many links.
    mbit_per_s:
        Bandwidth of each, either way.
    """

    folder: Path
    count: int
    mbit_per_s: int
    name: str = field(default_factory=lambda: f"lt{secrets.token_hex(3)}")
    _processes: list[ProcessId] = field(default_factory=list)

    access_key: ClassVar[str] = "links"
    secret_key: ClassVar[str] = "links-secret"  # noqa: S105 -- of servers that live for seconds

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The gateways' addresses, one for each link."""
        return tuple(f"http://{self._address(n, 2)}:{_PORT}" for n in range(self.count))

    def settings(self, links: int | None = None, *, timeout_s: float = 10.0) -> StoreSettings:
        """Return settings of a store that uses the first so many links; None: all."""
        return StoreSettings(
            url="s3://",
            endpoints=self.endpoints[:links],
            access_key=self.access_key,
            secret_key=Secret(self.secret_key),
            region=REGION,
            timeout_s=timeout_s,
        )

    def cut(self, number: int) -> None:
        """Take the far end of a link down: packets vanish, no connection is told."""
        self._inside("ip", "link", "set", self._device(number, 2), "down")

    def mend(self, number: int) -> None:
        """Take it up again."""
        self._inside("ip", "link", "set", self._device(number, 2), "up")

    def gateway(self, number: int) -> ProcessId:
        """Return the process of a link's gateway."""
        return self._processes[number]

    def make(self) -> None:
        """Make the namespace and the links, start the gateways and wait until they answer."""
        program = ensure_versitygw(timeout_s=_BUILD_LIMIT_S)
        _do("ip", "netns", "add", self.name)
        self._inside("ip", "link", "set", "lo", "up")
        for number in range(self.count):
            self._link(number)
            self._processes.append(self._start(program, number))
        if not wait_until(self._answer, timeout_s=_STEP_LIMIT_S):
            raise RuntimeUnavailableError(f"the gateways at {self.endpoints} do not answer")

    def remove(self) -> None:
        """End the gateways; the links go with the namespace."""
        for process in self._processes:
            stop(process, timeout_s=1.0)
        for number in range(self.count):
            near = self._device(number, 1)
            if Path(f"/sys/class/net/{near}").exists():
                _do("ip", "link", "del", near)
        if Path(f"/run/netns/{self.name}").exists():
            _do("ip", "netns", "del", self.name)

    def _link(self, number: int) -> None:
        near, far = self._device(number, 1), self._device(number, 2)
        peer = ["type", "veth", "peer", "name", far, "netns", self.name]
        _do("ip", "link", "add", near, *peer)
        _do("ip", "addr", "add", f"{self._address(number, 1)}/30", "dev", near)
        self._inside("ip", "addr", "add", f"{self._address(number, 2)}/30", "dev", far)
        _do("ip", "link", "set", near, "up")
        self._inside("ip", "link", "set", far, "up")
        # Short queues: what waits in one is neither here nor there when a link is cut.
        shape = ["tbf", "rate", f"{self.mbit_per_s}mbit", "burst", "64kb", "latency", "100ms"]
        _do("tc", "qdisc", "add", "dev", near, "root", *shape)
        self._inside("tc", "qdisc", "add", "dev", far, "root", *shape)

    def _start(self, program: str, number: int) -> ProcessId:
        ip = shutil.which("ip") or "ip"
        argv = [ip, "netns", "exec", self.name, program, "--region", REGION, "--keep-alive"]
        argv += ["--port", f"{self._address(number, 2)}:{_PORT}", "--health", "/health", "--quiet"]
        env = {**os.environ, "ROOT_ACCESS_KEY_ID": self.access_key}
        env["ROOT_SECRET_ACCESS_KEY"] = self.secret_key
        output = self.folder.with_name(f"{self.folder.name}-gateway-{number + 1}.out")
        return spawn([*argv, "posix", str(self.folder)], env=env, output=output)

    def _answer(self) -> bool:
        import urllib.request

        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            for endpoint in self.endpoints:
                opener.open(f"{endpoint}/health", timeout=1.0).close()
        except OSError:
            return False
        return all(map(is_running, self._processes))

    def _device(self, number: int, end: int) -> str:
        return f"{self.name}-{number}{'ab'[end - 1]}"

    def _address(self, number: int, end: int) -> str:
        # A /30 for each link in a /24 drawn by lot, so that two rigs can stand side by side.
        middle = int(self.name[2:], 16)
        return f"10.{200 + middle % 50}.{middle // 50 % 250}.{4 * number + end}"

    def _inside(self, *argv: str) -> None:
        _do("ip", "netns", "exec", self.name, *argv)


@contextmanager
def shaped_links(folder: Path, *, count: int = 2, mbit_per_s: int = 160) -> Iterator[ShapedLinks]:
    """Give links to the storage in ``folder``; they are removed afterwards.

    Raises RuntimeUnavailableError where :func:`why_not` has something to say.
    """
    problem = why_not()
    if problem:
        raise RuntimeUnavailableError(f"no shaped links: {problem}")
    folder.mkdir(parents=True, exist_ok=True)
    made = ShapedLinks(folder=folder, count=count, mbit_per_s=mbit_per_s)
    try:
        made.make()
        yield made
    finally:
        made.remove()


@dataclass(frozen=True, slots=True)
class Transferred:
    """What moving objects came to: MB/s, and the longest that one of them took (seconds)."""

    mb_per_s: float
    slowest_s: float


def move(
    settings: StoreSettings, bucket: str, sizes: Sequence[int], *, threads: int, get: bool
) -> Transferred:
    """Put, or get, objects of these sizes with so many threads; they are named by their place."""
    from concurrent.futures import ThreadPoolExecutor

    from pipeline.blobs import open_store

    data = os.urandom(max(sizes))
    store = open_store(settings)

    def one(place: int) -> float:
        begun_s = time.monotonic()
        key = f"{bucket}/{place}"
        if get:
            store.get(key, 0, sizes[place])
        else:
            store.put(key, [memoryview(data)[: sizes[place]]], durability="process")
        return time.monotonic() - begun_s

    try:
        store.create_bucket(bucket)
        begun_s = time.monotonic()
        with ThreadPoolExecutor(threads) as pool:
            slowest_s = max(pool.map(one, range(len(sizes))))
        return Transferred(sum(sizes) / 1e6 / (time.monotonic() - begun_s), slowest_s)
    finally:
        store.close()


def _do(*argv: str) -> None:
    run(list(argv), timeout_s=_STEP_LIMIT_S)


#: Rows, and what they move: objects of a megabyte, over links of 20 MB/s that two cores fill idly.
LINK_ROWS = ("links.put.two", "links.get.two", "links.cut", "links.killed")
_OBJECT_NBYTES = 1 << 20
_THREADS = 4


def linked(ground: Ground, name: str) -> Row:
    """Measure two links beside one, or the longest put while one goes; skipped unless root."""
    problem = why_not()
    if problem:
        ground.tell(f"{name} skipped: {problem}")
        return Row(id=name, conditions=f"skipped: {problem}")
    count = 32 if ground.quick else 128
    sizes = [_OBJECT_NBYTES] * count
    with ground.scratch() as folder, shaped_links(folder / "store") as links:
        shaped = f"{links.mbit_per_s} Mbit/s each (tbf on veth), {_THREADS} threads, page cache"
        if name.endswith(".two"):
            return _two(links, name, sizes, [f"{count} objects of 1 MiB", f"two links of {shaped}"])
        begun = move(links.settings(), "before", sizes, threads=_THREADS, get=False)
        timer = threading.Timer(0.3, lambda: _take_away(links, name))
        timer.start()
        lost = move(links.settings(), "lost", sizes * 2, threads=_THREADS, get=False)
        timer.join()
        how = "its far end down" if name == "links.cut" else "its gateway killed"
        return row(
            name,
            [lost.slowest_s * 1000],
            [begun.slowest_s * 1000],
            unit="ms",
            conditions=[
                f"the longest of {count * 2} puts of 1 MiB, one of two links lost after 0.3 s",
                f"{how}; store.timeout_s 10; {shaped}; limit: the longest put before",
            ],
        )


def _two(links: ShapedLinks, name: str, sizes: Sequence[int], conditions: Sequence[str]) -> Row:
    get = name == "links.get.two"
    if get:
        move(links.settings(), "links", sizes, threads=_THREADS, get=False)
    one, two = [], []
    for _ in range(3):
        one.append(move(links.settings(1), "links", sizes, threads=_THREADS, get=get).mb_per_s)
        two.append(move(links.settings(), "links", sizes, threads=_THREADS, get=get).mb_per_s)
    limits = ", ".join(f"{rate:.4g}" for rate in one)
    said = [*conditions, f"limit: the same over one of them, runs {limits}"]
    return row(name, two, one, unit="MB/s", conditions=said)


def _take_away(links: ShapedLinks, name: str) -> None:
    if name == "links.cut":
        links.cut(1)
    else:
        stop(links.gateway(1), timeout_s=0.0)

"""``up`` and ``down``: the servers of one home."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import RuntimeUnavailableError
from pipeline.local.archive import ensure_archive
from pipeline.local.jars import ensure as ensure_jars
from pipeline.local.jars import read_lock
from pipeline.local.java import ensure_java
from pipeline.local.kafka import KafkaServer, new_cluster_id
from pipeline.local.locks import locked
from pipeline.local.net import LOOPBACK
from pipeline.local.processes import is_running, stop
from pipeline.local.progress import Progress, quiet
from pipeline.local.s3 import REGION, S3Server, ensure_versitygw
from pipeline.local.servers import ensure_serving, is_serving
from pipeline.local.state import (
    RUNTIME_FILE,
    KafkaInfo,
    RuntimeInfo,
    S3Info,
    ServerState,
    State,
    write_private,
)

LOCK_FILE = ".lock"


def up(
    home: Path,
    *,
    timeout_s: float = 120.0,
    prepare_timeout_s: float = 900.0,
    s3: bool = True,
    progress: Progress | None = None,
) -> RuntimeInfo:
    """Start what does not run of the servers of ``home`` and return where they answer.

    May be called at any time, also by several processes at once: what runs is kept, what was
    killed is started again on its data and, if they are free, on its ports.  On failure nothing
    that this call started is left running.

    Parameters
    ----------
    home:
        Directory of the runtime, made if need be.
    timeout_s:
        Limit for another ``up`` or ``down`` to finish, and again for the servers to answer.
    prepare_timeout_s:
        Limit for each download or build that the first start on a machine needs.
    s3:
        Start the S3 server too; without any way to get one, this is said and left out.
    progress:
        Called with a line of text at each step.

    Raises
    ------
    RuntimeUnavailableError
        With the last lines of the server that did not start, or what could not be had.
    """
    tell = progress or quiet
    home = home.expanduser().absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "store").mkdir(exist_ok=True)
    except OSError as error:
        raise RuntimeUnavailableError(f"{home} cannot be made: {error}") from error
    with locked(home / LOCK_FILE, timeout_s=timeout_s):
        return _Up(
            home=home, timeout_s=timeout_s, prepare_timeout_s=prepare_timeout_s, tell=tell
        ).run(want_s3=s3)


def down(home: Path, *, timeout_s: float = 60.0) -> bool:
    """Stop the servers that ``up`` recorded in ``home``; False if none was running.

    Each gets SIGTERM and after ``timeout_s`` SIGKILL.  Data and ports are kept for the next
    ``up``.  No other process is ever signalled.
    """
    home = home.expanduser().absolute()
    if not home.is_dir():
        return False
    with locked(home / LOCK_FILE, timeout_s=timeout_s):
        state = State.load(home)
        # First the note, so that nobody finds servers that are about to go.
        (home / RUNTIME_FILE).unlink(missing_ok=True)
        # The S3 server first: it is quick, and a record must not outlive its bytes' server.
        stopped = [stop(server.process, timeout_s=timeout_s) for server in (state.s3, state.kafka)]
        state.s3.process = state.kafka.process = None
        state.save(home)
    return any(stopped)


@dataclass(kw_only=True)
class _Up:
    """One call of :func:`up`, under the lock."""

    home: Path
    timeout_s: float
    prepare_timeout_s: float
    tell: Progress

    def run(self, *, want_s3: bool) -> RuntimeInfo:
        state = State.load(self.home)
        state.cluster_id = state.cluster_id or new_cluster_id()
        state.access_key = state.access_key or secrets.token_hex(10)
        state.secret_key = state.secret_key or secrets.token_hex(20)
        kafka = KafkaServer(home=self.home)
        serving = is_serving(kafka, state.kafka)
        s3 = self._s3_server(state) if want_s3 or is_running(state.s3.process) else None
        if not serving:
            kafka = self._kafka_server(state)
        # What runs already is not ours to stop when something else fails.
        started = [x for x in (state.kafka, state.s3) if not is_running(x.process)]
        try:
            if not serving:
                self.tell("starting Kafka")
                state.started_ns = time.time_ns()
            self._serve(kafka, state.kafka, state)
            if s3 is not None:
                self._serve(s3, state.s3, state)
            info = self._info(state)
            write_private(self.home / RUNTIME_FILE, info.to_json())
        except BaseException:
            self._undo(started, state)
            raise
        return info

    def _serve(self, server: KafkaServer | S3Server, which: ServerState, state: State) -> None:
        ensure_serving(server, which, save=lambda: state.save(self.home), timeout_s=self.timeout_s)

    def _kafka_server(self, state: State) -> KafkaServer:
        limit_s = self.prepare_timeout_s
        java = ensure_java(timeout_s=limit_s, progress=self.tell)
        jars = ensure_jars(read_lock(), timeout_s=limit_s, progress=self.tell)
        archive = ensure_archive(java, jars, timeout_s=self.timeout_s, progress=self.tell)
        return KafkaServer(
            home=self.home,
            cluster_id=state.cluster_id,
            java=java.path,
            jars=jars,
            archive=archive,
        )

    def _s3_server(self, state: State) -> S3Server | None:
        program = ""
        if not is_serving(S3Server(home=self.home), state.s3):
            try:
                program = ensure_versitygw(timeout_s=self.prepare_timeout_s, progress=self.tell)
            except RuntimeUnavailableError as error:
                self.tell(f"no S3 server, the store is file: only ({error})")
                return None
        return S3Server(
            home=self.home,
            program=program,
            access_key=state.access_key,
            secret_key=state.secret_key,
        )

    def _info(self, state: State) -> RuntimeInfo:
        return RuntimeInfo(
            kafka=KafkaInfo(bootstrap=f"{LOOPBACK}:{state.kafka.ports[0]}", pid=_pid(state.kafka)),
            store_url=(self.home / "store").as_uri(),
            s3=_s3_info(state),
            started_ns=state.started_ns,
        )

    def _undo(self, started: list[ServerState], state: State) -> None:
        for server in started:
            stop(server.process, timeout_s=10.0)
            server.process = None
        state.save(self.home)


def _s3_info(state: State) -> S3Info | None:
    if not is_running(state.s3.process):
        return None
    return S3Info(
        endpoint=f"http://{LOOPBACK}:{state.s3.ports[0]}",
        access_key=state.access_key,
        secret_key=state.secret_key,
        region=REGION,
        pid=_pid(state.s3),
    )


def _pid(server: ServerState) -> int:
    return server.process.pid if server.process else 0

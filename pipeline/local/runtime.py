"""``up`` and ``down``: the servers of one home."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import RuntimeUnavailableError
from pipeline.local import secure as secure_home
from pipeline.local.archive import ensure_archive
from pipeline.local.connect import ALIVE, ConnectServer
from pipeline.local.connect_worker import make_server
from pipeline.local.jars import ensure as ensure_jars
from pipeline.local.jars import read_lock
from pipeline.local.java import ensure_java
from pipeline.local.kafka import KafkaServer, new_cluster_id
from pipeline.local.locks import locked
from pipeline.local.net import LOOPBACK
from pipeline.local.processes import is_running, stop
from pipeline.local.progress import Progress, quiet
from pipeline.local.s3 import REGION, S3Server, ensure_versitygw
from pipeline.local.secure import Secured
from pipeline.local.secure_gateway import ensure_checked
from pipeline.local.servers import STOP_TIMEOUT_S, Server, ensure_serving, is_serving
from pipeline.local.state import (
    RUNTIME_FILE,
    ConnectInfo,
    KafkaInfo,
    RuntimeInfo,
    S3Info,
    ServerState,
    State,
    write_private,
)
from pipeline.naming import DEFAULT_PREFIX

LOCK_FILE = ".lock"
# A worker without its broker can end its tasks (5 s), but not leave its group.
_ORPHAN_STOP_S = 8.0


def up(
    home: Path,
    *,
    timeout_s: float = 120.0,
    prepare_timeout_s: float = 900.0,
    s3: bool = True,
    connect: bool = False,
    secure: bool = False,
    prefix: str = DEFAULT_PREFIX,
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
    connect:
        Start a Kafka Connect worker, too.  One that runs, or was killed, is kept in any case.
    secure:
        TLS, users and access rules on every server, for good: a home that was secured once stays
        so.  What runs without is stopped and started again.
    prefix:
        What the names of the worker's topics and of its group begin with.
    progress:
        Called with a line of text at each step.

    Raises
    ------
    RuntimeUnavailableError
        With the last lines of the server that did not start, or what could not be had.
    """
    tell = progress or quiet
    home = home.expanduser().absolute()
    if connect and (secure or State.load(home).password):
        raise RuntimeUnavailableError(
            "--connect with --secure: its REST interface would let every user of this machine do"
            " what the administrator may; run workers of your own, see docs/security.md"
        )
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "store").mkdir(exist_ok=True)
    except OSError as error:
        raise RuntimeUnavailableError(f"{home} cannot be made: {error}") from error
    with locked(home / LOCK_FILE, timeout_s=timeout_s):
        return _Up(
            home=home, timeout_s=timeout_s, prepare_timeout_s=prepare_timeout_s, tell=tell
        ).run(want_s3=s3, prefix=prefix if connect else None, want_secure=secure)


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
        # Connect first, while it can finish its work; then the S3 server: it is quick, and a
        # record must not outlive its bytes' server.
        servers = (state.connect, state.s3, state.kafka)
        stopped = [stop(server.process, timeout_s=timeout_s) for server in servers]
        for server in servers:
            server.process = None
        state.save(home)
    return any(stopped)


@dataclass(kw_only=True)
class _Up:
    """One call of :func:`up`, under the lock."""

    home: Path
    timeout_s: float
    prepare_timeout_s: float
    tell: Progress
    secured: Secured | None = None

    def run(self, *, want_s3: bool, prefix: str | None, want_secure: bool) -> RuntimeInfo:
        state = State.load(self.home)
        self._secure(state, wanted=want_secure)
        state.cluster_id = state.cluster_id or new_cluster_id()
        state.access_key = state.access_key or secrets.token_hex(10)
        state.secret_key = state.secret_key or secrets.token_hex(20)
        kafka = KafkaServer(home=self.home, secured=self.secured)
        serving = is_serving(kafka, state.kafka)
        s3 = self._s3_server(state) if want_s3 or is_running(state.s3.process) else None
        if not serving:
            kafka = self._kafka_server(state)
        # Asked for, or not stopped by `down`: then it was killed, and is started as it was.
        want_connect = prefix is not None or state.connect.process is not None
        connect: ConnectServer | None = None
        if want_connect and not is_serving(
            ConnectServer(home=self.home, probe=ALIVE), state.connect
        ):
            connect = self._connect_server(prefix)
        # What runs already is not ours to stop when something else fails.
        servers = (state.kafka, state.s3, state.connect)
        started = [x for x in servers if not is_running(x.process)]
        try:
            if not serving:
                self.tell("starting Kafka")
                state.started_ns = time.time_ns()
            self._serve(kafka, state.kafka, state)
            if self.secured and not serving:
                self.secured.make_administrator(state.kafka.ports[2], state.password)
            if s3 is not None:
                self._serve(s3, state.s3, state)
            if want_connect:
                self._serve_connect(connect, state, prefix)
            info = self._info(state)
            write_private(self.home / RUNTIME_FILE, info.to_json())
        except BaseException:
            self._undo(started, state)
            raise
        return info

    def _secure(self, state: State, *, wanted: bool) -> None:
        """Prepare a home that is, or is to be, secured."""
        if wanted and not state.password:
            for server in (state.connect, state.s3, state.kafka):
                stop(server.process, timeout_s=STOP_TIMEOUT_S)
                server.process = None
            state.save(self.home)
        if wanted or state.password:
            self.secured = secure_home.prepare(self.home)
            state.password = state.password or secure_home.new_password()
            state.save(self.home)

    def _serve_connect(
        self, server: ConnectServer | None, state: State, prefix: str | None
    ) -> None:
        bootstrap = _bootstrap(state)
        if server is None:
            if ConnectServer(home=self.home).recorded().get("bootstrap.servers") == bootstrap:
                return
            # The broker had to take another port: the worker would look for it in vain.
            stop(state.connect.process, timeout_s=_ORPHAN_STOP_S)
            server = self._connect_server(prefix)
        self.tell("starting Kafka Connect")
        self._serve(replace(server, bootstrap=bootstrap), state.connect, state)

    def _connect_server(self, prefix: str | None) -> ConnectServer:
        return make_server(self.home, prefix, timeout_s=self.prepare_timeout_s, progress=self.tell)

    def _serve(self, server: Server, which: ServerState, state: State) -> None:
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
            secured=self.secured,
        )

    def _s3_server(self, state: State) -> S3Server | None:
        program = ""
        if not is_serving(S3Server(home=self.home, secured=self.secured), state.s3):
            try:
                ensure = ensure_checked if self.secured else ensure_versitygw
                program = ensure(timeout_s=self.prepare_timeout_s, progress=self.tell)
            except RuntimeUnavailableError as error:
                self.tell(f"no S3 server, the store is file: only ({error})")
                return None
        return S3Server(
            home=self.home,
            program=program,
            access_key=state.access_key,
            secret_key=state.secret_key,
            secured=self.secured,
        )

    def _info(self, state: State) -> RuntimeInfo:
        kafka = KafkaInfo(bootstrap=_bootstrap(state), pid=_pid(state.kafka))
        s3 = _s3_info(state)
        if self.secured:
            ca, user = str(self.secured.ca), secure_home.ADMINISTRATOR
            kafka = replace(kafka, username=user, password=state.password, ca=ca)
            s3 = replace(s3, ca=ca, endpoint=s3.endpoint.replace("http:", "https:")) if s3 else None
        return RuntimeInfo(
            kafka=kafka,
            store_url=(self.home / "store").as_uri(),
            s3=s3,
            started_ns=state.started_ns,
            connect=_connect_info(state),
        )

    def _undo(self, started: list[ServerState], state: State) -> None:
        for server in started:
            stop(server.process, timeout_s=10.0)
            server.process = None
        state.save(self.home)


def _bootstrap(state: State) -> str:
    return f"{LOOPBACK}:{state.kafka.ports[0]}"


def _connect_info(state: State) -> ConnectInfo | None:
    if not is_running(state.connect.process):
        return None
    return ConnectInfo(url=f"http://{LOOPBACK}:{state.connect.ports[0]}", pid=_pid(state.connect))


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

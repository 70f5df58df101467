"""``up`` and ``down``: the servers of one home."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import InvalidArgumentError, RuntimeUnavailableError
from pipeline.local import secure as secure_home
from pipeline.local.archive import ensure_archive
from pipeline.local.cluster import ensure_brokers, is_cluster_serving, stop_brokers
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
from pipeline.local.s3 import REGION, S3Server, ensure_versitygw, several
from pipeline.local.secure import Secured
from pipeline.local.secure_gateway import ensure_checked
from pipeline.local.servers import STOP_TIMEOUT_S, Server, ensure_serving, is_serving
from pipeline.local.state import (
    RUNTIME_FILE,
    ConnectInfo,
    KafkaInfo,
    NodeInfo,
    RuntimeInfo,
    S3Info,
    ServerState,
    State,
    write_private,
)
from pipeline.naming import DEFAULT_PREFIX

LOCK_FILE = ".lock"
# Controllers decide by majority: a second or a fourth one adds nothing but a way to stop.
_QUORUMS = (1, 3, 5)
# A worker without its broker can end its tasks (5 s), but not leave its group.
_ORPHAN_STOP_S = 8.0


def up(
    home: Path,
    *,
    timeout_s: float = 120.0,
    prepare_timeout_s: float = 900.0,
    s3: bool = True,
    connect: bool = False,
    brokers: int | None = None,
    gateways: int | None = None,
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
    brokers:
        How many, 1, 3 or 5, decided when a home first starts; None: as many as it has, or one.
        With three or more the loss of any one is survived: three replicas, two in sync.
    gateways:
        How many S3 servers on the one directory; None: as many as last time, or one.
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
        return Starter(
            home=home, timeout_s=timeout_s, prepare_timeout_s=prepare_timeout_s, tell=tell
        ).run(
            want_s3=s3,
            prefix=prefix if connect else None,
            counts=(brokers, gateways),
            want_secure=secure,
        )


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
        servers = (state.connect, *state.gateways)
        stopped = [stop(server.process, timeout_s=timeout_s) for server in servers]
        stopped.append(stop_brokers(home, state.brokers, timeout_s=timeout_s))
        for server in (*servers, *state.brokers):
            server.process = None
        state.save(home)
    return any(stopped)


@dataclass(kw_only=True)
class Starter:
    """What starts the servers of a home, once or again; its caller holds the lock."""

    home: Path
    timeout_s: float
    prepare_timeout_s: float
    tell: Progress
    secured: Secured | None = None

    def run(
        self,
        *,
        want_s3: bool,
        prefix: str | None = None,
        counts: tuple[int | None, int | None] = (None, None),
        want_secure: bool = False,
    ) -> RuntimeInfo:
        """Do what :func:`up` promises; ``counts``: brokers and gateways."""
        state = State.load(self.home)
        if (want_secure or state.password) and (counts[0] or len(state.brokers)) > 1:
            raise InvalidArgumentError("brokers", "a secured runtime on one machine has one broker")
        self._secure(state, wanted=want_secure)
        resize(self.home, state, *counts)
        state.cluster_id = state.cluster_id or new_cluster_id()
        state.access_key = state.access_key or secrets.token_hex(10)
        state.secret_key = state.secret_key or secrets.token_hex(20)
        kafka = KafkaServer(home=self.home, secured=self.secured)
        serving = is_cluster_serving(kafka, state.brokers)
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
        servers = (*state.brokers, *state.gateways, state.connect)
        started = [x for x in servers if not is_running(x.process)]
        try:
            if not serving:
                self.tell("starting Kafka")
                state.started_ns = time.time_ns()
            ensure_brokers(
                kafka,
                state.brokers,
                save=lambda: state.save(self.home),
                timeout_s=self.timeout_s,
            )
            if self.secured and not serving:
                self.secured.make_administrator(state.kafka.ports[2], state.password)
            if s3 is not None:
                for server, which in zip(several(s3, state.gateways), state.gateways, strict=True):
                    self._serve(server, which, state)
            if want_connect:
                self._serve_connect(connect, state, prefix)
            info = describe(self.home, state)
            state.save(self.home)  # of servers that were only taken away nothing else tells
            write_private(self.home / RUNTIME_FILE, info.to_json())
        except BaseException:
            self._undo(started, state)
            raise
        return info

    def _secure(self, state: State, *, wanted: bool) -> None:
        """Prepare a home that is, or is to be, secured."""
        if wanted and not state.password:
            for server in (state.connect, *state.gateways, state.kafka):
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
        ours = S3Server(home=self.home, secured=self.secured)
        if not all(is_serving(ours, x) for x in state.gateways):
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

    def _undo(self, started: list[ServerState], state: State) -> None:
        for server in started:
            stop(server.process, timeout_s=10.0)
            server.process = None
        state.save(self.home)


def resize(home: Path, state: State, brokers: int | None, gateways: int | None) -> None:
    """Make room in ``state`` for so many servers; gateways too many are stopped."""
    if brokers is not None and brokers != len(state.brokers):
        if brokers not in _QUORUMS:
            raise InvalidArgumentError("brokers", f"{brokers} is none of {_QUORUMS}")
        if (home / "kafka" / "data" / "meta.properties").exists():
            raise RuntimeUnavailableError(
                f"{home} was made with {len(state.brokers)} broker(s), and its data lies in them:"
                f" use another home for {brokers} (--home), or `lichtstrom export` what you need"
            )
        state.more_kafka = [ServerState() for _ in range(brokers - 1)]
    if gateways is not None:
        if gateways < 1:
            raise InvalidArgumentError("gateways", "there must be one at least")
        for extra in state.more_s3[gateways - 1 :]:
            stop(extra.process, timeout_s=STOP_TIMEOUT_S)
        kept = state.more_s3[: gateways - 1]
        state.more_s3 = kept + [ServerState() for _ in range(gateways - 1 - len(kept))]


def describe(home: Path, state: State) -> RuntimeInfo:
    """Return what clients need to know of the servers in ``state``."""
    kafka = KafkaInfo(bootstrap=_bootstrap(state), pid=_pid(state.kafka))
    s3 = _s3_info(state)
    nodes = _nodes(state) if state.more_kafka or state.more_s3 else ()
    if state.password:
        ca, user = str(secure_home.load(home).ca), secure_home.ADMINISTRATOR
        kafka = replace(kafka, username=user, password=state.password, ca=ca)
        s3 = replace(s3, ca=ca, endpoint=_secured(s3.endpoint)) if s3 else None
        nodes = tuple(replace(node, address=_secured(node.address)) for node in nodes)
    return RuntimeInfo(
        kafka=kafka,
        store_url=(home / "store").as_uri(),
        s3=s3,
        started_ns=state.started_ns,
        connect=_connect_info(state),
        nodes=nodes,
    )


def _secured(address: str) -> str:
    return address.replace("http:", "https:")


def _bootstrap(state: State) -> str:
    return ",".join(f"{LOOPBACK}:{broker.ports[0]}" for broker in state.brokers)


def _nodes(state: State) -> tuple[NodeInfo, ...]:
    brokers = [
        NodeInfo(name=f"broker-{n}", address=f"{LOOPBACK}:{x.ports[0]}", pid=_pid(x))
        for n, x in enumerate(state.brokers, start=1)
    ]
    gateways = [
        NodeInfo(name=f"gateway-{n}", address=f"http://{LOOPBACK}:{x.ports[0]}", pid=_pid(x))
        for n, x in enumerate(state.gateways, start=1)
        if is_running(x.process)
    ]
    return (*brokers, *gateways)


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

"""What runs of a runtime, without touching it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.local import secure
from pipeline.local.cluster import members
from pipeline.local.connect import ALIVE, ConnectServer
from pipeline.local.kafka import KafkaServer
from pipeline.local.processes import is_running
from pipeline.local.s3 import S3Server, several
from pipeline.local.servers import Server, is_serving
from pipeline.local.state import RuntimeInfo, ServerState, State, load_info


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """One server: recorded, running, answering.

    Parameters
    ----------
    name:
        ``Kafka``, ``versitygw`` or ``Kafka Connect``.
    pid:
        Its process as ``up`` recorded it, or None.
    running:
        Whether that very process runs.
    answers:
        Whether it serves requests.
    """

    name: str
    pid: int | None
    running: bool
    answers: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeStatus:
    """A runtime as found; ``info`` is None unless ``up`` finished and ``down`` did not follow."""

    home: Path
    info: RuntimeInfo | None
    kafka: ServiceStatus
    s3: ServiceStatus
    connect: ServiceStatus
    #: Every broker and gateway, where there are several of one kind.
    nodes: tuple[ServiceStatus, ...] = ()

    @property
    def running(self) -> bool:
        """Whether clients can work: the broker answers, and what else is to run."""
        if self.info is None or not self.kafka.answers:
            return False
        if self.info.s3 is not None and not self.s3.answers:
            return False
        if not all(node.answers for node in self.nodes):
            return False
        return self.info.connect is None or self.connect.answers

    @property
    def summary(self) -> str:
        """``running``, ``stopped``, or what is wrong, in a few words."""
        if self.running:
            return "running"
        services = (*(self.nodes or (self.kafka, self.s3)), self.connect)
        if self.info is None and not any(s.running for s in services):
            return "stopped"
        dead = [s.name for s in services if s.pid and not s.answers]
        return f"damaged: {' and '.join(dead) or 'start'} failed; `lichtstrom up` repairs it"


def status(home: Path) -> RuntimeStatus:
    """Look at the runtime of ``home``; blocks a second for each server at most."""
    home = home.expanduser().absolute()
    state, info = State.load(home), load_info(home)
    secured = secure.load(home) if state.password else None
    kafka = KafkaServer(home=home, secured=secured)
    s3 = S3Server(home=home, secured=secured)
    brokers = list(map(_look, members(kafka, state.brokers), state.brokers))
    gateways = list(map(_look, several(s3, state.gateways), state.gateways))
    if info is not None and info.s3 is None:
        gateways = gateways[:1]  # none is wanted
    return RuntimeStatus(
        home=home,
        info=info,
        kafka=brokers[0],
        s3=gateways[0],
        connect=_look(ConnectServer(home=home, probe=ALIVE), state.connect),
        nodes=(*brokers, *gateways) if len(brokers) + len(gateways) > 2 else (),
    )


def _look(server: Server, recorded: ServerState) -> ServiceStatus:
    return ServiceStatus(
        name=server.name,
        pid=recorded.process.pid if recorded.process else None,
        running=is_running(recorded.process),
        answers=is_serving(server, recorded),
    )

"""The local runtime: real servers (Kafka, S3, Kafka Connect) as child processes, no Docker."""

from pipeline.local.paths import default_home
from pipeline.local.rolling import restart
from pipeline.local.runtime import down, up
from pipeline.local.state import ConnectInfo, KafkaInfo, NodeInfo, RuntimeInfo, S3Info
from pipeline.local.status import RuntimeStatus, ServiceStatus, status

__all__ = [
    "ConnectInfo",
    "KafkaInfo",
    "NodeInfo",
    "RuntimeInfo",
    "RuntimeStatus",
    "S3Info",
    "ServiceStatus",
    "default_home",
    "down",
    "restart",
    "status",
    "up",
]

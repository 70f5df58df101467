"""The local runtime: a real Kafka broker and a real S3 server as child processes, no Docker."""

from pipeline.local.paths import default_home
from pipeline.local.runtime import down, up
from pipeline.local.state import KafkaInfo, RuntimeInfo, S3Info
from pipeline.local.status import RuntimeStatus, ServiceStatus, status

__all__ = [
    "KafkaInfo",
    "RuntimeInfo",
    "RuntimeStatus",
    "S3Info",
    "ServiceStatus",
    "default_home",
    "down",
    "status",
    "up",
]

"""The topic of schemas: what is written on the topics, readable by later and other programs."""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.request
from http.client import HTTPException

from confluent_kafka import OFFSET_BEGINNING, KafkaError, TopicPartition

from pipeline.config import KafkaSettings
from pipeline.errors import PipelineError, WireError
from pipeline.kafka.admin import Admin
from pipeline.kafka.client import make_consumer, passes, translated
from pipeline.kafka.producer import LogProducer
from pipeline.naming import Names
from pipeline.wire.schemas import make_schema, shipped

log = logging.getLogger(__name__)


class SchemaTopic:
    """Publishes our schemas once, and resolves fingerprints and registry ids. Thread-safe."""

    def __init__(self, settings: KafkaSettings, admin: Admin) -> None:
        self._settings = settings
        self._admin = admin
        self.topic = Names(settings.prefix).schemas()
        self._lock = threading.Lock()
        self._known: dict[bytes | int, str | None] = {}
        self._is_published = False

    def publish(self, producer: LogProducer, *, again: bool = True) -> None:
        """Make the topic if it is missing, and append the schemas it lacks.

        Takes half a second; with ``again`` false only the first call looks.
        """
        if self._is_published and not again:
            return
        if not self._admin.partitions(self.topic):  # who may read it may not make it
            self._admin.create_topic(self.topic, partitions=1, compacted=True)
        present = self._read()
        missing = [s for s in shipped().values() if s.fingerprint not in present]
        entries = [
            (
                self.topic,
                0,
                schema.fingerprint.hex().encode(),
                json.dumps({"sha256": schema.sha256, "schema": schema.text}).encode(),
            )
            for schema in missing
        ]
        if entries:
            producer.append_all(entries, self._settings.timeout_s)
        self._is_published = True

    def resolve(self, key: bytes | int) -> str | None:
        """Return the text of a schema by fingerprint, or by registry id; None if unknown."""
        with self._lock:
            if self._known.get(key) is None:
                self._known[key] = (
                    self._from_registry(key) if isinstance(key, int) else self._read().get(key)
                )
            return self._known[key]

    def _from_registry(self, schema_id: int) -> str | None:
        if not self._settings.registry:
            return None
        url = f"{self._settings.registry.rstrip('/')}/schemas/ids/{schema_id}"
        if not url.startswith(("http://", "https://")):
            return None
        try:
            with urllib.request.urlopen(url, timeout=self._settings.timeout_s) as answer:  # noqa: S310 -- scheme checked
                return str(json.load(answer)["schema"])
        except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
            log.warning("schema registry %s: %s", url, error)
            return None

    def _read(self) -> dict[bytes, str]:
        """Read the whole topic; entries whose checksum is wrong are logged and left out."""
        if not self._admin.partitions(self.topic):
            return {}
        consumer, watch = make_consumer(self._settings, {"enable.partition.eof": True})
        found: dict[bytes, str] = {}
        deadline = time.monotonic() + self._settings.timeout_s
        try:
            with translated(watch):
                consumer.assign([TopicPartition(self.topic, 0, OFFSET_BEGINNING)])
                while time.monotonic() < deadline:
                    message = consumer.poll(0.2)
                    if message is None:
                        continue
                    if message.error() is not None:
                        if message.error().code() == KafkaError._PARTITION_EOF:
                            return found
                        if passes(message.error()):
                            continue
                        raise watch.error(message.error())
                    _take(message.key(), message.value(), found)
        finally:
            consumer.close()
        raise watch.error(f"{self.topic} could not be read in time")


def _take(key: bytes | None, value: bytes | None, found: dict[bytes, str]) -> None:
    try:
        entry = json.loads(value or b"")
        schema = make_schema(entry["schema"])
        if schema.sha256 != entry["sha256"] or schema.fingerprint.hex().encode() != key:
            raise WireError("its checksum is wrong")
        found[schema.fingerprint] = entry["schema"]
    except (ValueError, KeyError, TypeError, PipelineError) as error:
        log.warning("schema record %r ignored: %s", key, error)

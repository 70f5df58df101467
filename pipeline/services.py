"""What a session shares among its publishers and readers: store, producer, catalogues."""

from __future__ import annotations

import functools
import threading

from pipeline.blobs import open_store
from pipeline.config import Settings
from pipeline.kafka.admin import Admin
from pipeline.kafka.catalogue import CatalogueTopic
from pipeline.kafka.log import KafkaStreamLog
from pipeline.kafka.producer import LogProducer
from pipeline.kafka.schemas import SchemaTopic
from pipeline.naming import Names
from pipeline.records import StreamInfo


class Services:
    """Opens each connection on first use and closes what it opened. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.names = Names(settings.kafka.prefix)
        self.store = open_store(settings.store)
        self.admin = Admin(settings.kafka)
        self._lock = threading.RLock()
        self._producer: LogProducer | None = None
        self._catalogues: dict[str, CatalogueTopic] = {}

    @property
    def has_broker(self) -> bool:
        """False for a session on stored streams only."""
        return bool(self.settings.kafka.bootstrap)

    @property
    def producer(self) -> LogProducer:
        """The session's one producer."""
        with self._lock:
            if self._producer is None:
                self._producer = LogProducer(self.settings.kafka)
            return self._producer

    @functools.cached_property
    def schemas(self) -> SchemaTopic:
        """The topic of schemas; it resolves those this version does not ship."""
        return SchemaTopic(self.settings.kafka, self.admin)

    def catalogue(self, beamtime: str) -> CatalogueTopic:
        """Return the catalogue of a beamtime; it is read when looked at."""
        with self._lock:
            found = self._catalogues.get(beamtime)
            if found is None:
                found = CatalogueTopic(
                    self.settings.kafka, beamtime, self.producer, self.schemas.resolve
                )
                self._catalogues[beamtime] = found
            return found

    def log(self, info: StreamInfo) -> KafkaStreamLog:
        """Return the live log of a stream; the caller closes it."""
        catalogue = self.catalogue(info.start.beamtime)
        return KafkaStreamLog(self.settings.kafka, info, catalogue, self.schemas.resolve)

    def prefix(self, info: StreamInfo) -> str:
        """Return what the keys of a stream's blobs begin with."""
        start = info.start
        return self.names.stream_prefix(start.beamtime, start.detector, start.stream_key)

    def close(self) -> None:
        """Close everything; may be called twice."""
        with self._lock:
            for catalogue in self._catalogues.values():
                catalogue.close()
            self._catalogues.clear()
            producer, self._producer = self._producer, None
        try:
            if producer is not None:
                producer.close()
        finally:
            self.admin.close()
            self.store.close()

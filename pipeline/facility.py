"""All beamtimes of a broker as one sees them from outside: what ``lichtstrom exporter`` tells.

Nothing here joins a group or reads a pixel.  A round asks the broker and the store in turn; the
numbers of the last round are what Prometheus gets.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from pipeline.errors import PipelineError, TopicMissingError
from pipeline.naming import StreamId, new_nonce
from pipeline.publishing.spool import left_behind
from pipeline.session import Session, StreamSummary
from pipeline.sharing.letters import LetterBox
from pipeline.sharing.standing import Lag, Standing, standings
from pipeline.stream import Stream
from pipeline.telemetry.book import Book, Meter, Place

log = logging.getLogger(__name__)
#: What is written and read to see how the store does; a page of a disk.
_PROBE = bytes(4096)
#: How long the last records of a stream may take to be found.
_TAIL_S = 10.0


@dataclass(slots=True, weakref_slot=True)
class _Told:
    """The numbers of one place, as the last round found them."""

    numbers: dict[str | tuple[str, ...], float]

    def read(self) -> dict[str | tuple[str, ...], float]:
        return self.numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """How one group stands in one stream."""

    stream: StreamId
    group: str
    members: int
    lag: Lag


class Facility:
    """Looks at everything and puts it into a book; for one thread.

    Parameters
    ----------
    streams:
        How many of the newest streams are looked at one by one, with their groups.
    spools:
        Folders that adapters spool to, where this machine sees them.
    disk:
        A directory on the store's disk, where the store is no ``file:`` of this machine.
    """

    def __init__(
        self,
        session: Session,
        book: Book,
        *,
        streams: int = 50,
        spools: Sequence[Path] = (),
        disk: Path | None = None,
    ) -> None:
        self._session = session
        self._services = session.services
        self._book = book
        self._streams = streams
        self._spools = spools
        self._disk = disk or _directory_of(self._services.store.url)
        self._told: dict[Place, tuple[_Told, Meter]] = {}
        self._looked_s: float | None = None
        self._begun_s = time.monotonic()
        self._round_s = 0.0
        self._failures = 0
        self._meter = book.watch(Place(), self, Facility._own)

    def look(self) -> None:
        """Do one round; what cannot be asked is told as away, and the next round asks again."""
        begun_s = time.monotonic()
        found: dict[Place, dict[str | tuple[str, ...], float]] = defaultdict(dict)
        found[Place()] = {**self._store(), **self._left()}
        try:
            found[Place()] |= self._broker()
            for place, numbers in self._beamtimes():
                found[place].update(numbers)
        except PipelineError as error:
            log.warning("the broker could not be asked: %s", error)
            found[Place()]["lichtstrom_broker_up"] = 0.0
            self._failures += 1
        else:
            self._looked_s = time.monotonic()
        self._tell(found)
        self._round_s = time.monotonic() - begun_s

    def _tell(self, found: dict[Place, dict[str | tuple[str, ...], float]]) -> None:
        for place in [place for place in self._told if place not in found]:
            self._told.pop(place)[1].close()
        for place, numbers in found.items():
            if place in self._told:
                self._told[place][0].numbers = numbers
            else:
                told = _Told(numbers)
                self._told[place] = told, self._book.watch(place, told, _Told.read)

    def _own(self) -> dict[str | tuple[str, ...], float]:
        since_s = self._begun_s if self._looked_s is None else self._looked_s
        return {
            "lichtstrom_exporter_round_seconds": self._round_s,
            "lichtstrom_exporter_age_seconds": time.monotonic() - since_s,
            "lichtstrom_exporter_failures_total": self._failures,
        }

    # -- broker ---------------------------------------------------------------------------------

    def _broker(self) -> dict[str | tuple[str, ...], float]:
        begun_s = time.monotonic()
        found = self._services.admin.cluster()
        return {
            "lichtstrom_broker_up": 1.0,
            "lichtstrom_broker_answer_seconds": time.monotonic() - begun_s,
            "lichtstrom_brokers": found.brokers,
            "lichtstrom_partitions": found.partitions,
            "lichtstrom_under_replicated_partitions": found.under_replicated,
            "lichtstrom_offline_partitions": found.offline,
        }

    def _beamtimes(self) -> list[tuple[Place, dict[str | tuple[str, ...], float]]]:
        found: list[tuple[Place, dict[str | tuple[str, ...], float]]] = []
        summaries = self._session.streams()
        states = Counter((s.name.beamtime, s.name.detector, s.state) for s in summaries)
        for (beamtime, detector, state), count in states.items():
            place = Place(beamtime=beamtime, detector=detector)
            found.append((place, {("lichtstrom_streams", state): float(count)}))
        newest = summaries[-self._streams :]
        groups = self._groups(newest)
        letters: dict[tuple[str, str, str], Counter[StreamId]] = {}
        for summary in newest:
            with self._session.stream(*_parts(summary.name)) as stream:
                found.append((_place(summary.name), _of_stream(stream, summary)))
                for facts in _of_groups(stream, groups[summary.name]):
                    found.append((_place(summary.name, facts.group), _numbers(facts)))
                    box = (summary.name.beamtime, summary.name.detector, facts.group)
                    if box not in letters:
                        read = LetterBox(self._services, *box).read()
                        letters[box] = Counter(letter.stream for letter in read)
                    count = letters[box][summary.name]
                    place = _place(summary.name, facts.group)
                    found.append((place, {"lichtstrom_group_dead_letters": float(count)}))
        return found

    def _groups(self, newest: Sequence[StreamSummary]) -> dict[StreamId, list[Standing]]:
        found: dict[StreamId, list[Standing]] = defaultdict(list)
        for beamtime in dict.fromkeys(summary.name.beamtime for summary in newest):
            try:
                for standing in standings(self._services, beamtime):
                    found[standing.stream].append(standing)
            except TopicMissingError:  # deleted meanwhile
                continue
        return found

    # -- store and spools -----------------------------------------------------------------------

    def _store(self) -> dict[str | tuple[str, ...], float]:
        store = self._services.store
        found: dict[str | tuple[str, ...], float] = {}
        try:
            beamtimes = self._services.admin.beamtimes()
            if beamtimes:
                key = f"{self._services.names.bucket(beamtimes[-1])}/.probe/{new_nonce()}"
                begun_s = time.monotonic()
                store.put(key, [_PROBE], durability="process")
                put_s = time.monotonic()
                store.get(key, 0, len(_PROBE))
                got_s = time.monotonic()
                store.delete([key])
                found[("lichtstrom_store_put_seconds", store.url)] = put_s - begun_s
                found[("lichtstrom_store_get_seconds", store.url)] = got_s - put_s
                found[("lichtstrom_store_up", store.url)] = 1.0
        except PipelineError as error:
            log.warning("the store could not be tried: %s", error)
            found[("lichtstrom_store_up", store.url)] = 0.0
        if self._disk is not None and self._disk.is_dir():
            usage = shutil.disk_usage(self._disk)
            found[("lichtstrom_store_free_bytes", store.url)] = usage.free
            found[("lichtstrom_store_total_bytes", store.url)] = usage.total
        return found

    def _left(self) -> dict[str | tuple[str, ...], float]:
        found: dict[str | tuple[str, ...], float] = {}
        for root in self._spools:
            folders = left_behind(root)
            segments = sum(len(folder.files()) for folder in folders)
            found[("lichtstrom_left_spool_segments", os.fspath(root))] = float(segments)
            nbytes = sum(folder.nbytes for folder in folders)
            found[("lichtstrom_left_spool_bytes", os.fspath(root))] = float(nbytes)
        return found

    def close(self) -> None:
        """Forget everything that was told."""
        self._tell({})
        self._meter.close()


def group_facts(session: Session, summary: StreamSummary) -> list[GroupFacts]:
    """Return how the groups of a stream stand; reads the records that they have not done."""
    known = standings(session.services, summary.name.beamtime)
    with session.stream(*_parts(summary.name)) as stream:
        return _of_groups(stream, [s for s in known if s.stream == summary.name])


def _of_groups(stream: Stream, known: Sequence[Standing]) -> list[GroupFacts]:
    return [
        GroupFacts(
            stream=stream.name,
            group=standing.group,
            members=len(standing.members),
            lag=stream.group(standing.group).lag(),
        )
        for standing in known
    ]


def _of_stream(stream: Stream, summary: StreamSummary) -> dict[str | tuple[str, ...], float]:
    tails = stream.log.tail(timeout_s=_TAIL_S)
    found: dict[str | tuple[str, ...], float] = {
        "lichtstrom_stream_head_frame": float(max((r.value.ceil for r in tails), default=-1))
    }
    newest_ms = max((record.timestamp_ms for record in tails), default=0)
    if summary.state == "open" and newest_ms:
        found["lichtstrom_stream_idle_seconds"] = max(0.0, time.time() - newest_ms / 1000)
    return found


def _numbers(facts: GroupFacts) -> dict[str | tuple[str, ...], float]:
    return {
        "lichtstrom_group_lag_frames": float(facts.lag.frames),
        "lichtstrom_group_lag_records": float(facts.lag.records),
        "lichtstrom_group_lag_seconds": facts.lag.seconds,
        "lichtstrom_group_retry_frames": float(facts.lag.retries),
        "lichtstrom_group_members": float(facts.members),
    }


def _place(name: StreamId, group: str = "") -> Place:
    return Place(beamtime=name.beamtime, detector=name.detector, stream=name.stream, group=group)


def _parts(name: StreamId) -> tuple[str, str, str]:
    return name.beamtime, name.detector, name.stream


def _directory_of(url: str) -> Path | None:
    return Path(unquote(url.removeprefix("file://"))) if url.startswith("file://") else None

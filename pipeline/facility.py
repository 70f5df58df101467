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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from pipeline.errors import PipelineError, StreamNotFoundError, TopicMissingError
from pipeline.naming import StreamId, new_nonce
from pipeline.publishing.spool import left_behind
from pipeline.session import Session, StreamSummary
from pipeline.sharing.letters import LetterBox
from pipeline.sharing.standing import Lag, Standing, standings
from pipeline.stream import Stream
from pipeline.telemetry.book import Book, Meter, Place

log = logging.getLogger(__name__)
#: Values by metric, or by metric and further labels.
Found = dict[str | tuple[str, ...], float]
#: What is written and read to see how the store does; a page of a disk.
_PROBE = bytes(4096)
#: How long the last records of a stream may take to be found.
_TAIL_S = 10.0


@dataclass(slots=True, weakref_slot=True)
class _Told:
    """The numbers of one place, as the last round found them."""

    numbers: Found

    def read(self) -> Found:
        return self.numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """How one group stands in one stream; ``members``: how many are there now."""

    group: str
    members: int
    lag: Lag
    dead_letters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """How one stream stands.

    Parameters
    ----------
    head:
        Its highest frame number; -1 while it has none.
    idle_s:
        Seconds since a record was last appended, by the broker's clock; None for an ended stream.
    """

    stream: StreamId
    state: str
    head: int
    idle_s: float | None
    groups: list[GroupFacts]


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
        found: dict[Place, Found] = defaultdict(dict)
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

    def _tell(self, found: dict[Place, Found]) -> None:
        for place in [place for place in self._told if place not in found]:
            self._told.pop(place)[1].close()
        for place, numbers in found.items():
            if place in self._told:
                self._told[place][0].numbers = numbers
            else:
                told = _Told(numbers)
                self._told[place] = told, self._book.watch(place, told, _Told.read)

    def _own(self) -> Found:
        since_s = self._begun_s if self._looked_s is None else self._looked_s
        return {
            "lichtstrom_exporter_round_seconds": self._round_s,
            "lichtstrom_exporter_age_seconds": time.monotonic() - since_s,
            "lichtstrom_exporter_failures_total": self._failures,
        }

    # -- broker ---------------------------------------------------------------------------------

    def _broker(self) -> Found:
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

    def _beamtimes(self) -> list[tuple[Place, Found]]:
        found: list[tuple[Place, Found]] = []
        summaries = self._session.streams()
        states = Counter((s.name.beamtime, s.name.detector, s.state) for s in summaries)
        for (beamtime, detector, state), count in states.items():
            place = Place(beamtime=beamtime, detector=detector)
            found.append((place, {("lichtstrom_streams", state): float(count)}))
        for facts in stream_facts(self._session, summaries[-self._streams :]):
            found.append((_place(facts.stream), _of_stream(facts)))
            found += [(_place(facts.stream, g.group), _of_group(g)) for g in facts.groups]
        return found

    # -- store and spools -----------------------------------------------------------------------

    def _store(self) -> Found:
        store = self._services.store
        found: Found = {}
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

    def _left(self) -> Found:
        found: Found = {}
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


def stream_facts(session: Session, summaries: Sequence[StreamSummary]) -> Iterator[StreamFacts]:
    """Yield how streams and their groups stand; reads the records that groups have not done.

    A stream that was deleted meanwhile is left out.  Raises BrokerUnavailableError and what reading
    raises.
    """
    known: dict[StreamId, list[Standing]] = defaultdict(list)
    for beamtime in dict.fromkeys(summary.name.beamtime for summary in summaries):
        with suppress(TopicMissingError):
            for standing in standings(session.services, beamtime):
                known[standing.stream].append(standing)
    letters = _Letters(session)
    for summary in summaries:
        name = summary.name
        with (
            suppress(StreamNotFoundError),
            session.stream(name.beamtime, name.detector, name.stream) as stream,
        ):
            groups = [
                GroupFacts(
                    group=standing.group,
                    members=len(standing.members),
                    lag=stream.group(standing.group).lag(),
                    dead_letters=letters.count(name, standing.group),
                )
                for standing in known[name]
            ]
            yield _facts(stream, summary, groups)


class _Letters:
    """Counts dead letters, each topic read once."""

    def __init__(self, session: Session) -> None:
        self._services = session.services
        self._read: dict[tuple[str, str, str], Counter[StreamId]] = {}

    def count(self, name: StreamId, group: str) -> int:
        box = (name.beamtime, name.detector, group)
        if box not in self._read:
            letters = LetterBox(self._services, *box).read()
            self._read[box] = Counter(letter.stream for letter in letters)
        return self._read[box][name]


def _facts(stream: Stream, summary: StreamSummary, groups: list[GroupFacts]) -> StreamFacts:
    tails = stream.log.tail(timeout_s=_TAIL_S)
    newest_ms = max((record.timestamp_ms for record in tails), default=0)
    is_open = summary.state == "open" and newest_ms
    return StreamFacts(
        stream=summary.name,
        state=summary.state,
        head=max((record.value.ceil for record in tails), default=-1),
        idle_s=max(0.0, time.time() - newest_ms / 1000) if is_open else None,
        groups=groups,
    )


def _of_stream(facts: StreamFacts) -> Found:
    found: Found = {"lichtstrom_stream_head_frame": float(facts.head)}
    if facts.idle_s is not None:
        found["lichtstrom_stream_idle_seconds"] = facts.idle_s
    return found


def _of_group(facts: GroupFacts) -> Found:
    return {
        "lichtstrom_group_lag_frames": float(facts.lag.frames),
        "lichtstrom_group_lag_records": float(facts.lag.records),
        "lichtstrom_group_lag_seconds": facts.lag.seconds,
        "lichtstrom_group_retry_frames": float(facts.lag.retries),
        "lichtstrom_group_members": float(facts.members),
        "lichtstrom_group_dead_letters": float(facts.dead_letters),
    }


def _place(name: StreamId, group: str = "") -> Place:
    return Place(beamtime=name.beamtime, detector=name.detector, stream=name.stream, group=group)


def _directory_of(url: str) -> Path | None:
    return Path(unquote(url.removeprefix("file://"))) if url.startswith("file://") else None

"""Dead letters: what a group has given up, kept on a topic until it is settled.

Kafka deletes no single records.  A letter is settled by a record without value behind it, whose key
is the letter's key and offset; readers fold the topic in order.  When everything up to some offset
is settled, the broker is told to delete that much (DeleteRecords); until then the texts of settled
letters can be read by who reads the topic itself.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka import Message

from pipeline.errors import OutputEndedError, PipelineError, StreamNotFoundError, WireError
from pipeline.kafka import groups
from pipeline.kafka.topics import TopicReader
from pipeline.naming import StreamId, parse_settled_key, record_key, settled_key
from pipeline.publishing import claims
from pipeline.publishing.claims import holder
from pipeline.records import Pointer
from pipeline.services import Services
from pipeline.sharing import runs
from pipeline.wire import codec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One frame that a group has given up.

    Parameters
    ----------
    attempts:
        How often it was delivered before.
    member:
        host:pid of who gave it up.
    time_ns:
        When, by the broker's clock; 0 where there is none (``state=``).
    offset:
        Which letter this is in its group and detector.
    """

    stream: StreamId
    stream_key: bytes
    group: str
    number: int
    attempts: int
    reason: str
    trace: str
    member: str
    time_ns: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What came of putting frames back.

    Parameters
    ----------
    numbers:
        Frames that workers get again.
    reopened:
        Derived streams that had ended and go on.
    """

    numbers: tuple[int, ...]
    reopened: tuple[StreamId, ...] = ()


class LetterBox:
    """The dead letters of one group of a detector, all its streams; not thread-safe."""

    def __init__(self, services: Services, beamtime: str, detector: str, group: str) -> None:
        self._services = services
        self._beamtime, self._detector, self._group = beamtime, detector, group
        self.topic = services.names.dead_letters(beamtime, detector, group)
        #: Records of others on the topic (Kafka Connect keeps whole records); they are left alone.
        self.others = 0
        self._first = 0
        self._keep_from = 0

    def read(self) -> list[DeadLetter]:
        """Return the letters that are not settled, oldest first."""
        admin = self._services.admin
        self.others = self._first = self._keep_from = 0
        if not admin.partitions(self.topic):
            return []
        self._first = groups.first_offsets(admin, self.topic, 1)[0]
        end = groups.next_offsets(admin, self.topic, 1)[0]
        found: dict[int, DeadLetter] = {}
        kept: list[int] = []
        with TopicReader(self._services.settings.kafka, self.topic) as reader:
            for message in reader.read(0, self._first, end):
                settled = parse_settled_key(message.key())
                if settled is not None:
                    found.pop(settled, None)
                    continue
                letter = self._letter(message)
                if letter is None:
                    kept.append(message.offset())
                else:
                    found[letter.offset] = letter
        self.others = len(kept)
        self._keep_from = min([*found, *kept], default=end)
        return [found[offset] for offset in sorted(found)]

    def _letter(self, message: Message) -> DeadLetter | None:
        try:
            pointer = codec.decode(message.value() or b"", where=self.topic)
        except WireError:
            return None
        if not isinstance(pointer, Pointer):
            return None
        return DeadLetter(
            stream=self._name(pointer.stream_key),
            stream_key=pointer.stream_key,
            group=pointer.group or self._group,
            number=pointer.number,
            attempts=pointer.attempt,
            reason=pointer.reason,
            trace=pointer.trace,
            member=pointer.member,
            time_ns=message.timestamp()[1] * 10**6,
            offset=message.offset(),
        )

    def _name(self, stream_key: bytes) -> StreamId:
        info = self._services.catalogue(self._beamtime).look().by_key(stream_key)
        if info is None:  # of a catalogue made anew
            return StreamId(self._beamtime, self._detector, f"?{stream_key.hex()}")
        return claims.name_of(info.start)

    def drop(self, letters: Sequence[DeadLetter]) -> None:
        """Settle letters; what is settled from the topic's beginning on is deleted there."""
        entries = []
        for letter in letters:
            key = settled_key(record_key(letter.stream_key, letter.number), letter.offset)
            entries.append((self.topic, 0, key, None))
        self._services.producer.append_all(entries, self._services.settings.kafka.timeout_s)
        self.read()
        if self._keep_from > self._first:
            try:
                self._services.admin.delete_records(self.topic, {0: self._keep_from})
            except PipelineError as error:  # settled all the same
                log.warning("settled letters stay on the topic topic=%s %s", self.topic, error)

    def replay(self, letters: Sequence[DeadLetter], *, reopen: bool) -> Replayed:
        """Put frames on the group's work topic, attempts counted anew; then drop their letters.

        Raises
        ------
        OutputEndedError
            The group has a derived stream, it has ended, and ``reopen`` was not asked for.
        StreamNotFoundError
            The frames' stream was deleted.
        """
        work = self._services.names.work(self._beamtime, self._detector, self._group)
        partitions = self._services.admin.partitions(work)
        if not partitions:
            raise PipelineError(
                f"group {self._group} takes no frames again: it is no group of workers. Where it"
                " is a sink, write its files again (`lichtstrom sink hdf5`), then drop the letters"
            )
        reopened = self._reopen({letter.stream_key for letter in letters}, reopen=reopen)
        frames = sorted({(letter.stream_key, letter.number) for letter in letters})
        entries = []
        for key, number in frames:
            pointer = Pointer(
                stream_key=key, number=number, attempt=0, group=self._group, member=holder()
            )
            at = number % partitions
            entries.append((work, at, record_key(key, number), codec.encode(pointer)))
        # In this order: who dies in between has a letter too many, never a frame too few.
        self._services.producer.append_all(entries, self._services.settings.kafka.timeout_s)
        self.drop(letters)
        return Replayed(numbers=tuple(number for _, number in frames), reopened=reopened)

    def _reopen(self, keys: set[bytes], *, reopen: bool) -> tuple[StreamId, ...]:
        ended = []
        state = self._services.catalogue(self._beamtime).look()
        for key in keys:
            source = state.by_key(key)
            if source is None or source.deleted:
                raise StreamNotFoundError(
                    self._name(key), where=self.topic, hint="it was deleted: drop its letters"
                )
            outputs = runs.outputs(self._services, source.start, self._group)
            ended += [info for info in outputs if info.state != "open"]
        names = tuple(claims.name_of(info.start) for info in ended)
        if ended and not reopen:
            raise OutputEndedError(self._group, [str(name) for name in names])
        for info in ended:
            runs.reopen(self._services, info, self._group)
        return names


def boxes(services: Services, pattern: str, group: str | None = None) -> list[LetterBox]:
    """Return the letter boxes of the detectors that a pattern of streams means.

    ``group`` is the name of one; None means all.
    """
    beamtime, detector, _ = pattern.split("/")
    found = []
    for topic in sorted(services.admin.topics()):
        parsed = services.names.parse_dead_letters(topic)
        if parsed is None or group not in (None, parsed[2]):
            continue
        quoted = str(StreamId(parsed[0], parsed[1], "-")).split("/")
        if fnmatch.fnmatchcase(quoted[0], beamtime) and fnmatch.fnmatchcase(quoted[1], detector):
            found.append(LetterBox(services, *parsed))
    return found


def matching(
    letters: Sequence[DeadLetter],
    pattern: str = "*/*/*",
    numbers: Sequence[tuple[int, int]] | None = None,
) -> list[DeadLetter]:
    """Return the letters of the streams that a pattern means, with a number in some range."""
    return [
        letter
        for letter in letters
        if fnmatch.fnmatchcase(str(letter.stream), pattern)
        and (numbers is None or any(a <= letter.number <= b for a, b in numbers))
    ]

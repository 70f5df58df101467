"""A group of one stream, seen from outside: on a broker, or in a file on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from pipeline.errors import GroupActiveError
from pipeline.naming import StreamId, check_name
from pipeline.services import Services
from pipeline.sharing.ledger import Ledger
from pipeline.sharing.letters import DeadLetter, LetterBox, Replayed
from pipeline.sharing.newest import KafkaTurn, NewestFrames
from pipeline.sharing.standing import (
    Lag,
    Progress,
    Reset,
    Target,
    find_target,
    needs_broker,
    seconds_behind,
)
from pipeline.stream import Stream

T = TypeVar("T")


def open_group(
    services: Services | None, stream: Stream, name: str, state: Path | str | None
) -> KafkaGroup | StoredGroup:
    """Return a group; nothing is contacted yet.

    Raises InvalidNameError, or PipelineError without broker and ``state``.
    """
    check_name("group", name)
    if services is not None:
        return KafkaGroup(services, stream, name)
    if state is None:
        raise needs_broker(stream)
    return StoredGroup(stream, name, Path(state))


class KafkaGroup:
    """One group of one stream, its progress on the broker.

    Every method asks the broker and returns; it blocks up to ``kafka.timeout_s`` a step and raises
    BrokerUnavailableError.  None of them joins the group.
    """

    def __init__(self, services: Services, stream: Stream, name: str) -> None:
        self._services = services
        self._stream = stream
        self.name = name
        self._progress = Progress(services, stream, name)

    def members(self) -> tuple[str, ...]:
        """Return the members that are there now, as ``lichtstrom@host:pid address``."""
        return self._progress.members()

    def lag(self) -> Lag:
        """Return how far the group is behind; reads the records that it has not done."""
        return self._progress.lag()

    def unacknowledged(self) -> list[int]:
        """Return the numbers that are not done, ascending; reads like :meth:`lag`."""
        retries = self._progress.retries()
        return sorted(self._progress.unfinished().keys() | retries)

    def reset(self, to: Target) -> Reset:
        """Set where the group goes on; see :meth:`pipeline.stream.Stream.reset`."""
        return self._progress.reset(to)

    def newest(self, *, timeout_s: float | None = 30.0) -> NewestFrames:
        """Iterate over newest frames; see :meth:`pipeline.stream.Stream.newest`."""
        turn = KafkaTurn(self._services, self._stream, self.name)
        return NewestFrames(self._stream, turn, timeout_s)

    def dead_letters(self) -> list[DeadLetter]:
        """Return the stream's frames that the group has given up, oldest first."""
        key = self._stream.start.stream_key
        return [letter for letter in self._box().read() if letter.stream_key == key]

    def replay(self, numbers: Sequence[int] | None = None, *, reopen: bool = False) -> Replayed:
        """Have workers get given up frames again, attempts counted anew; None means all.

        Those that have no letter are passed over.  With ``reopen`` a derived stream that has ended
        is reopened; the group's workers end it again.  Raises OutputEndedError without.
        """
        return self._box().replay(self._chosen(numbers), reopen=reopen)

    def drop(self, numbers: Sequence[int] | None = None) -> int:
        """Forget dead letters (None: all of this stream and group); return how many."""
        letters = self._chosen(numbers)
        self._box().drop(letters)
        return len(letters)

    def _chosen(self, numbers: Sequence[int] | None) -> list[DeadLetter]:
        return [x for x in self.dead_letters() if numbers is None or x.number in numbers]

    def _box(self) -> LetterBox:
        start = self._stream.start
        return LetterBox(self._services, start.beamtime, start.detector, self.name)


class StoredGroup:
    """One group of one stream, its progress in a file; the methods of :class:`KafkaGroup`.

    ``members`` knows those that have frames in hand.
    """

    def __init__(self, stream: Stream, name: str, state: Path) -> None:
        self._stream = stream
        self.name = name
        self._state = state

    def _ask(self, question: Callable[[Ledger], T]) -> T:
        with closing(self._ledger()) as ledger:
            return question(ledger)

    def _ledger(self) -> Ledger:
        return Ledger(self._state, f"{self.name}/{self._stream.start.stream_key.hex()}")

    def members(self) -> tuple[str, ...]:
        """Return the processes of this machine that have frames in hand."""
        owners = self._ask(Ledger.owners)
        return tuple(sorted({f"pid {owner.partition(':')[0]}" for owner in owners}))

    def unacknowledged(self) -> list[int]:
        """See :meth:`KafkaGroup.unacknowledged`."""
        done = self._ask(Ledger.done_numbers)
        return sorted(set(self._stream.table().numbers.tolist()) - done)

    def lag(self) -> Lag:
        """See :meth:`KafkaGroup.lag`; ``records`` counts frames, too."""
        numbers = self.unacknowledged()
        table = self._stream.table()
        times = dict(zip(table.numbers.tolist(), table.timestamps_ns.tolist(), strict=True))
        return Lag(
            frames=len(numbers),
            retries=self._ask(Ledger.waiting),
            records=len(numbers),
            seconds=seconds_behind(self._stream, [times[number] for number in numbers]),
            first=min(numbers, default=None),
        )

    def reset(self, to: Target) -> Reset:
        """See :meth:`KafkaGroup.reset`."""
        members = self.members()
        if members:
            raise GroupActiveError(self.name, self._stream.name, members=members)
        number = find_target(self._stream, to)
        known = set(self._stream.table().numbers.tolist())
        done = {n for n in known if number is None or n < number}
        self._ask(lambda ledger: ledger.set_done(done))
        return Reset(frames=len(known - done))

    def newest(self, *, timeout_s: float | None = 30.0) -> NewestFrames:
        """See :meth:`KafkaGroup.newest`."""
        return NewestFrames(self._stream, LedgerTurn(self._ledger()), timeout_s)

    def dead_letters(self) -> list[DeadLetter]:
        """See :meth:`KafkaGroup.dead_letters`; there is no member and no time."""
        name: StreamId = self._stream.name
        return [
            DeadLetter(
                stream=name,
                stream_key=self._stream.start.stream_key,
                group=self.name,
                number=number,
                attempts=attempts,
                reason=reason,
                trace=trace,
                member="",
                time_ns=0,
                offset=at,
            )
            for at, (number, attempts, reason, trace) in enumerate(self._ask(Ledger.rejected))
        ]

    def replay(self, numbers: Sequence[int] | None = None, *, reopen: bool = False) -> Replayed:
        """See :meth:`KafkaGroup.replay`; there is no derived stream to reopen."""
        found = self._chosen(numbers)
        self._ask(lambda ledger: ledger.drop_rejected(found, replay=True))
        return Replayed(numbers=tuple(found))

    def drop(self, numbers: Sequence[int] | None = None) -> int:
        """See :meth:`KafkaGroup.drop`."""
        found = self._chosen(numbers)
        self._ask(lambda ledger: ledger.drop_rejected(found, replay=False))
        return len(found)

    def _chosen(self, numbers: Sequence[int] | None) -> list[int]:
        known = {letter.number for letter in self.dead_letters()}
        return sorted(known if numbers is None else known & set(numbers))


class LedgerTurn:
    """A :class:`pipeline.sharing.newest.Turn` in a file."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @property
    def newest(self) -> int:
        """See :class:`pipeline.sharing.newest.Turn`."""
        return self._ledger.newest()

    def take(self, number: int) -> bool:
        """See :class:`pipeline.sharing.newest.Turn`."""
        return self._ledger.take_newest(number)

    def close(self) -> None:
        """Close the file."""
        self._ledger.close()

"""Streams read in order by a group of members, each stream by one of them.

A topic without records has the turns: a stream belongs to one of its partitions, and who has the
partition in the consumer group reads the stream.  What was acknowledged is the metadata of the
partition's commit: the next number of each stream that is being read.  So the broker refuses the
word of a member that has lost its turn without knowing it, and who takes over learns where to go
on in the moment of taking over.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence

from pipeline.errors import BrokerUnavailableError, PipelineError
from pipeline.kafka import groups
from pipeline.kafka.groups import GroupMember, Place
from pipeline.services import Services
from pipeline.sharing.progress import MAX_METADATA_NBYTES

log = logging.getLogger(__name__)
#: Partitions of the topic: more members than this have nothing to do.
TURNS = 64
_POLL_S = 0.02
#: How long a turn that goes to another member waits for the frame in hand.
_REVOKE_WAIT_S = 5.0


class Turn:
    """A partition that is ours: the next number of each stream in it that has one."""

    def __init__(self, metadata: str) -> None:
        self.next: dict[str, int] = _decode(metadata)
        #: Deliveries that are in somebody's hand.
        self.in_hand = 0
        #: Nothing more is handed out: it is about to go.
        self.closing = False
        #: It went to another member.
        self.void = False
        #: How often ``next`` has changed, and how many of these changes the broker has.
        self.changes = self.committed = 0


class Turns:
    """Our membership in one beamtime's group; a thread polls, so that long work loses no turn.

    ``changed`` guards the turns and tells of each change of them.
    """

    def __init__(self, services: Services, beamtime: str, group: str) -> None:
        self.changed = threading.Condition()
        self.held: dict[int, Turn] = {}
        self.failure: Exception | None = None
        self._services = services
        self._topic = services.names.turns(beamtime, group)
        self._count = TURNS
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"turns {group}", daemon=True)
        self._member: GroupMember | None = None

    def open(self) -> None:
        """Make the topic, if it is not there, and join."""
        admin = self._services.admin
        if not admin.partitions(self._topic):
            admin.create_topic(self._topic, partitions=TURNS)
        self._count = admin.partitions(self._topic)
        groups.begin(admin, self._topic, {self._topic: [0] * self._count})
        self._member = GroupMember(
            self._services.settings.kafka,
            self._topic,
            [self._topic],
            gained=self._gained,
            losing=self._losing,
            lost=self._went,
        )
        self._thread.start()

    @property
    def joined(self) -> bool:
        """Whether the group has said which turns are ours; it may be none."""
        return self._member is not None and self._member.joined

    def turn_of(self, stream_key: bytes) -> Turn | None:
        """Return the turn of a stream if it is ours."""
        turn = self.held.get(int.from_bytes(stream_key) % self._count)
        return None if turn is None or turn.closing else turn

    def commit(self, turn: Turn) -> None:
        """Wait until the broker has what was acknowledged, or the turn has gone.

        Raises BrokerUnavailableError when it does not take it.
        """
        settings = self._services.settings.kafka
        with self.changed:
            turn.changes += 1
            mine = turn.changes
            self.changed.notify_all()
            self.changed.wait_for(
                lambda: turn.committed >= mine or turn.closing or self.failure is not None,
                settings.timeout_s,
            )
            if self.failure is not None:
                raise self.failure
            if turn.committed < mine and not turn.closing:
                raise BrokerUnavailableError(settings.bootstrap, "progress was not taken")

    def close(self) -> None:
        """Leave the group and join the thread; may be called twice."""
        self._stop.set()
        with self.changed:
            self.changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(self._services.settings.kafka.timeout_s + 5)

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._member is not None
        try:
            while not self._stop.is_set():
                with self.changed:
                    self.changed.wait_for(lambda: self._stop.is_set() or self._news(), _POLL_S)
                self._commit()
                self._member.poll(0)
        except Exception as error:  # noqa: BLE001 -- re-raised to the owner
            with self.changed:
                self.failure = error
        finally:
            try:
                self._member.close()
            except Exception as error:  # noqa: BLE001 -- the broker may be away; it notices
                log.debug("leaving group %s: %s", self._topic, error)
            self._went([(self._topic, partition) for partition in list(self.held)])

    def _news(self) -> dict[int, Turn]:
        return {p: t for p, t in self.held.items() if t.changes > t.committed}

    def _commit(self) -> None:
        """Write down what was acknowledged, in the one thread that may: others would hang."""
        assert self._member is not None
        with self.changed:
            news = self._news()
            offsets = {(self._topic, p): (0, _encode(t.next)) for p, t in news.items()}
            changes = {p: t.changes for p, t in news.items()}
        if not news:
            return
        if not self._member.commit(offsets):
            self._stop.wait(_POLL_S)  # the group is changing
            return
        with self.changed:
            for partition, turn in news.items():
                turn.committed = changes[partition]
            self.changed.notify_all()

    def _gained(self, places: Mapping[Place, tuple[int, str]]) -> None:
        with self.changed:
            for (_, partition), (_, metadata) in places.items():
                self.held[partition] = Turn(metadata)
            self.changed.notify_all()

    def _losing(self, places: Sequence[Place]) -> Mapping[Place, tuple[int, str]]:
        with self.changed:
            going = {p: self.held[p[1]] for p in places if p[1] in self.held}
            for turn in going.values():
                turn.closing = True
            if not self._stop.is_set():
                self.changed.wait_for(
                    lambda: self._stop.is_set() or not any(t.in_hand for t in going.values()),
                    _REVOKE_WAIT_S,
                )
            found = {place: (0, _encode(turn.next)) for place, turn in going.items()}
        self._went(places)
        return found

    def _went(self, places: Sequence[Place]) -> None:
        with self.changed:
            for _, partition in places:
                turn = self.held.pop(partition, None)
                if turn is not None:
                    turn.closing = turn.void = True
            self.changed.notify_all()


def _encode(numbers: Mapping[str, int]) -> str:
    """Return next numbers as commit metadata; raise PipelineError if they are too many."""
    text = json.dumps(numbers, separators=(",", ":")) if numbers else ""
    if len(text) > MAX_METADATA_NBYTES:
        raise PipelineError(
            f"{len(numbers)} streams that have not ended are read in one turn, which is too many:"
            " end those that nobody writes any more (`lichtstrom streams` lists them)"
        )
    return text


def _decode(metadata: str) -> dict[str, int]:
    """Undo :func:`_encode`; metadata that is not ours says nothing."""
    try:
        found = json.loads(metadata) if metadata else {}
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, int)}

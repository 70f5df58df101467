"""The fold of the catalogue: one winner, whatever the interleaving, before and after compaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.frame import Module
from pipeline.naming import StreamId
from pipeline.policy import Policy
from pipeline.records import (
    Attachment,
    CatalogueRecord,
    Claim,
    Deleted,
    End,
    ManifestRef,
    StreamInfo,
    UserMetadata,
)
from pipeline.testing.memory_log import STREAM_KEY, make_start
from pipeline.wire.catalogue import Catalogue, key_of, stream_id

#: What a topic holds: (key, record), None for a tombstone.
Log = list[tuple[bytes, CatalogueRecord | None]]


def fold(log: Sequence[CatalogueRecord | tuple[bytes, CatalogueRecord | None]]) -> Catalogue:
    catalogue = Catalogue()
    for offset, entry in enumerate(log):
        record = entry[1] if isinstance(entry, tuple) else entry
        if record is not None:
            catalogue.apply(record, offset, 1000 + offset)
    return catalogue


def one(log: Sequence[CatalogueRecord | tuple[bytes, CatalogueRecord | None]]) -> StreamInfo:
    info = fold(log).by_key(STREAM_KEY)
    assert info is not None
    return info


def claim(epoch: int, nonce: str = "a", **changes: object) -> Claim:
    values = {"stream_key": STREAM_KEY, "module": 0, "holder": "h:1", **changes}
    return Claim(epoch=epoch, nonce=nonce, **values)  # type: ignore[arg-type]


def end(epoch: int, nonce: str = "a", state: str = "complete", **changes: object) -> End:
    values = {"stream_key": STREAM_KEY, "module": 0, "offsets": (7,), **changes}
    return End(epoch=epoch, nonce=nonce, state=state, **values)  # type: ignore[arg-type]


def ref(epoch: int, part: int = -1, nonce: str = "a", key: str = "k", frames: int = 0):
    return ManifestRef(
        stream_key=STREAM_KEY,
        epoch=epoch,
        nonce=nonce,
        part=part,
        key=key,
        offsets=(7,),
        frames=frames,
    )


START = make_start()


# -- the rules ----------------------------------------------------------------------------------


def test_the_first_start_of_a_name_wins() -> None:
    rival = replace(START, stream_key=b"rival  1", writer="other")
    catalogue = fold([START, rival, claim(1, stream_key=rival.stream_key)])
    found = catalogue.find("detector", "scan_1")
    assert found is not None
    assert found.start is START
    assert catalogue.by_key(rival.stream_key) is None
    assert catalogue.streams() == [found]
    assert stream_id(found) == StreamId("test", "detector", "scan_1")


def test_one_id_under_a_second_name_counts_for_nothing() -> None:
    catalogue = fold([START, replace(START, stream="other")])
    assert catalogue.find("detector", "other") is None


def test_streams_are_listed_in_the_order_they_came() -> None:
    others = [replace(START, stream=f"s{i}", stream_key=bytes([i]) * 8) for i in (3, 1, 2)]
    found = fold(others).streams()
    assert [info.start.stream for info in found] == ["s3", "s1", "s2"]
    assert [info.position for info in found] == [0, 1, 2]


def test_of_equal_epochs_the_first_claim_wins() -> None:
    state = one([START, claim(1, "a"), claim(1, "b")]).modules[0]
    assert state.claim == claim(1, "a")
    assert state.claimed_ms == 1001


def test_an_older_claim_that_comes_late_counts_for_nothing() -> None:
    assert one([START, claim(2, "a"), claim(1, "b")]).modules[0].claim == claim(2, "a")


@pytest.mark.parametrize("ending", [end(1, "a"), end(2, "b"), end(3, "a"), end(1, "b")])
def test_an_end_that_is_not_the_newest_claims_counts_for_nothing(ending: End) -> None:
    info = one([START, claim(1, "a"), claim(2, "a", closing=True), ending])
    assert info.state == "open"
    assert info.end_offsets is None


def test_an_end_without_any_claim_counts_for_nothing() -> None:
    assert one([START, end(1)]).state == "open"


def test_the_newest_claims_end_ends_the_stream() -> None:
    info = one([START, claim(1), claim(2, closing=True), end(2, expected=9)])
    assert (info.state, info.end_offsets, info.expected) == ("complete", (7,), 9)


def test_an_ended_stream_is_only_claimed_to_reopen_it() -> None:
    ended = [START, claim(1), end(1)]
    assert one([*ended, claim(2, "b")]).state == "complete"
    reopened = one([*ended, claim(2, "b", reopen=True)])
    assert reopened.state == "open"
    assert reopened.modules[0].end is None
    again = one([*ended, claim(2, "b", reopen=True), end(1), end(2, "b", "aborted")])
    assert again.state == "aborted"


def test_a_stream_ends_with_the_last_of_its_modules_and_as_the_worst() -> None:
    modules = tuple(Module(index=i, shape=(1, 1), position=(i, 0)) for i in (0, 3))
    start = make_start(partitions=2, modules=modules, expected=5)
    log: list[CatalogueRecord] = [start, claim(1), claim(1, module=3)]
    log.append(end(1, offsets=(4, 9)))
    assert one(log).state == "open"
    assert one(log).expected == 5
    log.append(end(1, module=3, state="timeout", offsets=(6, 2)))
    info = one(log)
    assert info.state == "timeout"
    assert info.end_offsets == (6, 9)
    assert info.expected == 5


def test_claims_of_a_module_that_the_stream_has_not_change_nothing() -> None:
    info = one([START, claim(1), claim(5, module=9), end(5, module=9)])
    assert info.state == "open"
    assert info.modules[0].claim == claim(1)


def test_a_deleted_stream_stays_deleted_and_its_name_is_free() -> None:
    gone = Deleted(stream_key=STREAM_KEY, nonce="d")
    again = replace(START, stream_key=b"another1")
    catalogue = fold([START, claim(1), gone, claim(2, "b"), again, gone])
    assert [info.start for info in catalogue.deleted()] == [START]
    old, new = catalogue.by_key(STREAM_KEY), catalogue.find("detector", "scan_1")
    assert old is not None
    assert old.modules[0].claim == claim(1)
    assert new is not None
    assert new.start is again
    assert catalogue.streams() == [new]


def sealed_log() -> list[CatalogueRecord]:
    return [START, claim(1), claim(2, closing=True), end(2), ref(2, key="seal 2")]


def by_policy(nonce: str, seal: str = "seal 2") -> Deleted:
    return Deleted(stream_key=STREAM_KEY, nonce="d", policy=nonce, seal=seal, reason="old")


FIRST = Policy(nonce="p1", age_s=9.0)


def test_of_two_changes_of_one_policy_the_first_wins() -> None:
    second = replace(FIRST, nonce="p2", previous="p1", hold=("lambda/*",))
    rival = replace(FIRST, nonce="p3", previous="p1", hold=("eiger/*",))
    assert fold([FIRST, second, rival]).policy == second
    assert fold([FIRST, rival, second]).policy == rival
    assert fold([second, FIRST]).policy == FIRST


def test_a_stream_goes_by_the_policy_in_force() -> None:
    info = one([*sealed_log(), FIRST, by_policy("p1")])
    assert info.deleted
    assert info.tombstone == by_policy("p1")


def test_a_hold_that_comes_first_wins_against_the_expiry_that_did_not_know_it() -> None:
    hold = replace(FIRST, nonce="p2", previous="p1", hold=("lambda/*",))
    info = one([*sealed_log(), FIRST, hold, by_policy("p1")])
    assert not info.deleted
    assert info.tombstone is None


@pytest.mark.parametrize(
    "meanwhile",
    [
        [claim(3, reopen=True)],
        [claim(3, reopen=True), claim(4, closing=True), end(4)],
        [claim(3, reopen=True), claim(4, closing=True), end(4), ref(4, key="seal 4")],
    ],
)
def test_a_stream_that_was_reopened_meanwhile_does_not_go(
    meanwhile: list[CatalogueRecord],
) -> None:
    info = one([FIRST, *sealed_log(), *meanwhile, by_policy("p1")])
    assert not info.deleted


def test_it_is_known_when_a_stream_ended_and_whether_it_is_sealed() -> None:
    log = sealed_log()
    assert (one(log[:3]).ended_ms, one(log[:3]).is_sealed) == (0, False)
    assert (one(log[:4]).ended_ms, one(log[:4]).is_sealed) == (1003, False)
    assert (one(log).ended_ms, one(log).is_sealed) == (1003, True)
    again = [*log, claim(3, reopen=True), claim(4, closing=True), end(4)]
    assert (one(again).ended_ms, one(again).is_sealed) == (1007, False)


def test_what_came_before_its_start_counts_for_nothing() -> None:
    assert (
        one([claim(4), Deleted(stream_key=STREAM_KEY, nonce="d"), START]).modules[0].claim is None
    )


def test_notes_add_up_and_later_values_win() -> None:
    start = make_start(metadata={"a": 1, "b": 2})
    note = {"source": "x.cbf", "reason": "cut short"}
    info = one(
        [
            start,
            UserMetadata(stream_key=STREAM_KEY, nonce="1", metadata={"b": 3}, quarantined=(note,)),
            UserMetadata(stream_key=STREAM_KEY, nonce="2", metadata={"c": 4}, quarantined=(note,)),
            Attachment(stream_key=STREAM_KEY, nonce="1", name="mask", key="k1"),
            Attachment(stream_key=STREAM_KEY, nonce="2", name="mask", key="k2"),
        ]
    )
    assert info.metadata == {"a": 1, "b": 3, "c": 4}
    assert start.metadata == {"a": 1, "b": 2}
    assert info.quarantined == [note, note]
    assert info.attachments == {"mask": "k2"}


def test_the_highest_seal_wins_and_parts_are_kept_in_order() -> None:
    info = one([START, ref(1, 0), ref(3), ref(2), ref(1, 1), ref(2, 2)])
    assert info.seal == ref(3)
    assert info.parts == [ref(1, 0), ref(1, 1), ref(2, 2)]


def test_keys_are_never_used_twice() -> None:
    records = [START, claim(1), claim(1, "b"), claim(2), claim(1, module=1), end(1), end(2)]
    records += [ref(1), ref(1, 0), ref(1, 1), ref(2, 1), ref(1, 1, "b")]
    records += [Deleted(stream_key=STREAM_KEY, nonce="x")]
    records += [FIRST, replace(FIRST, nonce="p2", previous="p1")]
    records += [UserMetadata(stream_key=STREAM_KEY, nonce=n) for n in "xy"]
    records += [Attachment(stream_key=STREAM_KEY, nonce=n, name="m", key="k") for n in "xy"]
    records += [replace(claim(1), stream_key=b"87654321")]
    assert len({key_of(record) for record in records}) == len(records)
    assert key_of(claim(2, "b", module=3)) == STREAM_KEY.hex().encode() + b"/claim/3/2/b"


# -- compaction ---------------------------------------------------------------------------------


def compacted(log: Log, dirty_from: int) -> Log:
    """What is left once the cleaner has run over everything below ``dirty_from``."""
    newest = {key: offset for offset, (key, _) in enumerate(log[:dirty_from])}
    return [
        entry if offset >= dirty_from or newest[entry[0]] == offset else (entry[0], None)
        for offset, entry in enumerate(log)
    ]


def facts(info: StreamInfo) -> object:
    """What may not change by compaction."""
    modules = {i: (s.claim, s.end) for i, s in info.modules.items()}
    return info.state, info.end_offsets, modules, info.seal, info.parts


def tombstones(log: Log, epoch: int) -> list[bytes]:
    return fold(log).superseded_keys(STREAM_KEY, 0, epoch)


def entries(*records: CatalogueRecord) -> Log:
    return [(key_of(record), record) for record in records]


def assert_unchanged_by_compaction(log: Log) -> None:
    expected = facts(one(log))
    for dirty_from in range(len(log) + 1):
        assert facts(one(compacted(log, dirty_from))) == expected, dirty_from


def test_two_claims_of_one_epoch_then_compaction() -> None:
    log = entries(START, claim(1), claim(2, "a"), claim(2, "b"), end(2, "b"))
    log += entries(claim(3, "c"))
    keys = tombstones(log, 3)
    assert set(keys) == {key for key, _ in log[1:5]}
    log += [(key, None) for key in keys]
    log += entries(claim(2, "late"), end(2, "late"))
    assert one(log).modules[0].claim == claim(3, "c")
    assert_unchanged_by_compaction(log)


def test_a_claim_refused_because_the_stream_had_ended_does_not_win_once_that_end_is_gone() -> None:
    # Showed as a reopened stream that belonged to nobody who knew of it: with the end and the
    # claims before it compacted away, the refused claim came first of its epoch.
    log = entries(START, claim(3), end(3), claim(4, "refused"), claim(4, "b", reopen=True))
    log += [(key, None) for key in tombstones(log, 4)]
    assert one(log).modules[0].claim == claim(4, "b", reopen=True)
    assert_unchanged_by_compaction(log)


def test_what_is_superseded_is_named_once_and_then_forgotten() -> None:
    catalogue = fold([START, claim(1), end(1), claim(2, "b", reopen=True), claim(2, "c")])
    keys = catalogue.superseded_keys(STREAM_KEY, 0, 2)
    assert len(keys) == len(set(keys)) == 3
    assert key_of(claim(2, "b")) not in keys
    catalogue.forget(STREAM_KEY, 0, 2)
    assert catalogue.superseded_keys(STREAM_KEY, 0, 2) == []
    assert catalogue.superseded_keys(b"nobody's", 0, 2) == []
    catalogue.forget(b"nobody's", 0, 2)


def test_ones_own_end_is_never_superseded() -> None:
    assert fold([START, claim(1), end(1)]).superseded_keys(STREAM_KEY, 0, 1) == []


def test_a_seal_and_a_part_written_again_under_their_key_are_those_that_compaction_keeps() -> None:
    log = entries(START, ref(1, 0), ref(1, 1), ref(2, frames=1), ref(1, 0, frames=5))
    log += entries(ref(2, frames=2))
    assert one(log).seal == ref(2, frames=2)
    assert one(log).parts == [ref(1, 1), ref(1, 0, frames=5)]
    assert_unchanged_by_compaction(log)


@dataclass
class Writer:
    """One process as it follows the protocol, with a view that may be old."""

    name: int
    view: StreamInfo | None = None
    wanted: Claim | None = None
    held: Claim | None = None
    pending: list[bytes] = field(default_factory=list)
    claims: int = 0

    def look(self, log: Log) -> None:
        catalogue = fold(log)
        self.view = catalogue.by_key(STREAM_KEY)
        assert self.view is not None
        if self.wanted is not None and self.view.modules[0].claim == self.wanted:
            self.held = self.wanted
            self.pending = catalogue.superseded_keys(STREAM_KEY, 0, self.held.epoch)
        self.wanted = None

    def claim(self, log: Log, *, closing: bool, reopen: bool) -> None:
        if self.view is None or (self.view.state != "open" and not reopen):
            return
        current = self.view.modules[0].claim
        self.claims += 1
        self.wanted = claim(
            (current.epoch if current else 0) + 1,
            f"{self.name}.{self.claims}",
            closing=closing,
            reopen=reopen,
        )
        log += entries(self.wanted)

    def tombstone(self, log: Log) -> None:
        if self.pending:
            log.append((self.pending.pop(0), None))

    def end(self, log: Log) -> None:
        if self.held is not None and self.held.closing:
            log += entries(end(self.held.epoch, self.held.nonce, offsets=(len(log),)))
            self.held = None  # an end is written once


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["look", "claim", "close", "reopen", "tombstone", "tombstone", "end"]),
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(STEPS)
@example(
    [
        *[(0, "look"), (0, "close"), (0, "look"), (1, "look"), (0, "end"), (1, "claim")],
        *[(2, "look"), (2, "reopen"), (2, "look"), *[(2, "tombstone")] * 4],
    ]
)
def test_compaction_at_any_moment_changes_nothing(steps: list[tuple[int, str]]) -> None:
    log = entries(START)
    writers = [Writer(i) for i in range(3)]
    for index, action in steps:
        writer = writers[index]
        if action == "look":
            writer.look(log)
        elif action == "tombstone":
            writer.tombstone(log)
        elif action == "end":
            writer.end(log)
        else:
            writer.claim(log, closing=action == "close", reopen=action == "reopen")
    assert_unchanged_by_compaction(log)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_epochs_only_rise_and_every_winner_was_first_of_its_epoch(
    steps: list[tuple[int, str]],
) -> None:
    log = entries(START)
    writers = [Writer(i) for i in range(3)]
    seen: list[Claim] = []
    for index, action in steps:
        writer = writers[index]
        if action == "look":
            writer.look(log)
        elif action == "end":
            writer.end(log)
        elif action != "tombstone":
            writer.claim(log, closing=action == "close", reopen=action == "reopen")
        current = one(log).modules[0].claim
        if current is not None and (not seen or seen[-1] != current):
            seen.append(current)
    assert [c.epoch for c in seen] == sorted({c.epoch for c in seen})

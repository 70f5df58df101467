"""Floors and ceils: neither falls, and no floor passes a number that is not acknowledged."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.publishing.floors import _MAX_HOLES, Progress
from pipeline.records import NO_CEIL, NO_FLOOR


@dataclass
class Time:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def publish(progress: Progress, ticket: int, *numbers: int, partition: int = 0) -> None:
    progress.queued(ticket, numbers[0])
    progress.taken_all(numbers)
    progress.sent(partition, numbers[-1])


# -- by example ---------------------------------------------------------------------------------


def test_a_writer_that_has_taken_nothing_promises_nothing() -> None:
    progress = Progress(3)
    assert progress.current_floor() == NO_FLOOR
    assert progress.ceils == [NO_CEIL] * 3


def test_the_floor_waits_for_the_acknowledgement() -> None:
    progress = Progress(1)
    publish(progress, 1, 0, 1, 2)
    assert progress.current_floor() == 0
    publish(progress, 2, 3)
    progress.acknowledged(2)
    assert progress.current_floor() == 0
    progress.acknowledged(1)
    assert progress.current_floor() == 4


def test_nothing_before_the_first_number_is_waited_for() -> None:
    progress = Progress(1)
    publish(progress, 1, 1000)
    assert progress.current_floor() == 1000


def test_a_number_below_the_floor_is_late_and_does_not_pull_it_down() -> None:
    progress = Progress(1)
    publish(progress, 1, 5)
    progress.acknowledged(1)
    assert progress.current_floor() == 6
    publish(progress, 2, 3)
    assert progress.current_floor() == 6
    assert progress.ceils == [5]


def test_a_ticket_acknowledged_twice_is_acknowledged() -> None:
    progress = Progress(1)
    publish(progress, 1, 0)
    progress.acknowledged(1)
    progress.acknowledged(1)
    assert progress.current_floor() == 1


def test_a_hole_is_kept_open_for_the_time_asked_for() -> None:
    time = Time()
    progress = Progress(1, hole_wait_s=2.0, clock=time)
    for ticket, number in enumerate((0, 3)):
        publish(progress, ticket, number)
        progress.acknowledged(ticket)
    assert progress.current_floor() == 1
    time.now = 1.0
    publish(progress, 8, 1)
    progress.acknowledged(8)
    assert progress.current_floor() == 2
    time.now = 2.0
    assert progress.current_floor() == 4


def test_a_hole_filled_in_the_middle_leaves_its_ends() -> None:
    progress = Progress(1, hole_wait_s=9.0, clock=Time())
    for ticket, number in enumerate((0, 10, 5)):
        publish(progress, ticket, number)
        progress.acknowledged(ticket)
    assert progress.current_floor() == 1
    for ticket, number in enumerate((1, 2, 3, 4), 10):
        publish(progress, ticket, number)
        progress.acknowledged(ticket)
    assert progress.current_floor() == 6


def test_holes_are_bounded_by_giving_up_the_oldest() -> None:
    progress = Progress(1, hole_wait_s=1e9, clock=Time())
    for number in range(0, 2 * (_MAX_HOLES + 3), 2):
        progress.taken(number)
    # 10,002 holes were met (1, 3, 5, ...); the first two have been given up.
    assert progress.current_floor() == 5


# -- going on after another writer --------------------------------------------------------------


def test_a_writer_that_goes_on_starts_at_the_other_ones_floor_and_ceils() -> None:
    progress = Progress(2)
    progress.resume(5, [4, 3], present=[])
    assert progress.ceils == [4, 3]
    assert progress.current_floor() == 5


def test_what_the_other_writer_lost_may_come_again_without_being_late() -> None:
    # Frame 7 was on its way when the writer died, 8 and 9 had arrived: the next writer's first
    # mark once said floor 10, and readers in order gave 7 up before it came again.
    progress = Progress(2)
    progress.resume(5, [9, 8], present=[9, 5, 6, 8])
    assert progress.current_floor() == 7
    publish(progress, 1, 7)
    assert progress.current_floor() == 7
    progress.acknowledged(1)
    assert progress.current_floor() == 8
    publish(progress, 2, 10)
    assert progress.current_floor() == 10


def test_what_does_not_come_again_is_passed_by_the_next_number() -> None:
    progress = Progress(1)
    progress.resume(5, [9], present=[5, 9])
    assert progress.current_floor() == 6
    publish(progress, 1, 12)
    progress.acknowledged(1)
    assert progress.current_floor() == 13


def test_what_is_all_there_is_passed_at_once() -> None:
    progress = Progress(1)
    progress.resume(5, [9], present=range(3, 10))
    assert progress.current_floor() == 10


def test_ceils_of_another_number_of_partitions_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        Progress(2).resume(0, [1])


# -- by any order of events ---------------------------------------------------------------------


@dataclass
class Model:
    """What the events so far allow a floor to be."""

    progress: Progress
    time: Time
    pending: dict[int, list[int]] = field(default_factory=dict)
    ticket: int = 0
    floor: int = NO_FLOOR

    def check(self) -> None:
        floor = self.progress.current_floor()
        assert floor >= self.floor, "a floor fell"
        for numbers in self.pending.values():
            for number in numbers:
                # Late ones were below the floor already when they were taken.
                late = number < self.taken_at[number]
                assert late or floor <= number, "a floor passed what is not acknowledged"
        self.floor = floor

    taken_at: dict[int, int] = field(default_factory=dict)


EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"),
            st.lists(st.integers(0, 30), min_size=1, max_size=4, unique=True).map(sorted),
        ),
        st.tuples(st.just("acknowledge"), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.floats(0, 3)),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(
    events=EVENTS,
    hole_wait_s=st.sampled_from([0.0, 1.0]),
    resumed=st.tuples(st.integers(-1, 20), st.integers(-1, 20), st.sets(st.integers(0, 20))),
)
def test_floors_and_ceils_never_fall_and_pass_nothing_that_is_pending(
    events: list[tuple[str, object]], hole_wait_s: float, resumed: tuple[int, int, set[int]]
) -> None:
    time = Time()
    progress = Progress(2, hole_wait_s=hole_wait_s, clock=time)
    floor, ceil, present = resumed
    progress.resume(floor, [ceil, NO_CEIL], present)
    model = Model(progress, time)
    model.check()
    assert model.floor >= floor
    for kind, value in events:
        ceils = list(progress.ceils)
        if kind == "write":
            assert isinstance(value, list)
            model.ticket += 1
            for number in value:
                model.taken_at[number] = model.floor
            progress.queued(model.ticket, value[0])
            progress.taken_all(value)
            model.pending[model.ticket] = value
            partition = value[-1] % 2
            assert progress.sent(partition, value[-1]) == max(ceils[partition], value[-1])
        elif kind == "acknowledge" and model.pending:
            assert isinstance(value, int)
            ticket = sorted(model.pending)[value % len(model.pending)]
            progress.acknowledged(ticket)
            del model.pending[ticket]
        elif kind == "wait":
            assert isinstance(value, float)
            time.now += value
        model.check()
        assert all(new >= old for new, old in zip(progress.ceils, ceils, strict=True))
    for ticket in model.pending:
        progress.acknowledged(ticket)
    model.pending.clear()
    time.now += 10
    model.check()
    written = [n for kind, value in events if kind == "write" for n in value]  # type: ignore[attr-defined]
    if written:
        assert model.floor >= max(written) + 1 or max(written) <= max(present, default=-1)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.sampled_from([0.0, 5.0]))
def test_numbers_noted_one_by_one_and_together_are_the_same(
    numbers: list[int], hole_wait_s: float
) -> None:
    one, other = (Progress(1, hole_wait_s=hole_wait_s, clock=Time()) for _ in range(2))
    rising = sorted(set(numbers))
    for number in rising:
        one.taken(number)
    other.taken_all(rising)
    assert one.current_floor() == other.current_floor()
    other.taken_all([])
    assert one.current_floor() == other.current_floor()

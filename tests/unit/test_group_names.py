"""Names of groups and of their dead letters, read back from the broker's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.naming import Names, parse_settled_key, record_key, settled_key

NAMES = Names("p-q")
ANY = st.text("a5b-_./%+.é", min_size=1, max_size=6)
KEY = bytes(range(8))


@given(ANY, ANY, ANY)
def test_names_come_back_from_group_ids_and_topics(
    beamtime: str, detector: str, group: str
) -> None:
    assert NAMES.parse_group(NAMES.group(beamtime, group, KEY)) == (beamtime, group, KEY)
    topic = NAMES.dead_letters(beamtime, detector, group)
    assert NAMES.parse_dead_letters(topic) == (beamtime, detector, group)


def test_what_is_not_ours_has_no_names() -> None:
    for text in ("p-q.b.g", "p-q.b.g.0123", "x.b.g.0001020304050607", "p-q.b.-zz.0001020304050607"):
        assert NAMES.parse_group(text) is None
    for text in (NAMES.work("b", "d", "g"), NAMES.topic("b", "d"), "p-q.b.d.-zz.dlq"):
        assert NAMES.parse_dead_letters(text) is None


def test_a_settling_names_its_letter_and_is_no_letter_itself() -> None:
    key = settled_key(record_key(KEY, 7), 2**40)
    assert parse_settled_key(key) == 2**40
    assert parse_settled_key(record_key(KEY, 7)) is None
    assert parse_settled_key(None) is None

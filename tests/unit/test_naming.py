"""Names on the wire: any Unicode, reversible, never two for one, within limits."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline import naming
from pipeline.errors import InvalidNameError
from pipeline.naming import (
    MAX_BUCKET_LENGTH,
    MAX_NAME_LENGTH,
    MAX_TOPIC_LENGTH,
    Names,
    StreamId,
    escape,
    file_name,
    unescape,
)

KEY = bytes(range(8))
ANY = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
#: Names made of what escaping and Kafka treat specially, so that collisions would be likely.
TRICKY = st.text("a5fb2-_./%+.é", min_size=1, max_size=6)
NAMES = st.one_of(ANY, TRICKY)


# -- what can be a name -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "must not be empty"),
        ("x" * (MAX_NAME_LENGTH + 1), "more than 200"),
        ("a\0b", "NUL"),
        ("a\ud800b", "not valid Unicode"),
        (7, "must be text, not int"),
        (None, "must be text, not NoneType"),
        (b"scan", "must be text, not bytes"),
    ],
)
@pytest.mark.parametrize("field", ["beamtime", "detector", "stream"])
def test_what_cannot_be_a_name_is_refused_by_field(field: str, value: object, problem: str) -> None:
    parts = {"beamtime": "b", "detector": "d", "stream": "s", field: value}
    with pytest.raises(InvalidNameError, match=problem) as caught:
        StreamId(**parts)
    assert (caught.value.field, caught.value.value) == (field, value)
    assert isinstance(caught.value, ValueError)


def test_the_longest_name_is_accepted() -> None:
    assert StreamId("b", "d", "x" * MAX_NAME_LENGTH).stream == "x" * MAX_NAME_LENGTH


def test_catalogue_is_no_detector_anywhere() -> None:
    for attempt in (
        lambda: StreamId("b", "catalogue", "s"),
        lambda: StreamId.parse("b/catalogue/s"),
        lambda: Names().topic("b", "catalogue"),
    ):
        with pytest.raises(InvalidNameError, match="reserved") as caught:
            attempt()
        assert caught.value.field == "detector"
    assert StreamId("catalogue", "catalogues", "catalogue").beamtime == "catalogue"


@pytest.mark.parametrize("prefix", ["", "a", "A1", "1a", "a.b", "a_b", "a-", "-a", "a" * 33, "ä1"])
def test_a_prefix_that_would_not_fit_every_service_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        Names(prefix)
    assert caught.value.field == "prefix"


@pytest.mark.parametrize("bad", ["", "a\0", "\udfff", "x" * 201])
def test_every_name_on_the_wire_refuses_what_cannot_be_a_name(bad: str) -> None:
    names = Names()
    attempts = {
        "beamtime": [
            lambda: names.topic(bad, "d"),
            lambda: names.catalogue(bad),
            lambda: names.bucket(bad),
        ],
        "detector": [lambda: names.topic("b", bad)],
        "group": [
            lambda: names.group("b", bad, KEY),
            lambda: names.work("b", "d", bad),
            lambda: names.dead_letters("b", "d", bad),
        ],
    }
    for field, made in attempts.items():
        for attempt in made:
            with pytest.raises(InvalidNameError) as caught:
                attempt()
            assert caught.value.field == field


# -- escaping -----------------------------------------------------------------------------------


@given(NAMES)
def test_escaping_is_reversible_and_leaves_only_letters_digits_and_hyphens(name: str) -> None:
    assert unescape(escape(name)) == name
    assert re.fullmatch(r"[A-Za-z0-9-]+", escape(name))


@given(NAMES, NAMES)
def test_two_names_never_escape_to_one(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@given(st.one_of(st.text(max_size=12), st.text("-abcdef0189_.", max_size=8)))
def test_a_text_that_escaping_never_makes_is_not_unescaped(text: str) -> None:
    try:
        name = unescape(text)
    except InvalidNameError:
        return
    assert escape(name) == text


@pytest.mark.parametrize("text", ["a-", "-zz", "-2D", "-61", "-ff", "a_b", "a.b", "\ud800", "-2d"])
def test_texts_that_are_not_escaped_names_are_refused(text: str) -> None:
    with pytest.raises(InvalidNameError):
        unescape(text)


_TOPICS = st.one_of(
    st.tuples(st.just("topic"), NAMES, NAMES),
    st.tuples(st.just("catalogue"), NAMES),
    st.tuples(st.just("work"), NAMES, NAMES, NAMES),
    st.tuples(st.just("dead_letters"), NAMES, NAMES, NAMES),
)


@given(_TOPICS, _TOPICS)
def test_no_two_topics_collide_as_kafka_compares_them(one, other) -> None:
    # Kafka refuses a topic that differs from another one only in '.' and '_'
    # (org.apache.kafka.common.internals.Topic.hasCollision).
    assume(one != other)
    names, made = Names(), []
    for kind, *parts in (one, other):
        assume(not (kind == "topic" and parts[1] == "catalogue"))
        topic = getattr(names, kind)(*parts)
        assert re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", topic)
        made.append(topic.replace(".", "_"))
    assert made[0] != made[1]
    assert names.schemas().replace(".", "_") not in made


def test_names_that_differ_in_where_the_dot_is_made_one_kafka_name_before() -> None:
    # Showed as "Topic 'lichtstrom.x.__d' collides with existing topic: lichtstrom.x__.d".
    names = Names()
    pairs = [
        (("x_", "d"), ("x", "_d")),
        (("a_b", "+"), ("a", "5fb+")),
        (("a.b", "c"), ("a", "b.c")),
    ]
    for one, other in pairs:
        a, b = names.topic(*one), names.topic(*other)
        assert a.replace(".", "_") != b.replace(".", "_")


@given(NAMES, NAMES)
def test_an_access_rule_on_one_beamtime_never_catches_another(one: str, other: str) -> None:
    assume(one != other)
    names = Names()
    rule = names.catalogue(one).removesuffix("catalogue")
    assert rule.endswith(".")
    assert not names.topic(other, "d").startswith(rule)
    assert names.topic(one, "d").startswith(rule)


@given(TRICKY, TRICKY)
def test_groups_are_told_apart_by_beamtime_name_and_stream(one: str, other: str) -> None:
    names = Names()
    made = {
        names.group(one, other, KEY),
        names.group(one, other, bytes(8)),
        names.group(one + "x", other, KEY),
        names.group(one, other + "x", KEY),
        names.group(one + "x", other + "x", KEY),
    }
    assert len(made) == 5


@given(NAMES, NAMES)
def test_the_beamtime_is_read_back_from_bucket_and_catalogue(one: str, other: str) -> None:
    names = Names()
    assert names.beamtime_of_catalogue(names.catalogue(one)) == one
    assert names.beamtime_of_catalogue(names.topic(one, other + "x")) is None
    assume(len(one.encode()) < 17)
    bucket = names.bucket(one)
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{1,62}", bucket)
    assert names.beamtime_of_bucket(bucket) == one


@pytest.mark.parametrize(
    "bucket",
    [
        "other-b",
        "lichtstrom-",
        "lichtstrom",
        "lichtstrom-A",
        "lichtstrom--61",
        "lichtstrom-a.b",
        "lichtstrom--ff",
        "lichtstrom--00",
        "lichtstrom--2",
        "xlichtstrom-b",
    ],
)
def test_a_bucket_that_is_not_ours_belongs_to_no_beamtime(bucket: str) -> None:
    assert Names().beamtime_of_bucket(bucket) is None


@pytest.mark.parametrize(
    "topic",
    [
        "lichtstrom.catalogue",
        "lichtstrom..catalogue",
        "lichtstrom.b",
        "lichtstrom.b.catalogues",
        "lichtstrom.a.b.catalogue",
        "lichtstrom.-ff.catalogue",
        "lichtstrom.-61.catalogue",
        "a",
        "other.b.catalogue",
        "lichtstrom.-00.catalogue",
        "lichtstrom.a_b.catalogue",
    ],
)
def test_a_topic_that_is_not_ours_is_no_catalogue(topic: str) -> None:
    # One foreign topic made every listing of beamtimes fail (UnicodeDecodeError).
    assert Names().beamtime_of_catalogue(topic) is None


# -- limits -------------------------------------------------------------------------------------


def test_topics_longer_than_kafka_allows_name_the_part_to_shorten() -> None:
    names = Names()
    longest = MAX_TOPIC_LENGTH - len("lichtstrom.b.")
    assert len(names.topic("b", "d" * 200)) == len("lichtstrom.b.") + 200
    with pytest.raises(InvalidNameError, match="Kafka allows 249") as caught:
        names.topic("b", "é" * (longest // 6 + 1))
    assert caught.value.field == "detector"
    for attempt, field in (
        (lambda: names.catalogue("é" * 40), "beamtime"),
        (lambda: names.work("b", "d", "é" * 40), "group"),
        (lambda: names.dead_letters("b", "d" * 120, "g" * 120), "group"),
        (lambda: names.group("b" * 120, "g" * 120, KEY), "group"),
    ):
        with pytest.raises(InvalidNameError) as caught:
            attempt()
        assert caught.value.field == field


def test_a_bucket_longer_than_s3_allows_is_refused() -> None:
    names = Names()
    longest = "b" * (MAX_BUCKET_LENGTH - len("lichtstrom-"))
    assert len(names.bucket(longest)) == MAX_BUCKET_LENGTH
    with pytest.raises(InvalidNameError, match="S3 allows 63") as caught:
        names.bucket(longest + "b")
    assert caught.value.field == "beamtime"


# -- stream ids as text -------------------------------------------------------------------------


@given(NAMES, NAMES, NAMES)
def test_a_stream_id_is_read_back_from_its_text(beamtime: str, detector: str, stream: str) -> None:
    assume(detector != "catalogue")
    name = StreamId(beamtime, detector, stream)
    assert str(name).count("/") == 2
    assert StreamId.parse(str(name)) == name


@pytest.mark.parametrize("text", ["", "a", "a/b", "a/b/c/d", "//", "a//c", "a/%00/c", "a/%ff/c"])
def test_a_text_that_names_no_stream_is_refused(text: str) -> None:
    with pytest.raises(InvalidNameError):
        StreamId.parse(text)


def test_a_percent_sign_typed_by_hand_stands_for_itself() -> None:
    assert StreamId.parse("b/d/50%x").stream == "50%x"
    assert StreamId.parse("b/d/a%2Fb").stream == "a/b"


@given(NAMES, NAMES)
def test_file_names_differ_and_suit_every_file_system(one: str, other: str) -> None:
    made = file_name(one)
    assert (made == file_name(other)) == (one == other)
    assert made.isascii()
    assert made.isprintable()
    assert not set(made) & set('/\\:*?"<>|')
    assert not made.endswith((".", " "))


def test_file_names_keep_what_people_read() -> None:
    assert file_name("scan_7, test (2)") == "scan_7, test (2)"
    assert file_name("a.") != file_name("a")


# -- keys ---------------------------------------------------------------------------------------


@given(st.binary(min_size=8, max_size=8), st.integers(0, 2**63 - 1))
def test_a_record_key_is_read_back(key: bytes, number: int) -> None:
    packed = naming.record_key(key, number)
    assert len(packed) == 16
    assert naming.parse_record_key(packed) == (key, number)


@given(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)))
def test_record_keys_of_one_stream_sort_by_number(numbers: tuple[int, int]) -> None:
    keys = [naming.record_key(KEY, n) for n in numbers]
    assert (keys[0] < keys[1]) == (numbers[0] < numbers[1])


@pytest.mark.parametrize("key", [None, b"", b"x" * 15, b"x" * 17, b"clock"])
def test_a_foreign_key_is_none_of_ours(key: bytes | None) -> None:
    assert naming.parse_record_key(key) is None


def test_blob_keys_of_two_writers_of_one_stream_never_meet() -> None:
    prefix = Names().stream_prefix("b", "d", KEY)
    assert prefix == f"lichtstrom-b/d/{KEY.hex()}/"
    made = {
        naming.segment_key(prefix, epoch=e, nonce=n, module=m, first=f, sequence=s, suffix=".bin")
        for e in (1, 12)
        for n in ("aaaaaaaa", "bbbbbbbb")
        for m in (0, 1)
        for f in (0, 10)
        for s in (1, 4096, 10_000_000)
    }
    assert len(made) == 48
    assert all(key.startswith(prefix) for key in made)
    assert naming.seal_key(prefix, epoch=1, nonce="a") != naming.seal_key(
        prefix, epoch=1, nonce="b"
    )
    assert naming.part_key(prefix, epoch=1, nonce="a", part=2).startswith(
        naming.manifest_prefix(prefix)
    )
    assert naming.attachment_key(prefix, name="a/b", nonce="1").count("/") == prefix.count("/") + 1


def test_stream_keys_and_nonces_are_random() -> None:
    assert len({naming.new_stream_key() for _ in range(100)}) == 100
    assert all(len(naming.new_stream_key()) == 8 for _ in range(3))
    assert all(re.fullmatch("[0-9a-f]{8}", naming.new_nonce()) for _ in range(3))

"""Why groups are no share groups: what their preview client does (decision 0011).

When one of these fails after an upgrade, the decision can be looked at again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest
from confluent_kafka import (
    AcknowledgeType,
    IllegalStateException,
    Message,
    Producer,
    ShareConsumer,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from pipeline.local import RuntimeInfo

LIMIT_S = 30.0


@pytest.fixture
def shared_topic(runtime: RuntimeInfo, beamtime: str) -> Iterator[str]:
    """A topic with one partition and a share group of its name that begins at its start."""
    admin = AdminClient({"bootstrap.servers": runtime.kafka.bootstrap})
    admin.create_topics([NewTopic(beamtime, 1, 1)])[beamtime].result(LIMIT_S)
    start = ConfigEntry(
        "share.auto.offset.reset", "earliest", incremental_operation=AlterConfigOpType.SET
    )
    resource = ConfigResource(ResourceType.GROUP, beamtime, incremental_configs=[start])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(LIMIT_S)
    yield beamtime
    admin.delete_topics([beamtime])[beamtime].result(LIMIT_S)


def produce(runtime: RuntimeInfo, topic: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": runtime.kafka.bootstrap})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(LIMIT_S) == 0


def poll(consumer: ShareConsumer) -> list[Message]:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        messages = list(consumer.poll(0.2))
        if messages:
            assert [m.error() for m in messages] == [None] * len(messages)
            return messages
    pytest.fail(f"nothing came in {LIMIT_S} s")


def release(consumer: ShareConsumer, messages: list[Message]) -> None:
    for message in messages:
        consumer.acknowledge(message, AcknowledgeType.RELEASE)
    assert set(consumer.commit_sync(LIMIT_S).values()) == {None}


def test_a_member_cannot_ask_for_more_while_it_holds_a_record_and_the_fifth_delivery_is_the_last(
    runtime: RuntimeInfo, shared_topic: str
) -> None:
    produce(runtime, shared_topic, b"0", b"1", b"2")
    settings = {
        "bootstrap.servers": runtime.kafka.bootstrap,
        "group.id": shared_topic,
        "share.acknowledgement.mode": "explicit",
    }
    deliveries: Counter[bytes] = Counter()
    with ShareConsumer(settings) as consumer:
        consumer.subscribe([shared_topic])
        while deliveries.total() < 15:
            messages = poll(consumer)
            with pytest.raises(IllegalStateException):
                consumer.poll(0.0)
            for message in messages:
                deliveries[message.value()] += 1
                assert message.delivery_count() == deliveries[message.value()]
            release(consumer, messages)
        assert deliveries == {b"0": 5, b"1": 5, b"2": 5}
        produce(runtime, shared_topic, b"probe")
        (probe,) = poll(consumer)
        assert (probe.value(), probe.delivery_count()) == (b"probe", 1), "the others are gone"
        release(consumer, [probe])


def test_the_client_cannot_tell_how_far_a_share_group_is() -> None:
    assert [name for name in dir(AdminClient) if "share" in name.lower()] == []

"""Several links to one storage: their bandwidths add up, and one that goes takes nothing along."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.bench.shaped import ShapedLinks, move, shaped_links, why_not
from pipeline.config import load
from pipeline.local.processes import stop, wait_until
from pipeline.session import connect

pytestmark = pytest.mark.timeout(300)
LIMIT_S = 120.0
SHAPE = (256, 256)


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShapedLinks]:
    problem = why_not()
    if problem:
        pytest.skip(f"SEVERAL LINKS NOT TESTED: {problem}")
    with shaped_links(tmp_path_factory.mktemp("links") / "store", mbit_per_s=40) as made:
        yield made


@pytest.mark.parametrize("get", [False, True], ids=["put", "get"])
def test_two_links_carry_nearly_twice_as_much_as_one(links: ShapedLinks, get: bool) -> None:
    sizes = [1 << 18] * 16
    if get:
        move(links.settings(), "links", sizes, threads=4, get=False)
    ratios = []
    for _ in range(5):  # the best of five: the other end of a busy machine is no link
        one, two = (move(links.settings(n), "links", sizes, threads=4, get=get) for n in (1, 2))
        ratios.append(two.mb_per_s / one.mb_per_s)
        if ratios[-1] >= 1.8:
            return
    pytest.fail(f"two links carried only {ratios} times as much as one")


def test_a_link_cut_and_a_gateway_killed_while_frames_flow_lose_nothing(
    links: ShapedLinks, home_env: Path, beamtime: str
) -> None:
    settings = replace(load(), store=links.settings(timeout_s=4.0))
    read: list[int] = []
    reached = threading.Condition()

    def follow() -> None:
        with connect(settings=settings) as session:
            for frame in session.stream(beamtime, "lambda", "s").ordered(timeout_s=LIMIT_S):
                assert (frame.array == frame.number).all()
                with reached:
                    read.append(frame.number)
                    reached.notify_all()

    reader = threading.Thread(target=follow)
    with connect(settings=settings) as session:
        with session.publish(beamtime, "lambda", "s", segment_nbytes=300_000) as out:

            def write(first: int, end: int) -> None:
                for number in range(first, end):
                    out.write(np.full(SHAPE, number, np.uint16), number=number)
                out.flush(LIMIT_S)
                if not first:  # there is a stream now
                    reader.start()
                with reached:
                    assert reached.wait_for(lambda: len(read) == end, LIMIT_S), len(read)

            write(0, 30)
            links.cut(0)
            write(30, 90)
            links.mend(0)
            # The other one can go only when this one is used again.
            assert wait_until(lambda: _carries(links, 0), timeout_s=LIMIT_S)
            assert stop(links.gateway(1), timeout_s=0.0)
            write(90, 150)
        reader.join(LIMIT_S)
        assert not reader.is_alive()
        account = session.stream(beamtime, "lambda", "s").verify()
    assert read == list(range(150))
    assert account["complete"], account
    assert account["received"] == 150
    assert account["duplicate"] == []


def _carries(links: ShapedLinks, number: int) -> bool:
    from pipeline.blobs import open_store
    from pipeline.errors import StoreUnavailableError

    only = replace(links.settings(timeout_s=2.0), endpoints=(links.endpoints[number],))
    store = open_store(only)
    try:
        store.folders("")
    except StoreUnavailableError:
        return False
    finally:
        store.close()
    return True

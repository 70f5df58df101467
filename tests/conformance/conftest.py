"""Servers for the fault script; everything here runs against real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.testing.conformance import Bench

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.service)


@pytest.fixture(scope="session")
def bench(runtime_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The servers of this test run, and others that may be killed."""
    with Bench(tmp_path_factory.mktemp("bench"), home=runtime_home) as made:
        yield made

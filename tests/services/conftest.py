"""Everything in this folder runs against the real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The hook sees the items of all folders, not only of this one.
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.service)

"""Every adapter through every fault: the rigs are the files ``rig_*.py`` beside this one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.testing.conformance import FAULTS, Bench, Rig, check

RIGS = sorted(path.stem for path in Path(__file__).parent.glob("rig_*.py"))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", RIGS)
def test_an_adapter_passes_the_fault_script(
    name: str, fault: str, bench: Bench, tmp_path: Path
) -> None:
    module = importlib.import_module(name)
    make: Callable[[Path], Rig] = module.Rig
    reason = check(make, fault, bench, tmp_path)
    if reason:
        pytest.skip(f"{name.removeprefix('rig_')} has no {fault}: {reason}")

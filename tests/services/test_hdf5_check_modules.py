"""Modules in files are compared with their stream each, and so is where a view shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
from compared_files import (
    DATA,
    DETECTOR,
    MODULES,
    TURNED,
    changed,
    compared,
    image,
    last_frame,
    publish,
    put,
    written,
)

from pipeline.frame import Module
from pipeline.session import Session, connect
from pipeline.sinks.hdf5.checking import check_file

pytestmark = [pytest.mark.service, pytest.mark.timeout(120)]


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect("file") as opened:
        yield opened


@pytest.mark.parametrize("modules", [MODULES, TURNED], ids=["straight", "turned"])
@pytest.mark.parametrize("options", [{}, {"by_partition": True}, {"compression": "none"}], ids=str)
def test_modules_are_compared_each(
    session: Session,
    beamtime: str,
    tmp_path: Path,
    options: dict[str, Any],
    modules: tuple[Module, ...],
) -> None:
    publish(session, beamtime, modules)
    path = written(session, beamtime, tmp_path, **options)
    assert compared(session, beamtime, path) == []
    part = sorted(tmp_path.glob("d_s_m1*.h5"))[-1]
    position, number = last_frame(part)
    put(part, position, image(number, 0))  # the other module's
    (finding,) = compared(session, beamtime, path)
    assert (finding.file, finding.where) == (part.name, f"/{DATA}[{position}]")
    assert f"module 1 of frame {number} " in f"{finding.what} "


def test_a_view_that_shows_modules_at_the_wrong_place_is_found(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    publish(session, beamtime, MODULES)
    path = written(session, beamtime, tmp_path)
    first, second = tmp_path / "d_s_m0.h5", tmp_path / "d_s_m1.h5"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert check_file(path) == []
    assert any(
        "module 0 of frame 3 " in finding.what for finding in compared(session, beamtime, path)
    )


@pytest.mark.parametrize(
    ("rows", "order", "wanted"),
    [
        ((10, 18), slice(None), None),
        ((9, 17), slice(None), "is not shown where it belongs"),
        ((10, 14), slice(None), "is not shown where it belongs"),
        ((10, 18), slice(None, -1), "module 1 of frame 42 is not in the file"),
    ],
    ids=["right", "shifted", "cut", "one too few"],
)
def test_a_view_is_compared_with_the_places_of_the_modules(
    session: Session,
    beamtime: str,
    tmp_path: Path,
    rows: tuple[int, int],
    order: slice,
    wanted: str | None,
) -> None:
    publish(session, beamtime, MODULES)
    path = written(session, beamtime, tmp_path)

    def remake(file: Any) -> None:
        shape = file[DATA].shape
        layout = h5py.VirtualLayout(shape, "u2")
        part = (shape[0], 8, 10)
        layout[:, :8, :10] = h5py.VirtualSource("d_s_m0.h5", DATA, part)
        source = h5py.VirtualSource("d_s_m1.h5", DATA, part)
        layout[order, rows[0] : rows[1], 3:] = source[order, : rows[1] - rows[0]]
        attributes = dict(file[DATA].attrs)
        del file[DATA]
        file["entry/data"].create_virtual_dataset("data", layout, fillvalue=65535)
        file[DATA].attrs.update(attributes)

    changed(path, remake)
    assert check_file(path) == []
    found = [finding.what for finding in compared(session, beamtime, path)]
    assert found == [] if wanted is None else wanted in found


def test_the_table_of_modules_is_compared(session: Session, beamtime: str, tmp_path: Path) -> None:
    publish(session, beamtime, MODULES)
    path = written(session, beamtime, tmp_path)

    def lie(file: Any) -> None:
        file[f"{DETECTOR}/module_valid"][4] = [0, 1]  # frame 7, of which module 0 came

    changed(path, lie)
    (finding,) = compared(session, beamtime, path)
    assert finding.where == f"/{DETECTOR}/module_valid[4]"

"""Finding the user's function, and knowing which frame a dead process had in hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.errors import InvalidArgumentError, InvalidNameError, PluginError
from pipeline.worker import run_worker
from pipeline.workers.board import Board
from pipeline.workers.function import load, version_of


def test_a_function_is_found_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "some_user_code.py"
    path.write_text("def double(frame):\n    return {'n': frame * 2}\n")
    function = load(f"{path}:double")
    assert function(4) == {"n": 8}
    assert version_of(function).startswith("some_user_code:double sha256:")
    before = version_of(function)
    path.write_text("def double(frame):\n    return None\n")
    assert version_of(function) != before
    sys.modules.pop("some_user_code")


def test_a_module_in_the_current_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "other_user_code.py").write_text("class A:\n    f = staticmethod(len)\n")
    assert load("other_user_code:A.f")([1, 2]) == 2
    sys.modules.pop("other_user_code")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("json", "must be written"),
        (":loads", "must be written"),
        ("json:", "must be written"),
        ("no_such_module_anywhere:f", "ModuleNotFoundError"),
        ("json:nothing", "AttributeError"),
        ("math:pi", "is no function"),
        ("/no/such/file.py:f", "no such file"),
    ],
)
def test_what_is_no_function_is_named(name: str, problem: str) -> None:
    with pytest.raises(PluginError, match=problem):
        load(name)


def test_a_file_with_an_error_in_it_is_an_error_of_the_plugin(tmp_path: Path) -> None:
    path = tmp_path / "broken_user_code.py"
    path.write_text("1 / 0\n")
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        load(f"{path}:f")
    sys.modules.pop("broken_user_code", None)


def test_the_frame_in_the_hand_of_a_dead_process_is_counted(tmp_path: Path) -> None:
    with Board(str(tmp_path / "board")) as board, Board(str(tmp_path / "board")) as child:
        assert board.crashed(2) is None
        child.begin(2, 77)
        assert board.crashed(2) == 77
        child.begin(2, 77)
        assert board.crashed(2) == 77
        child.begin(1, 78)
        child.end(1)
        assert board.crashed(1) is None
        assert child.crashes(77) == 2
        assert child.crashes(78) == 0


def test_wrong_arguments_fail_before_a_process_is_started() -> None:
    with pytest.raises(InvalidArgumentError, match="processes"):
        run_worker("json:loads", "a/b/c", group="g", processes=0)
    with pytest.raises(InvalidArgumentError, match="max_attempts"):
        run_worker("json:loads", "a/b/c", group="g", max_attempts=0)
    with pytest.raises(InvalidNameError, match="stream"):
        run_worker("json:loads", "a/b", group="g")
    with pytest.raises(PluginError):
        run_worker("json:nothing", "a/b/c", group="g")

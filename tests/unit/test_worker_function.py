"""Finding the user's function, what it returns, and how many frames it is handed at once."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Settings
from pipeline.errors import InvalidArgumentError, InvalidFrameError, InvalidNameError, PluginError
from pipeline.worker import run_worker
from pipeline.workers.function import Context, load, prepare, results_of, version_of
from pipeline.workers.pace import Pace


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


class Counter:
    def __init__(self, context: Context) -> None:
        self.seen = [context.process]

    def __call__(self, frame: object) -> None:
        self.seen.append(frame)  # type: ignore[arg-type]

    def close(self) -> None:
        self.seen.clear()


def test_a_class_is_made_once_a_process_and_closed(context: Context) -> None:
    function, close = prepare(Counter, context)
    function("a")
    function("b")
    assert function.seen == [3, "a", "b"]  # type: ignore[attr-defined]
    close()
    assert not function.seen  # type: ignore[attr-defined]


def test_a_function_needs_no_closing_and_a_class_must_be_callable(context: Context) -> None:
    function, close = prepare(len, context)
    assert function is len
    close()
    with pytest.raises(PluginError, match="__call__"):
        prepare(threading.Event, context)


@pytest.fixture
def context() -> Context:
    return Context(stream="a/b/c", group="g", process=3, processes=4, settings=Settings())


IMAGE = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("returned", "outs", "chunk", "expected"),
    [
        (None, 0, 0, [[None]]),
        ("anything", 0, 0, [[(None, None)]]),
        (None, 1, 0, [[None]]),
        ({"a": np.float32(2)}, 1, 0, [[(None, {"a": 2.0})]]),
        (IMAGE, 1, 0, [[(IMAGE, None)]]),
        ((IMAGE, {"a": 1}), 1, 0, [[(IMAGE, {"a": 1})]]),
        (({"a": 1}, None), 2, 0, [[(None, {"a": 1})], [None]]),
        (None, 2, 0, [[None], [None]]),
        ({"a": 1}, 1, 3, [[(None, {"a": 1}), None, None]]),
        ([None, {"a": 1}], 1, 2, [[None, (None, {"a": 1})]]),
        (None, 0, 2, [[None, None]]),
    ],
)
def test_what_was_returned_becomes_a_result_for_each_stream_and_frame(
    returned: object, outs: int, chunk: int, expected: object
) -> None:
    assert results_of(returned, outs, chunk=chunk) == expected


@pytest.mark.parametrize(
    ("returned", "outs", "chunk"),
    [("text", 1, 0), ([{"a": 1}], 1, 0), ({"a": 1}, 2, 0), (({},), 2, 0), ([None], 1, 2)],
)
def test_what_is_no_result_is_refused(returned: object, outs: int, chunk: int) -> None:
    with pytest.raises(InvalidFrameError, match="result"):
        results_of(returned, outs, chunk=chunk)


def test_long_work_is_handed_out_frame_by_frame_and_short_work_in_bulk() -> None:
    pace = Pace()
    assert (pace.frames, pace.ahead) == (1, False)
    pace.took(1, 0.3, 1000)
    assert (pace.frames, pace.ahead) == (1, False)
    for _ in range(50):
        pace.took(100, 100e-6, 100_000)
    assert 100 < pace.frames <= 512
    assert pace.ahead
    for _ in range(50):
        pace.took(10, 1e-5, 10 * 2**23)
    assert pace.frames == 2


def test_wrong_arguments_fail_before_a_process_is_started() -> None:
    with pytest.raises(InvalidArgumentError, match="processes"):
        run_worker("json:loads", "a/b/c", group="g", processes=0)
    with pytest.raises(InvalidArgumentError, match="max_attempts"):
        run_worker("json:loads", "a/b/c", group="g", max_attempts=0)
    with pytest.raises(InvalidNameError, match="stream"):
        run_worker("json:loads", "a/b", group="g")
    with pytest.raises(PluginError):
        run_worker("json:nothing", "a/b/c", group="g")

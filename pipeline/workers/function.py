"""Finding the user's function, and what it returned."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pipeline.config import Settings
from pipeline.errors import InvalidFrameError, PluginError
from pipeline.session import Session, connect

#: Takes a frame; returns None, attributes, an array, or (array, attributes).
Function = Callable[[Any], Any]
#: What becomes one frame of a derived stream; None: nothing does.
Result = tuple[Any, dict[str, Any] | None] | None


@dataclass
class Context:
    """What a function that is a class is told when it is made, once a process.

    Parameters
    ----------
    stream:
        What the worker works on: a stream's name, or a pattern.
    group:
        The group.
    process, processes:
        Which process of this worker it is, from 0, and how many there were at the start.
    settings:
        Where broker and store are.
    """

    stream: str
    group: str
    process: int
    processes: int
    settings: Settings

    @functools.cached_property
    def session(self) -> Session:
        """A session of the process's own, opened when first asked for."""
        return connect(settings=self.settings)

    def close(self) -> None:
        """Close the session if it was opened."""
        if "session" in self.__dict__:
            self.session.close()


def load(name: str | Function) -> Function:
    """Return the function that ``module:function`` or ``file.py:function`` names.

    Modules are found from the current directory, too.  Raises PluginError.
    """
    if callable(name):
        return name
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise PluginError(f"{name!r} must be written module:function or file.py:function")
    try:
        module = _module(where)
        found: Any = module
        for part in attribute.split("."):
            found = getattr(found, part)
    except PluginError:
        raise
    except Exception as error:  # the user's module may raise anything
        raise PluginError(f"{name}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise PluginError(f"{name} is no function but {type(found).__name__}")
    return found  # type: ignore[no-any-return]  # callable was checked


def _module(where: str) -> ModuleType:
    path = Path(where)
    if path.suffix != ".py":
        if sys.path[0] not in ("", str(Path.cwd())):
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(where)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        raise PluginError(f"{where}: no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def prepare(function: Function, context: Context) -> tuple[Function, Callable[[], None]]:
    """Return what is called with each frame, and what is called at the end.

    A class is made once, with the context if it takes an argument; its ``close``, if it has one, is
    the end.
    """
    if not inspect.isclass(function):
        return function, _nothing
    needed = inspect.signature(function).parameters
    made: Any = function(context) if needed else function()  # type: ignore[call-arg]  # looked up
    if not callable(made):
        raise PluginError(f"{function.__qualname__} has no __call__(self, frame)")
    return made, getattr(made, "close", _nothing)


def _nothing() -> None:
    return None


def results_of(returned: Any, outs: int, *, chunk: int = 0) -> list[list[Result]]:
    """Return what each derived stream gets, for each of the frames.

    Parameters
    ----------
    returned:
        None, a dict, an array or (array, dict) for each derived stream; for several of them a
        tuple of as many.  For a chunk of frames either one such for the whole, which goes under
        the first frame's number, or a list with one for each frame.
    outs:
        How many derived streams there are; without any, all that counts is whether it is None.
    chunk:
        With how many frames the function was called as a list; 0: with one frame.

    Raises InvalidFrameError for anything else.
    """
    if not outs:
        return [[None if returned is None else (None, None)] * max(chunk, 1)]
    if chunk and isinstance(returned, list):
        if len(returned) != chunk:
            raise InvalidFrameError("result", f"a list of {len(returned)} for {chunk} frames")
        rows = returned
    else:
        rows = [returned, *[None] * (chunk - 1)]
    return [list(column) for column in zip(*(_outs(row, outs) for row in rows), strict=True)]


def _outs(returned: Any, outs: int) -> Sequence[Result]:
    """Return the result for each derived stream, of one frame."""
    if outs == 1 or returned is None:
        return [_result(returned)] * outs
    if not isinstance(returned, tuple) or len(returned) != outs:
        raise InvalidFrameError("result", f"return a tuple of {outs}, one for each --out")
    return [_result(each) for each in returned]


def _result(returned: Any) -> Result:
    if returned is None:
        return None
    if isinstance(returned, Mapping):
        return None, _plain(returned)
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], Mapping):
        return np.asarray(returned[0]), _plain(returned[1])
    if isinstance(returned, np.ndarray):
        return returned, None
    raise InvalidFrameError(
        "result", f"{type(returned).__name__}: return None, a dict, an array, or (array, dict)"
    )


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in attributes.items()}


def version_of(function: Function) -> str:
    """Return what tells two versions of the code apart: names, and the source's SHA-256."""
    name = f"{function.__module__}:{getattr(function, '__qualname__', repr(function))}"
    try:
        source = Path(inspect.getsourcefile(function) or "").read_bytes()
    except (TypeError, OSError):
        return name
    return f"{name} sha256:{hashlib.sha256(source).hexdigest()[:16]}"

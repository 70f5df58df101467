"""Finding the user's function."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import PluginError

#: Takes a frame; returns None, attributes, an array, or (array, attributes).
Function = Callable[[Any], Any]


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


def version_of(function: Function) -> str:
    """Return what tells two versions of the code apart: names, and the source's SHA-256."""
    name = f"{function.__module__}:{getattr(function, '__qualname__', repr(function))}"
    try:
        source = Path(inspect.getsourcefile(function) or "").read_bytes()
    except (TypeError, OSError):
        return name
    return f"{name} sha256:{hashlib.sha256(source).hexdigest()[:16]}"

"""INI files as Qt writes them (QSettings, ``IniFormat``), which Python's configparser cannot read.

Keys hold backslashes between groups and ``%20`` for odd characters, values may be quoted with C
escapes or be binary variants, nothing is interpolated, and a key may come twice.
"""

from __future__ import annotations

import re

#: A line that is longer holds an array of an integration, no fact about an image.
MAX_VALUE = 1024
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "0": "\0"}
_ESCAPED = re.compile(r"\\(x[0-9a-fA-F]{1,4}|.)", re.DOTALL)
_PERCENT = re.compile(r"%(U[0-9a-fA-F]{4}|[0-9a-fA-F]{2})")
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_REAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)

Value = bool | int | float | str


def section(text: str, wanted: str) -> tuple[dict[str, str], bool]:
    """Return the raw values of one section, and whether the text has anything else.

    The last of equal keys counts, as in Qt.  Values beyond :data:`MAX_VALUE` characters are left
    out and count as something else.
    """
    values: dict[str, str] = {}
    current, others = "General", False
    for raw in text.split("\n"):
        line = raw.strip("\r\t ")
        if not line or line.startswith(";"):
            continue
        if line.startswith("[") and line.endswith("]"):
            current = line[1:-1]
            continue
        key, equals, value = line.partition("=")
        if current != wanted or not equals or len(value) > MAX_VALUE or len(key) > MAX_VALUE:
            others = True
            continue
        values[_PERCENT.sub(_character, key.strip())] = value.strip()
    return values, others


def value_of(raw: str) -> Value | None:
    """Return what a raw value is; None for binary variants, lists and byte arrays stay text."""
    if raw.startswith("@@"):
        raw = raw[1:]
    elif raw.lstrip('"').startswith(("@Variant(", "@Invalid(", "@DateTime(")):
        return None
    if len(raw) >= 2 and raw.startswith('"') and raw.endswith('"'):
        return _ESCAPED.sub(_unescaped, raw[1:-1])
    if raw in ("true", "false"):
        return raw == "true"
    if _INTEGER.fullmatch(raw):
        return int(raw)
    if _REAL.fullmatch(raw):
        number = float(raw)
        return number if abs(number) != float("inf") else raw
    return _ESCAPED.sub(_unescaped, raw)


def _unescaped(found: re.Match[str]) -> str:
    code = found[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPES.get(code, code)


def _character(found: re.Match[str]) -> str:
    return chr(int(found[1].lstrip("U"), 16))

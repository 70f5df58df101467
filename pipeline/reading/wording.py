"""What the language of ``select`` has beyond Python's grammar, and where in the text things are.

``name matches 'scan_.*'`` is no Python.  It is read as ``name in r'scan_.*'``, letter under letter
so that every place in the text stays where it was, and the place of each such word is kept.

Patterns are those of RE2, whose time grows with the length of the text and nothing else: Python's
own ``re`` needs ages for ``(a+)+$`` and thirty letters, and no limit of lengths prevents that.
"""

from __future__ import annotations

import ast
import io
import keyword
import tokenize
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

#: A pattern's program may take so much memory; RE2 refuses it otherwise.
MAX_PATTERN_MEMORY = 1 << 20
_WORD = "matches"


class Wording:
    """The text of an expression, as Python can parse it.

    Attributes
    ----------
    python:
        The text with other words, of the same length.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._lines = _line_offsets(text)
        #: Where a pattern got an r in front, which is no part of the text.
        self._added: set[int] = set()
        letters, found = list(text), []
        for word, pattern in _matches(text):
            begin, end = self._index(*word.start), self._index(*pattern.start)
            raw = pattern.string[0] in "'\""
            letters[begin:end] = "in".ljust(end - begin - raw) + "r" * raw
            found.append(begin)
            if raw:
                self._added.add(end - 1)
        self.python = "".join(letters)
        self._found = found

    def is_pattern(self, left: ast.expr, right: ast.expr) -> bool:
        """Tell whether the ``in`` between these two stands for ``matches``."""
        after = self._place(left.end_lineno or 1, left.end_col_offset or 0)
        return any(after <= at < self.place(right) for at in self._found)

    def place(self, node: ast.AST) -> int:
        """Return where a node begins, in characters from 0."""
        place = self._place(getattr(node, "lineno", 1), getattr(node, "col_offset", 0))
        return place + (place in self._added)

    def column(self, error: SyntaxError) -> int:
        """Return the place of an error of Python's parser, in characters from 1."""
        if not error.offset:  # something is wanted behind the end
            return len(self.text) + 1
        return self._index(max(1, error.lineno or 1), error.offset - 1) + 1

    def _place(self, line: int, nbytes: int) -> int:
        """Python's places are bytes of UTF-8 from the beginning of the line."""
        begin = self._index(line, 0)
        return begin + len(self.text[begin:].encode()[:nbytes].decode(errors="replace"))

    def _index(self, line: int, column: int) -> int:
        return self._lines[min(line, len(self._lines)) - 1] + column


def _line_offsets(text: str) -> list[int]:
    offsets = [0]
    for line in io.StringIO(text, newline=None):
        offsets.append(offsets[-1] + len(line))
    return offsets


def _matches(text: str) -> Iterator[tuple[tokenize.TokenInfo, tokenize.TokenInfo]]:
    """Yield each word ``matches`` that stands between a value and a text, with the text."""
    try:
        every = tokenize.generate_tokens(io.StringIO(text).readline)
        tokens = [token for token in every if token.type not in (tokenize.NL, tokenize.COMMENT)]
    except (tokenize.TokenError, SyntaxError):
        return  # the parser says what is wrong
    for index, (word, after) in enumerate(pairwise(tokens)):
        if index and word.string == _WORD and after.type == tokenize.STRING:
            before = tokens[index - 1]
            if before.string == "not" or _ends_value(before):
                yield word, after


def _ends_value(token: tokenize.TokenInfo) -> bool:
    if token.type == tokenize.NAME:
        return not keyword.iskeyword(token.string)
    return token.type in (tokenize.STRING, tokenize.NUMBER) or token.string in (")", "]")


def compile_pattern(pattern: str) -> Callable[[str], bool]:
    """Return a function that tells whether the whole of a text matches.

    Raises ValueError for what is no pattern.
    """
    import re2  # loaded by who uses it

    options: Any = re2.Options()
    options.max_mem = MAX_PATTERN_MEMORY
    options.log_errors = False
    try:
        compiled: Any = re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0] if error.args else error
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(error)
        raise ValueError(text) from error

    def matches(text: str) -> bool:
        # Text of a frame may hold what is no Unicode; RE2 takes bytes of UTF-8.
        return compiled.fullmatch(text.encode(errors="replace").decode()) is not None

    return matches

"""Which frames somebody wants, said by their numbers: ``100:200``, ``::10``, ``3,5,8``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from pipeline.errors import InvalidArgumentError
from pipeline.reading.ranges import Ranges
from pipeline.records import Int64s

_PART = re.compile(r"(\d{1,18})|(\d{1,18})?:(\d{1,18})?(?::(\d{1,18})?)?")


@dataclass(frozen=True, slots=True)
class _Span:
    """Numbers from ``first`` (None: the stream's first) up to ``stop``, every ``step``-th."""

    first: int | None
    stop: int | None
    step: int


@dataclass(frozen=True, slots=True)
class FrameChoice:
    """Numbers and ranges of numbers, as in Python: the end is not in it.

    Parameters
    ----------
    text:
        As it was said.
    """

    text: str
    spans: tuple[_Span, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the choice that a text means.

        Numbers and ranges, separated by commas: ``7``, ``FIRST:STOP``, ``FIRST:STOP:STEP``.  What
        is left out: the stream's first frame, no end, 1.  A step counts numbers, not frames that
        came: ``::10`` are the stream's first number and each tenth from there on.

        Raises
        ------
        InvalidArgumentError
            Names the part that is wrong.
        """
        spans = []
        for part in text.replace(" ", "").split(","):
            found = _PART.fullmatch(part)
            if found is None:
                raise InvalidArgumentError(
                    "frames",
                    f"{part!r} is neither NUMBER nor FIRST:STOP:STEP, as in 100:200 or ::10",
                )
            number, first, stop, step = (None if g is None else int(g) for g in found.groups())
            if number is not None:
                spans.append(_Span(number, number + 1, 1))
                continue
            if step == 0:
                raise InvalidArgumentError("frames", f"{part!r}: a step of 0 goes nowhere")
            spans.append(_Span(first, stop, step or 1))
        return cls(text, tuple(spans))

    def mask(self, numbers: Int64s, first: int) -> npt.NDArray[np.bool_]:
        """Return which of the numbers are chosen; ``first``: the stream's first number."""
        chosen = np.zeros(len(numbers), bool)
        for span in self.spans:
            begin = first if span.first is None else span.first
            inside = (numbers >= begin) & ((numbers - begin) % span.step == 0)
            chosen |= inside if span.stop is None else inside & (numbers < span.stop)
        return chosen

    def of(self, ranges: Ranges, first: int) -> Ranges:
        """Return the chosen numbers of some ranges."""
        found = Ranges()
        for low, high in ranges:
            for span in self.spans:
                begin = first if span.first is None else span.first
                stop = high + 1 if span.stop is None else min(span.stop, high + 1)
                low_in = begin + -(-max(0, low - begin) // span.step) * span.step
                if span.step == 1:
                    found.add(low_in, stop - 1)
                else:
                    for number in range(low_in, stop, span.step):
                        found.add(number, number)
        return found

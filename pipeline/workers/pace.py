"""How many frames a process is handed at once: one where each is work, many where each is none."""

from __future__ import annotations

#: What an order should take: much longer than handing it over, and no delay that anyone notices.
_ORDER_S = 0.01
#: Above this an order is given when the one before is done: who is free first gets it.
_LONG_S = 0.05
_MAX_FRAMES = 512
_MAX_NBYTES = 16 * 2**20
#: Weight of the newest order in the running means.
_NEW = 0.3


class Pace:
    """Running means of what frames of one stream take.

    ``limit_s``: how long a single frame may take.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        # Far below the limit, or a few frames that are slower than most would end their process.
        self._order_s = _ORDER_S if limit_s is None else min(_ORDER_S, limit_s / 10)
        self._each_s: float | None = None
        self._each_nbytes = 0.0

    def took(self, frames: int, seconds: float, nbytes: int) -> None:
        """Note an order that is done."""
        each_s, each_nbytes = seconds / frames, nbytes / frames
        if self._each_s is None:
            self._each_s, self._each_nbytes = each_s, each_nbytes
        else:
            self._each_s += _NEW * (each_s - self._each_s)
            self._each_nbytes += _NEW * (each_nbytes - self._each_nbytes)

    @property
    def frames(self) -> int:
        """How many frames to hand over at once."""
        if self._each_s is None:
            return 1
        by_time = self._order_s / max(self._each_s, 1e-9)
        by_size = _MAX_NBYTES / max(self._each_nbytes, 1.0)
        return max(1, int(min(by_time, by_size, _MAX_FRAMES)))

    @property
    def ahead(self) -> bool:
        """Whether a process gets its next order before it is done with the one in hand."""
        return self._each_s is not None and self._each_s <= _LONG_S

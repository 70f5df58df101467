"""Memory for what is read from a store, used again once nobody looks at it any more.

A block given back to the system comes again as zeroed pages, each of which costs a fault: more
than copying the bytes into it does (``docs/performance.md``, HDF5 files).
"""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
import numpy.typing as npt

#: Below, the C library keeps the memory itself; above, a block is too much to lie idle.
_LEAST_NBYTES = 128 * 1024
_MOST_NBYTES = 16 * 1024 * 1024
#: Blocks that may lie idle: a reader takes the next one soon after it has let go of one.
_IDLE_BLOCKS = 4


class Buffers:
    """Gives out memory; for use by any thread.

    At most four blocks of 16 MiB lie idle, none after :meth:`clear`.
    """

    def __init__(self) -> None:
        # No lock: a block comes back when the last view of it goes, in whatever thread and even
        # inside take(). append and pop are atomic.
        self._idle: deque[npt.NDArray[np.uint8]] = deque(maxlen=_IDLE_BLOCKS)

    def take(self, nbytes: int) -> memoryview:
        """Return writable memory of so many bytes with anything in it.

        It is used again when neither this view nor any made of it exists.
        """
        if not _LEAST_NBYTES <= nbytes <= _MOST_NBYTES:
            return np.empty(nbytes, np.uint8).data
        block = self._block(1 << (nbytes - 1).bit_length())
        # All views refer to this array, and it alone to the block.  Not block[:nbytes]: a view of
        # that would refer to the block itself.
        array = np.frombuffer(block.data, np.uint8, nbytes)
        weakref.finalize(array, self._idle.append, block).atexit = False
        return array.data

    def clear(self) -> None:
        """Let go of what lies idle."""
        self._idle.clear()

    def _block(self, nbytes: int) -> npt.NDArray[np.uint8]:
        try:
            block = self._idle.pop()
        except IndexError:
            return np.empty(nbytes, np.uint8)
        # Blocks of a stream are alike: one of another size is of a stream that was read before.
        return block if block.nbytes == nbytes else np.empty(nbytes, np.uint8)

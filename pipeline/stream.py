"""Reading a stream: live or stored, by one class, over any log and any store."""

from __future__ import annotations

import difflib
import io
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.config import ReadSettings
from pipeline.errors import (
    BlobNotFoundError,
    ChecksumError,
    ClosedError,
    InvalidArgumentError,
    PipelineError,
    StreamOpenError,
)
from pipeline.frame import AttributeValue
from pipeline.naming import StreamId
from pipeline.protocols import BlobStore, StreamLog
from pipeline.reading.account import Account, build_account
from pipeline.reading.chunked import FrameChunks, StackedFrames, lazy_array
from pipeline.reading.expressions import Expression, compile_expression
from pipeline.reading.feed import FrameFeed
from pipeline.reading.fetch import Fetcher, Origin
from pipeline.reading.frame import Frame, ModularFrame
from pipeline.reading.limits import check_number, check_timeout
from pipeline.reading.live import LiveTable
from pipeline.reading.ordered import OrderedFrames
from pipeline.reading.selecting import SelectedFrames
from pipeline.reading.single import Newest, SingleReader
from pipeline.reading.table import FrameTable, Rows
from pipeline.records import Located, Segment, Start, State, StreamInfo

if TYPE_CHECKING:
    from pipeline.view.nodes import H5View

__all__ = ["Frame", "ModularFrame", "OrderedFrames", "Stream"]


class Stream:
    """One acquisition, while it is taken and ever after.

    Every way of reading is independent of the others and may be used from another thread.  A
    ``timeout_s`` of None waits for ever, 0 does not wait for anything new.

    Parameters
    ----------
    log, store:
        Where its records and payloads are; the log is closed with the stream, the store is not.
    shared:
        Makes the iterator of :meth:`shared`: called with the stream, ``group``, ``timeout_s`` and
        the options given there.
    group:
        Makes what :meth:`group` returns: called with the stream, the group's name and ``state``.
    """

    def __init__(
        self,
        log: StreamLog,
        store: BlobStore,
        *,
        name: StreamId,
        read: ReadSettings | None = None,
        shared: Callable[..., Iterator[Any]] | None = None,
        group: Callable[..., Any] | None = None,
    ) -> None:
        read = read or ReadSettings()
        self.name = name
        self.log = log
        self.store = store
        self.origin = Origin(name, self.start.modules)
        self.fetcher = Fetcher(store, threads=read.threads, prefetch_nbytes=read.prefetch_nbytes)
        self._shared = shared
        self._group = group
        self._single = SingleReader(log, self.fetcher, self.origin)
        self._newest = Newest(log, self._single, self.origin)
        self._newest_lock = threading.Lock()
        self._live = LiveTable(log, name)
        #: Iterators to close with the stream.
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        self._closed = False

    # -- what it is -------------------------------------------------------------------------------

    @property
    def start(self) -> Start:
        """The stream's start record."""
        return self.log.info(refresh=False).start

    @property
    def info(self) -> StreamInfo:
        """What the catalogue (or the manifest) says about it now."""
        return self._log().info(refresh=True)

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    @property
    def state(self) -> State:
        """``open``, or how it ended: complete, aborted, timeout, lost."""
        return self.info.state

    @property
    def metadata(self) -> Mapping[str, AttributeValue]:
        """What is true for the whole stream; later additions win over the start's."""
        info = self.info
        return {**info.start.metadata, **info.metadata}

    @property
    def settings(self) -> Mapping[str, Any]:
        """How the stream is made: rate, modules, partitions, who writes it, where it came from."""
        start = self.start
        return {
            "created_ns": start.created_ns,
            "rate_hz": start.rate_hz,
            "expected": self.log.info(refresh=False).expected,
            "modules": start.modules,
            "partitions": start.partitions,
            "frames_per_chunk": start.frames_per_chunk,
            "writer": start.writer,
            "run": dict(start.run),
            "lineage": dict(start.lineage),
        }

    def attachment(self, name: str) -> npt.NDArray[Any]:
        """Return a named array kept beside the stream (mask, flat field, device settings)."""
        known = self.info.attachments
        if name not in known:
            near = difflib.get_close_matches(str(name), list(known), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {sorted(known) or 'none'}"
            raise InvalidArgumentError("name", f"{self.name} has no attachment {name!r}; {hint}")
        key = known[name]
        data = self.store.get(key, 0, self.store.size(key))
        array: npt.NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
        return array

    # -- reading ----------------------------------------------------------------------------------

    def ordered(self, start: int | None = None, *, timeout_s: float | None = 30.0) -> OrderedFrames:
        """Iterate in frame order from ``start`` (default: the first there is) to the stream's end.

        A hole is passed as soon as it is known that its frames will not come, and reported in
        ``.missing``; what comes after its place was passed is reported in ``.late``.  Memory is
        bounded by the prefetch setting.  StreamTimeoutError when no frame could be given for
        ``timeout_s``; the same iterator then goes on.
        """
        first = None if start is None else check_number("start", start)
        frames = OrderedFrames(
            self._log(),
            self.fetcher,
            self.origin,
            first=first,
            timeout_s=check_timeout(timeout_s),
        )
        self._open.add(frames)
        return frames

    def frame(
        self, number: int, *, timeout_s: float | None = 0.0, min_modules: int | None = None
    ) -> Frame:
        """Return one frame by its number, found by search.

        Parameters
        ----------
        timeout_s:
            How long to wait for a frame (or its modules) that an open stream does not have yet.
        min_modules:
            Be content with so many modules; by default all of them are waited for.

        Raises
        ------
        FrameNotFoundError
            With the ``reason``: missing, not yet, outside.
        """
        self._log()
        return self._single.frame(
            check_number("number", number),
            timeout_s=check_timeout(timeout_s),
            least=self._least(min_modules),
        )

    def latest(
        self,
        after: int | None = None,
        *,
        timeout_s: float | None = 30.0,
        min_modules: int | None = None,
    ) -> Frame:
        """Return the newest frame; with ``after``, wait for one of a higher number.

        Of a detector with modules it is the newest complete one unless ``min_modules`` is given.
        The first call looks at the end of the log; from then on the stream is followed, and a call
        costs next to nothing.

        Raises
        ------
        StreamTimeoutError
            Nothing newer came.
        FrameNotFoundError
            The stream has ended and has nothing newer.
        """
        self._log()
        if after is not None:
            after = check_number("after", after, least=-1)
        least, limit_s = self._least(min_modules), check_timeout(timeout_s)
        with self._newest_lock:
            return self._newest.get(after, timeout_s=limit_s, least=least)

    def shared(
        self, group: str, *, timeout_s: float | None = 30.0, **options: Any
    ) -> Iterator[Any]:
        """Iterate over the deliveries that this member of a group gets: each frame to one member.

        Ends when the group has finished the stream.
        """
        self._log()
        if self._shared is None:
            raise PipelineError(f"{self.name}: groups are not available on this kind of session")
        deliveries = self._shared(self, group=group, timeout_s=check_timeout(timeout_s), **options)
        self._open.add(deliveries)
        return deliveries

    def group(self, name: str, *, state: Path | str | None = None) -> Any:
        """Return one of this stream's groups, to ask after it and to set it, without joining it.

        It has ``members() lag() unacknowledged() reset(to) newest() dead_letters() replay(numbers)
        drop(numbers)``: see :class:`pipeline.sharing.group.KafkaGroup`.  Without a broker
        ``state`` names the file of :meth:`shared`.
        """
        self._log()
        if self._group is None:
            raise PipelineError(f"{self.name}: groups are not available on this kind of session")
        return self._group(self, name, state)

    def newest(
        self, group: str, *, timeout_s: float | None = 30.0, state: Path | str | None = None
    ) -> Iterator[Frame]:
        """Iterate over newest frames, each at most once in the group, whoever of it asks.

        A step gives the newest complete frame there is, or waits for one that nobody of the group
        had; frames that a newer one overtakes are passed over.  It knows nothing of what ``shared``
        has done under the same name.  Ends with the stream; StreamTimeoutError after silence.
        """
        frames = self.group(group, state=state).newest(timeout_s=check_timeout(timeout_s))
        self._open.add(frames)
        return frames  # type: ignore[no-any-return]  # a NewestFrames

    def unacknowledged(self, group: str, *, state: Path | str | None = None) -> list[int]:
        """Return the frames up to now that a group has not done, whether delivered or not."""
        return self.group(group, state=state).unacknowledged()  # type: ignore[no-any-return]

    def reset(
        self, group: str, to: int | str | datetime, *, state: Path | str | None = None
    ) -> Any:
        """Set where a group goes on: ``start``, ``end``, a frame number, or a time.

        Frames from there on are delivered (again), those before count as done, and frames that
        waited to be tried again belong to the one or the other.  A time (ISO 8601 text, UTC where
        no zone is named) means the lowest number taken at or after it.  No other stream and no
        other group moves.  A derived stream of the group gets a new run (``stream.r2``).

        Raises
        ------
        GroupActiveError
            The group has members, named in ``members``.
        InvalidArgumentError, FrameExpiredError
        """
        return self.group(group, state=state).reset(to)

    def select(
        self,
        expression: str | Expression,
        *,
        follow: bool = True,
        timeout_s: float | None = 30.0,
    ) -> SelectedFrames:
        """Iterate over the frames that match, late ones included: see :mod:`.reading.expressions`.

        First all that are there, in number order; then, with ``follow``, those that come until the
        stream ends, as they come.  ExpressionError names an attribute that no frame has.
        """
        if not isinstance(expression, Expression):
            expression = compile_expression(expression)
        return SelectedFrames(
            expression,
            self._log(),
            self._live,
            self.fetcher,
            self.origin,
            follow=follow,
            timeout_s=check_timeout(timeout_s),
        )

    def chunks(
        self, n: int, *, start: int | None = None, timeout_s: float | None = 30.0
    ) -> FrameChunks:
        """Iterate in frame order, ``n`` frames at a time; the last list may be shorter."""
        count = check_number("n", n, least=1)
        return FrameChunks(self.ordered(start, timeout_s=timeout_s), count)

    # -- all of it --------------------------------------------------------------------------------

    def table(self) -> FrameTable:
        """Return all frames up to now as columns; it is shared and grows with the next call."""
        self._log()
        self._live.refresh()
        return self._live.table

    def reload(self, located: Located) -> Segment:
        """Read a record of the table again, with the payloads inside it."""
        return self._live.reload(located)

    def frames(self) -> Iterator[Frame]:
        """Return the frames up to now in number order; payloads are read only when asked for."""
        return FrameFeed(
            self._live, self.table().merged().rows, self.fetcher, self.origin, ahead=False
        )

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def parts(self, rows: Rows) -> Iterator[Frame]:
        """Return these rows of :meth:`table`, merged and in order, each module by itself.

        Payloads are read ahead, and one that is damaged or gone raises where it is asked for.
        """
        return FrameFeed(self._live, rows, self.fetcher, self.origin, ahead=True, whole=False)

    def account(self) -> Account:
        """Return what came up to now and what did not, by the records alone."""
        self._log()
        with self._live.lock:
            info = self._live.refresh()
            return build_account(str(self.name), info, self._live.table)

    def verify(self, progress: Callable[[int, int], object] | None = None) -> Account:
        """Read every payload and return the account; what is damaged or gone is ``corrupt``.

        ``progress`` is called with how many payloads were read, and of how many.  Raises
        StoreUnavailableError or StoreDeniedError if the store cannot be read at all.
        """
        self._log()
        with self._live.lock:
            info = self._live.refresh()
            table = self._live.table
            rows = table.merged().rows
        corrupt = set()
        for done, part in enumerate(self.parts(rows), 1):
            try:
                part.payload  # noqa: B018 -- reads and checks it
            except (ChecksumError, BlobNotFoundError):
                corrupt.add(part.number)
            if progress is not None:
                progress(done, len(rows))
        with self._live.lock:
            return build_account(str(self.name), info, table, corrupt=corrupt)

    def array(self) -> Any:
        """Return a lazy dask array over all frames of an ended stream, frame axis first.

        Missing frames hold the highest value of an unsigned type, -1, or not a number.

        Raises
        ------
        StreamOpenError
            It may still grow.
        PipelineError
            dask is not installed.
        """
        self._log()
        with self._live.lock:
            if self._live.refresh().end_offsets is None:
                raise StreamOpenError(self.name, "use chunks() or select(), or wait for its end")
            return lazy_array(StackedFrames(self._live, self.fetcher, self.origin))

    def h5(self) -> H5View:
        """Return the stream as the tree of its NXmx file, without a file: an h5py-like view.

        ``view["entry/data/data"][100:110]`` reads ten frames and nothing else.  Position i is
        frame number first + i; missing frames hold the highest value of an unsigned type, -1, or
        not a number.  It is what was there at this moment, until ``view.refresh()``.  Blocks until
        all records up to now are read.

        Raises
        ------
        StreamTimeoutError
            The log stalls on the way.
        """
        from pipeline.view.nodes import H5View  # loaded by who uses it

        self._log()
        return H5View(self._live, self.fetcher, self.origin)

    # -- closing ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop following and join the threads; what iterates gets ClosedError.

        May be called twice, and while other threads read.
        """
        if self._closed:
            return
        self._closed = self._single.stopped = True
        for frames in list(self._open):
            frames.close()
        with self._newest_lock:
            self._newest.close()
        self._live.close()
        self.fetcher.close()
        self.log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Stream({str(self.name)!r})"

    def _log(self) -> StreamLog:
        if self._closed:
            raise ClosedError(f"stream {self.name} was closed")
        return self.log

    def _least(self, min_modules: int | None) -> int:
        every = len(self.start.module_indices)
        if min_modules is None:
            return every
        least = check_number("min_modules", min_modules, least=1)
        if least > every:
            raise InvalidArgumentError("min_modules", f"{least}, but the detector has {every}")
        return least

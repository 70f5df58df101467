"""Reading a stream: live or stored, by one class, over any log and any store."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
import numpy.typing as npt

from pipeline.config import ReadSettings
from pipeline.errors import ClosedError, InvalidArgumentError, PipelineError
from pipeline.frame import AttributeValue
from pipeline.joining.join import Join, JoinOptions, make_join, related
from pipeline.joining.view import JoinedStream
from pipeline.naming import StreamId
from pipeline.protocols import BlobStore, StreamLog
from pipeline.reading.about import corrupt_numbers, read_attachment, settings_of
from pipeline.reading.account import Account, build_account
from pipeline.reading.chunked import FrameChunks
from pipeline.reading.expressions import Expression, compile_expression
from pipeline.reading.feed import FrameFeed
from pipeline.reading.fetch import Fetcher, Origin
from pipeline.reading.frame import Frame, ModularFrame
from pipeline.reading.frozen import FrozenFrames, freeze
from pipeline.reading.lazy import FramePositions, lazy_array, lazy_blocks
from pipeline.reading.limits import check_number, check_timeout
from pipeline.reading.live import LiveTable
from pipeline.reading.ordered import OrderedFrames
from pipeline.reading.selecting import Beside, SelectedFrames
from pipeline.reading.single import Newest, SingleReader
from pipeline.reading.table import FrameTable, Rows
from pipeline.records import Located, Segment, Start, State, StreamInfo
from pipeline.view.positions import frame_positions

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
    opener:
        Opens another stream by its name, for :meth:`join`.
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
        opener: Callable[[StreamId], Stream] | None = None,
    ) -> None:
        read = read or ReadSettings()
        self.name = name
        self.log = log
        self.store = store
        self.origin = Origin(name, self.start.modules)
        self.fetcher = Fetcher(store, threads=read.threads, prefetch_nbytes=read.prefetch_nbytes)
        self._shared = shared
        self._group = group
        self._opener = opener
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
        return settings_of(self.log.info(refresh=False))

    def attachment(self, name: str) -> npt.NDArray[Any]:
        """Return a named array kept beside the stream (mask, flat field, device settings)."""
        return read_attachment(self.store, self.info, name)

    # -- reading ----------------------------------------------------------------------------------

    def ordered(
        self,
        start: int | None = None,
        *,
        timeout_s: float | None = 30.0,
        min_modules: int | None = None,
        deadline_s: float | None = None,
    ) -> OrderedFrames:
        """Iterate in frame order from ``start`` (default: the first there is) to the stream's end.

        A hole is passed as soon as it is known that its frames will not come, and reported in
        ``.missing``; what comes after its place was passed is reported in ``.late``.  Memory is
        bounded by the prefetch setting.  StreamTimeoutError when no frame could be given for
        ``timeout_s``; the same iterator then goes on.

        Parameters
        ----------
        min_modules:
            So many modules are enough for ``frame.array``, the others' pixels being gaps; by
            default it takes all of them.
        deadline_s:
            How long a frame whose turn it is waits for modules, and for frames before it, from
            when its first module was read; what is in the log by then is read before it is given.
            By default until it is known that they will not come.  It has no effect on detectors
            that are one image.

        Every frame of which some module came is given; those without all are in ``.incomplete``.
        """
        first = None if start is None else check_number("start", start)
        frames = OrderedFrames(
            self._log(),
            self.fetcher,
            self.origin_of(min_modules),
            first=first,
            timeout_s=check_timeout(timeout_s),
            deadline_s=check_timeout(deadline_s, "deadline_s"),
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
            How long to wait for a frame (or its modules) that an open stream does not have yet:
            the deadline of its modules, past which it is returned with those that there are.
        min_modules:
            Be content with so many modules, also for ``frame.array``, where the others' pixels are
            gaps; by default all of them are waited for.

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

        Of a detector with modules it is the newest complete one, or the newest with
        ``min_modules`` modules, whose ``array`` then has gaps.  Nothing waits for further modules.
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

        Ends when the group has finished the stream.  For the options (``where``, ``start``,
        ``state``, ``min_modules``, ``deadline_s``, ...) see :func:`pipeline.shared.open_shared`.
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
        min_modules: int | None = None,
        deadline_s: float | None = None,
        beside: Beside | None = None,
    ) -> SelectedFrames:
        """Iterate over the frames that match, late ones included: see :mod:`.reading.expressions`.

        First all that are there, in number order; then, with ``follow``, those that come until the
        stream ends, as they come.  ExpressionError names an attribute that no frame has.

        One module that matches selects its frame.  ``min_modules`` as in :meth:`ordered`; a frame
        that matches waits ``deadline_s`` for its other modules (default: until it is known that
        they will not come); those given without all are in ``.incomplete``.  ``beside`` has
        attributes of other streams (see :meth:`join`).
        """
        if not isinstance(expression, Expression):
            expression = compile_expression(expression)
        return SelectedFrames(
            expression,
            self._log(),
            self._live,
            self.fetcher,
            self.origin_of(min_modules),
            follow=follow,
            timeout_s=check_timeout(timeout_s),
            deadline_s=check_timeout(deadline_s, "deadline_s"),
            beside=beside,
        )

    def chunks(
        self,
        n: int,
        *,
        start: int | None = None,
        timeout_s: float | None = 30.0,
        min_modules: int | None = None,
        deadline_s: float | None = None,
    ) -> FrameChunks:
        """Iterate in frame order, ``n`` frames at a time; the last list may be shorter.

        Holes shorten no list.  The other parameters are those of :meth:`ordered`.
        """
        count = check_number("n", n, least=1)
        frames = self.ordered(
            start, timeout_s=timeout_s, min_modules=min_modules, deadline_s=deadline_s
        )
        return FrameChunks(frames, count)

    def join(self, values: str | Stream, **options: Unpack[JoinOptions]) -> JoinedStream:
        """Return a view of the stream whose frames have the values of another one as attributes.

        Parameters
        ----------
        values:
            ``"motors"`` is the stream of that channel with the name of this one, in the same
            beamtime; also ``"motors/run_7"``, ``"beamtime/motors/run_7"``, or a stream.  One
            that is opened by name is closed with this stream.
        options:
            ``how``: ``step`` (the last value; default), ``linear``, ``nearest`` or ``exact``.
            ``on``: ``time`` (default), ``number``, or an attribute that both have, such as
            ``trigger``; a frame without it stands at its number.  ``tolerance_s``, ``tolerance``:
            how far off a value may be, in seconds or in steps of the index.  ``wait_s``: how long
            a frame waits, since it could be read, for values that may still come (1 s).
            ``prefix``: before the names of the values.  ``names``: take these only.

        A value that is not known is no attribute.  Blocks until the other stream was found; raises
        StreamNotFoundError if there is none, InvalidArgumentError.
        """
        return JoinedStream(self, [self._join(values, **options)])

    def _join(self, values: str | Stream, **options: Unpack[JoinOptions]) -> Join:
        self._log()
        if not isinstance(values, Stream):
            if self._opener is None:
                raise PipelineError(f"{self.name}: other streams cannot be opened by name here")
            values = self._opener(related(self.name, values))
            self._open.add(values)
        return make_join(values.name, values.log, **options)

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

    def freeze(self, parts: Sequence[Rows]) -> Iterator[FrozenFrames]:
        """Yield sets of rows of :meth:`table`, merged and in order, as frames that stand alone."""
        with self._live.lock:
            yield from freeze(self._live, self.fetcher, self.origin, parts, attributes=True)

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
        corrupt = corrupt_numbers(self.parts(rows), len(rows), progress)
        with self._live.lock:
            return build_account(str(self.name), info, table, corrupt=corrupt)

    def array(
        self, *, masked: bool = False, frames_per_block: int | None = None, so_far: bool = False
    ) -> Any:
        """Return a lazy dask array over all frames of an ended stream, frame axis first.

        Position i is frame ``numbers()[i]``: the first frame's number + i, of a sample the i-th
        frame.  Only records are read before something is computed.  A task needs the store, whose
        settings and keys it carries, and neither the broker nor this session.

        Parameters
        ----------
        masked:
            Blocks are numpy masked arrays, frames that did not come are masked.  By default they
            hold the highest value of an unsigned type, -1, or not a number.
        frames_per_block:
            Numbers that one task spans; by default 32 MiB of pixels, in whole chunks of the
            stream's partitions (``settings["frames_per_chunk"]``) or even parts of one.
        so_far:
            Take an open stream, too: what is there now.

        Raises StreamOpenError (it may still grow), DecodeError (no pixels, or numbers too far
        apart; when computed: frames of several shapes or types), PipelineError (no dask).
        """
        with self._positions(so_far) as positions:
            return lazy_array(positions, masked=masked, frames_per_block=frames_per_block)

    def map_blocks(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        frames_per_block: int | None = None,
        so_far: bool = False,
        **named: Any,
    ) -> list[Any]:
        """Return dask ``Delayed`` results of ``function(frames, *arguments, **named)``, in order.

        ``frames``: the list of those frames of a block that came, of any shape.  Blocks are those
        of :meth:`array`, but with 32 MiB of payloads.  Function and results travel, as Dask has
        it.  Compute them together: ``dask.compute(*stream.map_blocks(function))``.  Raises what
        :meth:`array` raises.
        """
        size = frames_per_block
        with self._positions(so_far) as positions:
            return lazy_blocks(positions, function, arguments, named, frames_per_block=size)

    def numbers(self, *, so_far: bool = False) -> npt.NDArray[np.int64]:
        """Return the frame number of each position of :meth:`array`, rising."""
        with self._positions(so_far) as positions:
            return positions.numbers

    def _positions(self, so_far: bool) -> AbstractContextManager[FramePositions]:
        self._log()
        return frame_positions(self._live, self.fetcher, self.origin, so_far=so_far)

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

    def origin_of(self, min_modules: int | None) -> Origin:
        """Return what frames of a reader have in common that is content with ``min_modules``."""
        return (
            self.origin
            if min_modules is None
            else replace(self.origin, least=self._least(min_modules))
        )

    def _least(self, min_modules: int | None) -> int:
        every = len(self.start.module_indices)
        if min_modules is None:
            return every
        least = check_number("min_modules", min_modules, least=1)
        if least > every:
            raise InvalidArgumentError("min_modules", f"{least}, but the detector has {every}")
        return least

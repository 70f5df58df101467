"""Every error that lichtstrom raises on purpose; ``pipeline.connectors.errors`` has some more.

One tree under :class:`PipelineError`.  The text says what, where and what to do; the facts are
attributes, so that code never parses text.  ``retriable`` tells whether the same call may succeed
later without anybody changing anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class PipelineError(Exception):
    """Base of all expected failures; anything else that escapes is a bug of ours."""

    retriable = False


def of_ours(error: Exception) -> PipelineError:
    """Return an error of ours for any error, so that one from a thread reaches who waits for it."""
    if isinstance(error, PipelineError):
        return error
    found = PipelineError(f"unforeseen, please report it: {error!r:.500}")
    found.__cause__ = error
    return found


# -- bad input from a user ----------------------------------------------------------------------


class InvalidNameError(PipelineError, ValueError):
    """A beamtime, detector, stream or group name that cannot be used."""

    def __init__(self, field: str, value: object, problem: str) -> None:
        self.field = field
        self.value = value
        super().__init__(f"{field} {value!r}: {problem}")


class InvalidFrameError(PipelineError, ValueError):
    """A frame that contradicts itself: nothing of it was published.

    ``field`` names what is wrong: number, shape, dtype, encoding, payload, attributes, ...
    ``frame`` is its (number, module) where it is one of many frames of a file.
    """

    frame: tuple[int, int] | None = None

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        super().__init__(f"{field}: {problem}")


class InvalidArgumentError(PipelineError, ValueError):
    """An argument outside its range, for example a negative timeout."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        super().__init__(f"{field}: {problem}")


class ConfigError(PipelineError, ValueError):
    """A setting that is unknown, malformed or missing."""


class ExpressionError(PipelineError, ValueError):
    """A ``select`` expression that does not parse or uses what is not allowed.

    ``column`` is where in the text, in characters from 1; None where it is about all of it.
    """

    def __init__(self, text: str, *, column: int | None = None) -> None:
        self.column = column
        super().__init__(text)


# -- streams and frames -------------------------------------------------------------------------


class StreamNotFoundError(PipelineError, LookupError):
    """No stream of this name in the catalogue (or the stores searched)."""

    def __init__(self, stream: object, *, where: str, hint: str = "") -> None:
        self.stream = str(stream)
        self.where = where
        text = f"no stream {self.stream} in {where}"
        super().__init__(f"{text}: {hint}" if hint else text)


class StreamExistsError(PipelineError):
    """The stream has ended; its name is used once."""

    def __init__(self, stream: object, state: str) -> None:
        self.stream = str(stream)
        self.state = state
        super().__init__(
            f"stream {self.stream} has ended ({state}) and a name is used once: choose another"
            " name, or pass reopen=True to continue it"
        )


class StreamOpenError(PipelineError):
    """The operation needs an ended stream and this one is still being written."""

    def __init__(self, stream: object, hint: str) -> None:
        self.stream = str(stream)
        super().__init__(f"stream {self.stream} is still open: {hint}")


_REASONS = {
    "missing": " (its writers have passed this number)",
    "not yet": " (the stream goes on: timeout_s waits for it)",
    "not sampled": " (this stream is a sample of another one)",
    "outside": " of its numbers, and the stream has ended",
}


class FrameNotFoundError(PipelineError, LookupError):
    """The stream has no frame of this number.

    ``reason`` is "missing" (passed by all writers, never came), "not yet" (the stream is open and
    has not come so far), "outside" (the stream has ended before or begun after it), "not sampled"
    (this is a sample, without that frame).
    """

    def __init__(self, stream: object, number: int, reason: str) -> None:
        self.stream = str(stream)
        self.number = number
        self.reason = reason
        super().__init__(f"no frame {number} in {self.stream}: {reason}{_REASONS.get(reason, '')}")


class FrameExpiredError(PipelineError, LookupError):
    """The topic no longer holds the record and no manifest covers it."""

    def __init__(self, stream: object, detail: str) -> None:
        self.stream = str(stream)
        super().__init__(
            f"frames of {self.stream} have expired: {detail}; start later, or read an export"
        )


class IncompleteFrameError(PipelineError):
    """A multi-module frame lacks modules, so it has no assembled image."""

    def __init__(self, stream: object, number: int, missing: Iterable[int]) -> None:
        self.stream = str(stream)
        self.number = number
        self.missing = tuple(missing)
        super().__init__(
            f"frame {number} of {self.stream} lacks modules {list(self.missing)}:"
            " use frame.modules, or wait for the missing ones"
        )


class StreamTimeoutError(PipelineError, TimeoutError):
    """Nothing came for longer than ``timeout_s``; the iterator can be resumed."""

    retriable = True

    def __init__(self, stream: object, timeout_s: float, detail: str = "") -> None:
        self.stream = str(stream)
        self.timeout_s = timeout_s
        super().__init__(
            f"{self.stream}: nothing new for {timeout_s:g} s{': ' + detail if detail else ''};"
            " the stream has not ended, iterate again to go on waiting"
        )


class AlreadyAcknowledgedError(PipelineError, ValueError):
    """A delivery was acknowledged, retried or rejected before."""


class NodeNotFoundError(PipelineError, KeyError):
    """The tree of a stream has no group or dataset at this path."""

    def __init__(self, path: str, *, stream: object, at: str) -> None:
        self.path = path
        self.stream = str(stream)
        self.at = at
        super().__init__(f"no {path} in {self.stream}: there is nothing of that name in {at}")

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError's own text is in quotes


class PositionError(PipelineError, IndexError):
    """A position outside a dataset of a stream's tree."""

    def __init__(self, position: int, extent: int) -> None:
        self.position = position
        self.extent = extent
        super().__init__(
            f"position {position} is outside an axis of {extent}: it begins with 0, whatever the"
            " number of the first frame; a stream that goes on grows with view.refresh()"
        )


# -- payloads -----------------------------------------------------------------------------------


class DecodeError(PipelineError, ValueError):
    """A payload that does not decode to what its record announces."""


class ChecksumError(PipelineError):
    """The bytes read differ from the bytes that were published."""

    def __init__(self, key: str, *, store: str, number: int, expected: int, found: int) -> None:
        self.key = key
        self.store = store
        self.number = number
        super().__init__(
            f"frame {number}: {key!r} in {store} has CRC-32C {found:08x}, published {expected:08x}:"
            " the object was changed or damaged after it was written"
        )


class BlobNotFoundError(PipelineError, LookupError):
    """The object store has no blob under the key that a record names."""

    def __init__(self, key: str, *, store: str) -> None:
        self.key = key
        self.store = store
        super().__init__(
            f"no blob {key!r} in {store}: it was deleted after it was published"
            " (delete, retention), or this is not the store it was written to"
        )


# -- services -----------------------------------------------------------------------------------


class StoreUnavailableError(PipelineError, ConnectionError):
    """The object store does not answer or reports a failure that may pass."""

    retriable = True

    def __init__(self, store: str, problem: str) -> None:
        self.store = store
        super().__init__(f"object store {store} is unavailable: {problem}; is it running?")


class StoreFullError(StoreUnavailableError):
    """The store has no room left; writing goes on when there is."""

    def __init__(self, store: str, problem: str) -> None:
        super().__init__(store, f"no space left ({problem})")


class StoreDeniedError(PipelineError, PermissionError):
    """The object store refused the credentials or the operation."""

    def __init__(self, store: str, problem: str) -> None:
        self.store = store
        super().__init__(f"object store {store} refused: {problem}; check access and secret key")


class BrokerUnavailableError(PipelineError, ConnectionError):
    """No Kafka broker answers."""

    retriable = True

    def __init__(self, bootstrap: str, problem: str) -> None:
        self.bootstrap = bootstrap
        super().__init__(
            f"Kafka at {bootstrap} does not answer: {problem}; is it running"
            " (`lichtstrom status`) and is the address right?"
        )


class BrokerDeniedError(PipelineError, PermissionError):
    """The broker refused the credentials or the operation."""

    def __init__(self, bootstrap: str, problem: str) -> None:
        self.bootstrap = bootstrap
        super().__init__(f"Kafka at {bootstrap} refused: {problem}")


class TopicMissingError(PipelineError, LookupError):
    """The topics of a beamtime or detector have not been created."""

    def __init__(self, topic: str, command: str) -> None:
        self.topic = topic
        self.command = command
        super().__init__(f"topic {topic} does not exist: create it with `{command}`")


class RuntimeUnavailableError(PipelineError):
    """The local runtime is not there, or could not be started."""


# -- what travels -------------------------------------------------------------------------------


class WireError(PipelineError):
    """Bytes on a topic or in a manifest that are not ours or not whole."""

    def __init__(self, problem: str, *, where: str = "") -> None:
        self.where = where
        super().__init__(f"{where}: {problem}" if where else problem)


class UnknownSchemaError(WireError):
    """A record was written with a schema that this version has never seen."""

    def __init__(self, fingerprint: str, *, where: str = "") -> None:
        self.fingerprint = fingerprint
        super().__init__(
            f"schema {fingerprint} is unknown here: the writer is newer than this reader,"
            " update lichtstrom",
            where=where,
        )


# -- writers ------------------------------------------------------------------------------------


class WriterActiveError(PipelineError):
    """Another writer holds the stream and gave a sign of life a moment ago."""

    retriable = True

    def __init__(self, stream: object, *, holder: str, age_s: float) -> None:
        self.stream = str(stream)
        self.holder = holder
        self.age_s = age_s
        super().__init__(
            f"stream {self.stream} is being written by {holder} (last sign of life {age_s:.1f} s"
            " ago): stop that writer, wait 10 s, or take over on purpose (--takeover)"
        )


class WriterSupersededError(PipelineError):
    """A newer writer claimed the stream, or it was closed: this one must stop.

    Frames not yet confirmed are ``superseded``: not successful, their sources are kept.
    """

    def __init__(self, stream: object, *, by: str, superseded: int) -> None:
        self.stream = str(stream)
        self.by = by
        self.superseded = superseded
        super().__init__(
            f"stream {self.stream} was taken over by {by}; {superseded} frames of this writer are"
            " not confirmed and their sources are kept. Two writers on one stream? Stop one"
        )


class FlushTimeoutError(PipelineError, TimeoutError):
    """Not everything was acknowledged in time."""

    retriable = True

    def __init__(self, stream: object, *, timeout_s: float, queued: int, spooled: int) -> None:
        self.stream = str(stream)
        self.queued = queued
        self.spooled = spooled
        super().__init__(
            f"{self.stream}: after {timeout_s:g} s {queued} frames are not acknowledged"
            f" ({spooled} of them in the spool); check the broker and the store"
        )


class QueueFullError(PipelineError):
    """The publisher's queue is full and its policy is to refuse rather than to wait."""

    retriable = True


class SpoolError(PipelineError):
    """The local spool cannot be used: full, unreadable or not writable."""


class SpoolFullError(SpoolError):
    """The spool has reached its limit, or its disk is full; there is room when it was drained."""

    retriable = True


class GroupActiveError(PipelineError):
    """A group has members, and what was asked for would be undone by them."""

    def __init__(self, group: str, stream: object, *, members: Sequence[str]) -> None:
        self.group = group
        self.stream = str(stream)
        self.members = tuple(members)
        super().__init__(
            f"group {group} of {stream} has {len(self.members)} active members"
            f" ({', '.join(self.members)}): stop them first; a killed one is noticed after 10 s"
        )


class OutputEndedError(PipelineError):
    """A group's derived stream has ended, so that results of replayed frames have no place."""

    def __init__(self, group: str, outputs: Sequence[str]) -> None:
        self.group = group
        self.outputs = tuple(outputs)
        super().__init__(
            f"the output of group {group} has ended ({', '.join(self.outputs)}): reopen it"
            " (`--reopen`, `reopen=True`) so that the frames' results are added to it"
        )


class ClosedError(PipelineError, ValueError):
    """The object was closed before this call."""


# -- devices and files --------------------------------------------------------------------------


class SourceError(PipelineError):
    """A detector or its files are not as they should be; says what was seen."""


class SinkError(PipelineError):
    """A sink cannot write its output; nothing was lost, it can be resumed or run again."""


class SinkRefusedError(SinkError):
    """The output cannot be what was asked for, whenever it is tried: somebody has to decide."""


class SinkBusyError(SinkError):
    """Another sink is writing this output."""

    retriable = True


class PluginError(PipelineError):
    """An adapter, simulator or sink plugin cannot be found or loaded."""

"""What was sent against what is read back: frame by frame, and the account number by number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.session import Session
from pipeline.testing.conformance.rig import Sent, pixels_sha256

#: (number, module) of a frame.
Key = tuple[int, int]
_SHOWN = 8


@dataclass(slots=True)
class Series:
    """One series as the device made it.

    Parameters
    ----------
    sure:
        Frames that were sent to an adapter that heard them and lived on.
    doubtful:
        Frames that a killed adapter may have had, or that were sent to nobody.
    unread:
        Numbers that the device made and that could not come.
    states:
        How the stream may have ended.
    """

    name: str
    sure: dict[Key, str] = field(default_factory=dict)
    doubtful: dict[Key, str] = field(default_factory=dict)
    unread: set[int] = field(default_factory=set)
    states: tuple[str, ...] = ("complete",)

    def add(self, sent: Iterable[Sent], *, sure: bool = True) -> None:
        """Take down frames that were sent."""
        into = self.sure if sure else self.doubtful
        into.update({(frame.number, frame.module): frame.pixels_sha256 for frame in sent})

    def doubt(self) -> None:
        """Take back that what was sent was heard by one who lived on."""
        self.doubtful.update(self.sure)
        self.sure.clear()

    def confirm(self, keys: Iterable[Key]) -> None:
        """Note that these were published: they must stay."""
        for key in keys:
            if key in self.doubtful:
                self.sure[key] = self.doubtful.pop(key)

    def holds(self, frames: Mapping[Key, str]) -> bool:
        """Tell whether all these frames are ones of this series."""
        return all(
            digest in (self.sure.get(k), self.doubtful.get(k)) for k, digest in frames.items()
        )


@dataclass(slots=True)
class Found:
    """One stream as it is read back."""

    name: str
    state: str
    frames: dict[Key, str]
    account: Mapping[str, Any]

    def numbers(self, *kinds: str) -> set[int]:
        """Return the numbers that the account names under any of these words."""
        return {n for kind in kinds for a, b in self.account[kind] for n in range(a, b + 1)}


def read_back(session: Session, beamtime: str, detector: str) -> list[Found]:
    """Read all streams of a detector to their ends, in the order of their beginnings."""
    found = []
    for summary in session.streams(f"{beamtime}/{detector}/*"):
        with session.stream(beamtime, detector, summary.name.stream) as stream:
            frames: dict[Key, str] = {}
            if summary.state != "open":
                for frame in stream.ordered(timeout_s=20.0):
                    for module, part in frame.modules.items():
                        frames[frame.number, module] = pixels_sha256(part.array)
            found.append(Found(summary.name.stream, summary.state, frames, stream.account()))
    return found


def problems(
    series: Sequence[Series],
    found: Sequence[Found],
    *,
    tells_count: bool = True,
    may_split: bool = False,
) -> list[str]:
    """Return what is wrong, in words; nothing if all is as it must be."""
    said: list[str] = []
    of: dict[int, list[Found]] = {index: [] for index in range(len(series))}
    first = 0
    for stream in found:
        index = _belongs(stream, series, of, first)
        if index is None:
            said.append(_stranger(stream, series[first:]))
            continue
        first = index
        of[index].append(stream)
    for index, one in enumerate(series):
        said += [f"series {one.name}: {text}" for text in _check(one, of[index], may_split)]
        said += [
            f"series {one.name}: {text}"
            for text in _losses(one, of[index], tells_count and not may_split)
        ]
    return said


def _belongs(
    stream: Found, series: Sequence[Series], of: Mapping[int, list[Found]], first: int
) -> int | None:
    """Return the earliest series, none before the last stream's, that can have made a stream."""
    for index in range(first, len(series)):
        taken = {key for other in of[index] for key in other.frames}
        empty = not stream.frames and (of[index] or series[index].sure)
        if series[index].holds(stream.frames) and not taken & set(stream.frames) and not empty:
            return index
    return None


def _stranger(stream: Found, series: Sequence[Series]) -> str:
    lacking = [
        sorted(key for key, digest in stream.frames.items() if not one.holds({key: digest}))
        for one in series
    ]
    worst = _show(min(lacking, key=len) if lacking else sorted(stream.frames))
    return (
        f"stream {stream.name} ({len(stream.frames)} frames, {stream.state}) fits no series that is"
        f" left: sent by none, with other pixels, or for a second time are {worst}"
    )


def _check(one: Series, streams: Sequence[Found], may_split: bool) -> Iterator[str]:
    if not streams:
        yield f"no stream for {len(one.sure)} frames"
        return
    if len(streams) > 1 and not may_split:
        yield f"in {len(streams)} streams: {[stream.name for stream in streams]}"
    got = {key for stream in streams for key in stream.frames}
    lost = sorted(set(one.sure) - got)
    if lost:
        yield f"lost {len(lost)} frames (number, module): {_show(lost)}"
    for stream in streams:
        for kind in ("duplicate", "conflict", "corrupt"):
            if stream.account[kind]:
                yield f"{kind} frames in {stream.name}: {stream.account[kind]}"
    if streams[-1].state not in one.states:
        yield f"{streams[-1].name} is {streams[-1].state}, not {' or '.join(one.states)}"


def _losses(one: Series, streams: Sequence[Found], tells_count: bool) -> Iterator[str]:
    """Hold the accounts against what the device knows of its losses."""
    if not streams:
        return
    got = {key for stream in streams for key in stream.frames}
    made = {*one.sure, *one.doubtful}
    came = {number for number, _ in got}
    absent = ({number for number, _ in made} | one.unread) - came
    partly = {number for number, module in made - got if number in came}
    told = set().union(*(stream.numbers("missing", "rejected") for stream in streams))
    incomplete = set().union(*(stream.numbers("incomplete") for stream in streams))
    if told - absent:
        yield f"the account misses what was never made, or came: {_show(sorted(told - absent))}"
    if incomplete != partly:
        yield f"incomplete are {sorted(partly)}, the account says {sorted(incomplete)}"
    silent = absent - told
    # between two streams of one series (a rig's `splits`) no account can name anything
    spans = [[number for number, _ in stream.frames] for stream in streams if stream.frames]
    inside = {n for n in silent for span in spans if min(span) < n < max(span)}
    if inside:
        yield f"the account does not name the losses {_show(sorted(inside))}"
    if silent - inside and tells_count and not _counted(streams, came):
        yield f"nothing tells of the losses {_show(sorted(silent))} at the series' begin or end"


def _counted(streams: Sequence[Found], came: set[int]) -> bool:
    """Tell whether the account at least says that more was made than came."""
    expected = streams[-1].account["expected"]
    return expected is not None and expected > len(came)


def _show(items: Sequence[Any]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(map(str, items[:_SHOWN])) + more

"""What the rigs of adapters of files have in common: a device is a folder that gets files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.testing.conformance import Sent

#: Rows and columns of all images.
SHAPE = (12, 16)


class FileDevice:
    """A device that writes one file a frame; a rig gives :meth:`image_file` and :meth:`read`."""

    keeps = True
    idle_end_s = 1.5
    unsupported: Mapping[str, str] = {
        "missing_start": "a folder has no message of a start",
        "missing_end": "a folder has no message of an end: silence is the end",
        "doubled_end": "a folder has no message of an end",
        "abort": "a folder has no message of an abort",
    }
    states: Mapping[str, tuple[str, ...]] = {"restart": ("complete",)}
    tells_count = False

    def __init__(self, folder: Path) -> None:
        self._here = folder / "images"
        self._away = folder / "unmounted"
        self._here.mkdir()
        self._aside = folder / "aside"
        self._aside.mkdir()
        self._series = 0
        self._prefix = ""
        self._number = 0
        # so that no two series have equal pixels
        self.seed = 0

    def settings(self) -> dict[str, Any]:
        return {"watch": str(self._here), "grace_s": 0.3}

    def ready(self, timeout_s: float) -> None:
        pass

    def begin(self) -> str:
        self._series += 1
        self.seed += 1
        self._prefix, self._number = f"scan{self._series}_", 1
        return self._prefix

    begin_silently = begin

    def frames(self, count: int) -> list[Sent]:
        return [self._put(self._make()) for _ in range(count)]

    def lose(self, count: int) -> list[int]:
        first = self._number
        self._number += count
        return list(range(first, self._number))

    def end(self, how: str = "complete") -> None:
        pass

    def end_silently(self) -> None:
        pass

    def end_again(self) -> None:
        pass

    def disconnect(self) -> None:
        self._here.rename(self._away)

    def reconnect(self) -> None:
        self._away.rename(self._here)

    def restart(self) -> None:
        self._series = 0

    def hostile(self) -> dict[str, Callable[[], Iterable[Sent | int] | None]]:
        return {
            "half a file": lambda: self._damaged(lambda data: data[: len(data) // 2]),
            "random bytes": lambda: self._damaged(lambda data: bytes(range(256)) * 4),
            "text": lambda: self._damaged(lambda data: b"no image\n"),
            "a folder of that name": self._folder,
            "shape other than the series'": self._other_shape,
            "zero bytes for good": lambda: self._damaged(lambda data: b""),
            "zero bytes, then filled": lambda: self._in_pieces(0),
            "growing in three pieces": lambda: self._in_pieces(700, 900),
        }

    def close(self) -> None:
        pass

    # -- for the rigs ---------------------------------------------------------------------------

    def image_file(self, path: Path, number: int, shape: tuple[int, int]) -> str:
        """Write one file; return the digest of its pixels."""
        raise NotImplementedError

    #: How the names end.
    ending = ""

    # -- files ----------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where the files are now."""
        return self._here if self._here.exists() else self._away

    def name(self, number: int) -> str:
        return f"{self._prefix}{number:05d}{self.ending}"

    def _make(self, shape: tuple[int, int] = SHAPE) -> tuple[Path, Sent]:
        number, self._number = self._number, self._number + 1
        path = self._aside / self.name(number)
        return path, Sent(number, self.image_file(path, number, shape))

    def _put(self, made: tuple[Path, Sent]) -> Sent:
        path, sent = made
        path.replace(self.folder / path.name)
        return sent

    def _damaged(self, damage: Callable[[bytes], bytes]) -> list[int]:
        path, sent = self._make()
        path.write_bytes(damage(path.read_bytes()))
        self._put((path, sent))
        return [sent.number]

    def _folder(self) -> list[int]:
        number, self._number = self._number, self._number + 1
        (self.folder / self.name(number)).mkdir()
        return [number]

    def _other_shape(self) -> list[int]:
        rows, columns = SHAPE
        return [self._put(self._make((rows * 2, columns))).number]

    def _in_pieces(self, *cuts: int) -> list[Sent]:
        path, sent = self._make()
        data = path.read_bytes()
        ends = [*(cut for cut in cuts if cut < len(data)), len(data)]
        target = self.folder / path.name
        for first, last in zip([0, *ends], ends, strict=False):
            with target.open("ab") as file:  # closed each time: the watcher hears of every piece
                file.write(data[first:last])
        return [sent]

"""A PerkinElmer panel: QXRD's TIFF files, each with its sidecar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from file_device import FileDevice

from pipeline.detectors.perkinelmer.sim import PerkinElmerSimulator
from pipeline.testing.conformance import Sent


class Rig(FileDevice):
    adapter = "perkinelmer"
    ending = ".tif"

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "timezone": "UTC", "grace_s": 0.5}

    def begin(self) -> str:
        super().begin()
        self._prefix = f"scan{self._series}-"
        return self._prefix

    begin_silently = begin

    def image_file(self, path: Path, number: int, shape: tuple[int, int]) -> str:
        program = PerkinElmerSimulator(
            path.parent,
            frames=0,
            rate_hz=0,
            prefix=self._prefix.rstrip("-"),
            shape=shape,
            seed=1000 * self.seed + number,
        )
        return program.take(number)[1]

    def hostile(self) -> dict[str, Any]:
        return {
            **super().hostile(),
            "size of a terabyte in the header": lambda: self._damaged(self._huge),
            "a sidecar of noise": lambda: self._with_sidecar(bytes(range(256)) * 40),
            "a sidecar cut off": lambda: self._with_sidecar(b"[metadata]\nwidth=16\nhei"),
            "a sidecar of three megabytes": lambda: self._with_sidecar(
                b"[x]\n" + b"y=1\n" * 750_000 + b"[metadata]\ntitle=t\n"
            ),
            "no sidecar": lambda: self._with_sidecar(None),
            "a sidecar without an image": self._lone,
        }

    @staticmethod
    def _huge(data: bytes) -> bytes:
        """Set ImageWidth, the first entry of the directory at the end."""
        where = int.from_bytes(data[4:8], "little") + 2
        return data[: where + 2] + b"\x04\0\x01\0\0\0\0\0\0\x80" + data[where + 12 :]

    # -- pairs ----------------------------------------------------------------------------------

    def _put(self, made: tuple[Path, Sent]) -> Sent:
        sent = super()._put(made)
        self._put_sidecar(made[0])
        return sent

    def _put_sidecar(self, path: Path) -> None:
        beside = path.with_name(path.name + ".metadata")
        if beside.exists():
            beside.replace(self.folder / beside.name)

    def _in_pieces(self, *cuts: int) -> list[Sent]:
        sent = super()._in_pieces(*cuts)
        self._put_sidecar(self._aside / self.name(sent[0].number))
        return sent

    def _with_sidecar(self, content: bytes | None) -> list[Sent]:
        path, sent = self._make()
        beside = path.with_name(path.name + ".metadata")
        if content is None:
            beside.unlink()
        else:
            beside.write_bytes(content)
        self._put((path, sent))
        return [sent]

    def _lone(self) -> list[int]:
        path, sent = self._make()
        path.unlink()
        self._put_sidecar(path)
        return [sent.number]

"""Decodes damaged payloads of one encoding and counts what comes of it; run as a process.

A decoder that leaves its buffers ends the process with a signal: that must not be the tests' own.
"""

from __future__ import annotations

import json
import random
import sys

from codec_payloads import SHAPE, samples

from pipeline import codecs
from pipeline.errors import DecodeError, InvalidFrameError


def damaged(payload: bytes, rng: random.Random) -> bytes:
    """Change, cut, repeat or lengthen some bytes, half of the time in the framing in front."""
    data = bytearray(payload)
    for _ in range(rng.choice((1, 1, 2, 5, 40))):
        at = rng.randrange(min(64, len(data))) if rng.random() < 0.5 else rng.randrange(len(data))
        data[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256), data[at] ^ 1 << 3))
    kind = rng.randrange(6)
    if kind == 0:
        del data[rng.randrange(len(data)) :]
    elif kind == 1:
        data += bytes(rng.randrange(1, 64))
    elif kind == 2:
        at = rng.randrange(len(data))
        data[at:at] = data[at // 2 : at]
    return bytes(data)


def main(encoding: str, seed: int, count: int) -> None:
    dtype, payload = samples()[encoding]
    rng = random.Random(seed)
    found = {"decoded": 0, "refused": 0, "unseen": 0}
    for _ in range(count):
        data = damaged(payload, rng)
        try:
            codecs.check(data, encoding=encoding, shape=SHAPE, dtype=dtype)
            passed = True
        except InvalidFrameError:
            passed = False
        try:
            pixels = codecs.decode(data, encoding=encoding, shape=SHAPE, dtype=dtype)
        except DecodeError:
            found["refused"] += 1
            continue
        if (pixels.shape, pixels.dtype.name) != (SHAPE, dtype):
            raise SystemExit(f"decoded to {pixels.shape} {pixels.dtype}")
        found["decoded"] += 1
        # what a publisher refuses, no reader needs to read
        found["unseen"] += not passed
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

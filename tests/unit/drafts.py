"""Drafts for the tests of packing and spooling."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.publishing.draft import Draft, digest_of

LAYOUT = ((2,), "uint8", "raw", 0)


def payload(number: int) -> np.ndarray:
    return np.full(2, number % 251, np.uint8)


def make_draft(*numbers: int, nbytes: int = 1000, **attributes: Any) -> Draft:
    """Return a draft of two-byte frames; their tokens are ``t<number>``."""
    draft = Draft(layout=LAYOUT, buffer=np.zeros(nbytes, np.uint8))
    for number in numbers:
        draft.add(
            payload(number),
            number=number,
            timestamp_ns=number * 10,
            attributes={**attributes, "n": number} if attributes else {},
            digest=digest_of((2,), "uint8", "raw", attributes),
            token=f"t{number}",
        )
    return draft


def content(draft: Draft) -> dict[str, Any]:
    """Return what has to survive, as plain values."""
    return {
        "layout": draft.layout,
        "payload": bytes(draft.payload),
        "numbers": draft.numbers,
        "timestamps_ns": draft.timestamps_ns,
        "lengths": draft.lengths,
        "checksums": draft.checksums,
        "digests": draft.digests,
        "attributes": [dict(row) for row in draft.attributes],
        "skipped": draft.skipped,
        "rejected": draft.rejected,
    }

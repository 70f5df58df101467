"""How long a beamtime's records and objects are kept: the policy that its catalogue holds."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

#: Stands where other records of the catalogue have a stream's id: of the whole beamtime.
BEAMTIME_KEY = bytes(8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The retention of one beamtime; ``lichtstrom retention apply`` carries it out.

    Parameters
    ----------
    previous:
        Nonce of the policy that this one changes, empty for the first: of two changes of one
        policy the first in the catalogue wins.
    by, at_ns:
        Who set it (host:pid) and when, ns since 1970 by that computer's clock.
    records_age_s:
        Records older than this leave the topics once they are in the manifest; None: they stay as
        long as the objects.
    age_s:
        Streams that ended so long ago go, objects and all; None: never.
    nbytes:
        When the beamtime's objects are more than so many bytes, the streams that ended first go;
        None: no limit.
    hold:
        Shell patterns ``detector/stream``: what matches never goes.
    archive:
        Store URL to which a stream is copied, with verification, before it goes; empty: none.
    """

    nonce: str
    stream_key: bytes = BEAMTIME_KEY
    previous: str = ""
    by: str = ""
    at_ns: int = 0
    records_age_s: float | None = None
    age_s: float | None = None
    nbytes: int | None = None
    hold: tuple[str, ...] = ()
    archive: str = ""

    def holds(self, name: str) -> bool:
        """Whether a stream is kept for ever; ``name`` is ``beamtime/detector/stream``."""
        inner = name.partition("/")[2]
        return any(fnmatch.fnmatchcase(inner, pattern) for pattern in self.hold)

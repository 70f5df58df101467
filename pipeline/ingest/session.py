"""What an ingest run needs of a session."""

from __future__ import annotations

from typing import Any, Protocol


class Session(Protocol):
    """What is needed of :class:`pipeline.session.Session`; tests have one in memory."""

    def publish(self, beamtime: str, detector: str, stream: str, **settings: Any) -> Any: ...  # noqa: D102
    def streams(self, pattern: str) -> Any: ...  # noqa: D102
    def stream(self, beamtime: str, detector: str, stream: str) -> Any: ...  # noqa: D102
    def end(self, beamtime: str, detector: str, stream: str) -> None: ...  # noqa: D102

"""lichtstrom: an event stream for X-ray and neutron detectors.

What is named in ``__all__`` is public and documented in ``docs/api.md``; everything else may change
between releases.  Names are loaded when they are first used, so that ``import pipeline`` costs next
to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.connectors.errors import (
        ConnectError,
        ConnectorConfigError,
        ConnectorExistsError,
        ConnectorNotFoundError,
        ConnectTimeoutError,
        ConnectUnavailableError,
    )
    from pipeline.errors import (
        AlreadyAcknowledgedError,
        BlobNotFoundError,
        BrokerDeniedError,
        BrokerUnavailableError,
        ChecksumError,
        ClosedError,
        ConfigError,
        DecodeError,
        ExpressionError,
        FlushTimeoutError,
        FrameExpiredError,
        FrameNotFoundError,
        GroupActiveError,
        IncompleteFrameError,
        InvalidArgumentError,
        InvalidFrameError,
        InvalidNameError,
        NodeNotFoundError,
        OutputEndedError,
        PipelineError,
        PluginError,
        PositionError,
        QueueFullError,
        RuntimeUnavailableError,
        SinkBusyError,
        SinkError,
        SinkRefusedError,
        SourceError,
        SpoolError,
        SpoolFullError,
        StoreDeniedError,
        StoreFullError,
        StoreUnavailableError,
        StreamExistsError,
        StreamNotFoundError,
        StreamOpenError,
        StreamTimeoutError,
        TopicMissingError,
        UnknownSchemaError,
        WireError,
        WriterActiveError,
        WriterSupersededError,
    )
    from pipeline.frame import Module
    from pipeline.joining.view import JoinedStream
    from pipeline.naming import StreamId
    from pipeline.publisher import Position, Publisher
    from pipeline.reading.account import Account
    from pipeline.reading.frame import Frame
    from pipeline.session import Session, StreamSummary, connect
    from pipeline.sharing.delivery import Delivery
    from pipeline.stream import Stream
    from pipeline.value_publisher import ValuePublisher

    __version__: str
else:

    def __getattr__(name: str) -> object:
        """Load a public name on first use."""
        import importlib

        if name == "__version__":
            from importlib.metadata import version

            value: object = version("lichtstrom")
        elif name in __all__:
            module = importlib.import_module(_HOMES.get(name, "pipeline.errors"))
            value = getattr(module, name)
        else:
            raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
        globals()[name] = value  # found without this function from now on
        return value

    def __dir__() -> list[str]:
        """Return the public names, loaded or not."""
        return sorted({*globals(), *__all__})


#: Where the names live that are none of ``pipeline.errors``.
_HOMES = {
    "Account": "pipeline.reading.account",
    "ConnectError": "pipeline.connectors.errors",
    "ConnectTimeoutError": "pipeline.connectors.errors",
    "ConnectUnavailableError": "pipeline.connectors.errors",
    "ConnectorConfigError": "pipeline.connectors.errors",
    "ConnectorExistsError": "pipeline.connectors.errors",
    "ConnectorNotFoundError": "pipeline.connectors.errors",
    "Delivery": "pipeline.sharing.delivery",
    "Frame": "pipeline.reading.frame",
    "JoinedStream": "pipeline.joining.view",
    "Module": "pipeline.frame",
    "Position": "pipeline.publisher",
    "Publisher": "pipeline.publisher",
    "Session": "pipeline.session",
    "Settings": "pipeline.config",
    "Stream": "pipeline.stream",
    "StreamId": "pipeline.naming",
    "StreamSummary": "pipeline.session",
    "ValuePublisher": "pipeline.value_publisher",
    "connect": "pipeline.session",
}

__all__ = [
    "Account",
    "AlreadyAcknowledgedError",
    "BlobNotFoundError",
    "BrokerDeniedError",
    "BrokerUnavailableError",
    "ChecksumError",
    "ClosedError",
    "ConfigError",
    "ConnectError",
    "ConnectTimeoutError",
    "ConnectUnavailableError",
    "ConnectorConfigError",
    "ConnectorExistsError",
    "ConnectorNotFoundError",
    "DecodeError",
    "Delivery",
    "ExpressionError",
    "FlushTimeoutError",
    "Frame",
    "FrameExpiredError",
    "FrameNotFoundError",
    "GroupActiveError",
    "IncompleteFrameError",
    "InvalidArgumentError",
    "InvalidFrameError",
    "InvalidNameError",
    "JoinedStream",
    "Module",
    "NodeNotFoundError",
    "OutputEndedError",
    "PipelineError",
    "PluginError",
    "Position",
    "PositionError",
    "Publisher",
    "QueueFullError",
    "RuntimeUnavailableError",
    "Session",
    "Settings",
    "SinkBusyError",
    "SinkError",
    "SinkRefusedError",
    "SourceError",
    "SpoolError",
    "SpoolFullError",
    "StoreDeniedError",
    "StoreFullError",
    "StoreUnavailableError",
    "Stream",
    "StreamExistsError",
    "StreamId",
    "StreamNotFoundError",
    "StreamOpenError",
    "StreamSummary",
    "StreamTimeoutError",
    "TopicMissingError",
    "UnknownSchemaError",
    "ValuePublisher",
    "WireError",
    "WriterActiveError",
    "WriterSupersededError",
    "__version__",
    "connect",
]

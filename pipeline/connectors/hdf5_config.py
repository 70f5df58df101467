"""The settings of a connector that writes a stream to an HDF5 file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.naming import Names, StreamId, escape

if TYPE_CHECKING:
    from pipeline.sinks.hdf5.files import Options

CLASS = "lichtstrom.connect.hdf5.Hdf5SinkConnector"

_BYTES = "org.apache.kafka.connect.converters.ByteArrayConverter"


def connector_name(stream: StreamId) -> str:
    """Return the name that a stream's connector has where nobody gives one."""
    parts = (stream.beamtime, stream.detector, stream.stream)
    return ".".join(("hdf5", *map(escape, parts)))


def dead_letters(names: Names, stream: StreamId, connector: str) -> str:
    """Return the topic of the records that a connector could not use.

    It is named after the consumers' group, which Connect calls ``connect-`` and the connector.
    """
    return names.dead_letters(stream.beamtime, stream.detector, f"connect-{connector}")


def connector_config(
    stream: StreamId,
    directory: Path,
    options: Options,
    *,
    names: Names,
    name: str,
    tasks: int,
    replication: int,
    mapping: Path | None = None,
) -> dict[str, str]:
    """Return the settings of the connector ``name``.

    Parameters
    ----------
    directory:
        Where the file goes, absolute: the same path on every worker's machine.
    tasks:
        At most so many; a topic's partition is read by one.
    replication:
        Of the topic of dead letters, should it be missing.
    mapping:
        TOML file with fields of the user's own, absolute as well.
    """
    return {
        "connector.class": CLASS,
        "tasks.max": str(tasks),
        "topics": names.topic(stream.beamtime, stream.detector),
        "key.converter": _BYTES,
        "value.converter": _BYTES,
        "stream": str(stream),
        "out.dir": str(directory),
        "layout": options.layout,
        "compression": options.compression,
        "frames.per.file": str(options.frames_per_file),
        "check": options.check,
        "map": str(mapping or ""),
        "overwrite": str(options.overwrite).lower(),
        # A record that cannot be read must not stop the file: it is kept, and said.
        "errors.tolerance": "all",
        "errors.log.enable": "true",
        "errors.deadletterqueue.topic.name": dead_letters(names, stream, name),
        "errors.deadletterqueue.topic.replication.factor": str(replication),
        "errors.deadletterqueue.context.headers.enable": "true",
    }

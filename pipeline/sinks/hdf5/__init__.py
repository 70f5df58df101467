"""Streams as HDF5 files; ``docs/sinks/hdf5.md`` says what is where."""

from pipeline.sinks.hdf5.counts import SinkCounts
from pipeline.sinks.hdf5.sink import Hdf5Sink

__all__ = ["Hdf5Sink", "SinkCounts"]

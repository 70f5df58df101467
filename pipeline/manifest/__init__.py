"""Live and stored are one: a stream's records beside its blobs, readable without a broker."""

from pipeline.manifest.combined import CombinedLog
from pipeline.manifest.stored import StoredLog, discover
from pipeline.manifest.writer import ManifestWriter

__all__ = ["CombinedLog", "ManifestWriter", "StoredLog", "discover"]

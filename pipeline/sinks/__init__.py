"""Sinks: streams written elsewhere."""

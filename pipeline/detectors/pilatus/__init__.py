"""Pilatus detectors: image files written by camserver into a directory."""

"""Measurements of the whole path, each beside its physical limit from the same run."""

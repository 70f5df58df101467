"""A stream as a read-only tree of groups and datasets, with no file."""

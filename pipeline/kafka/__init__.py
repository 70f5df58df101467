"""Topics: the records."""

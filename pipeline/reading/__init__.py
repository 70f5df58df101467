"""The reading side: from the records of a log to frames, tables and accounts."""

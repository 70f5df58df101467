"""Bytes on the topics: Avro single-object encoding, and what is read from it."""

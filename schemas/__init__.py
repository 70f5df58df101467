"""Avro schemas of everything on the topics; each published version stays here."""

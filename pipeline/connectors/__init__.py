"""Kafka Connect: talking to its workers, and what runs inside their connectors."""

"""Kafka Connect: what our connectors leave to Python."""

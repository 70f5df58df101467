"""Kafka Connect: its REST interface, and what our connectors leave to Python."""

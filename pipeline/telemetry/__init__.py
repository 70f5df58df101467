"""What a process says of itself: numbers for Prometheus, log lines, spans of sampled frames."""

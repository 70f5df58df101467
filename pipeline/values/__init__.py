"""Publishing values over time: from Python, JSON lines, EPICS and Bluesky."""

"""HiDRA: files that its senders pass on as ZeroMQ messages."""

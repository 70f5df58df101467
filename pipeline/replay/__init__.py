"""Stored data played as a live stream: files, directories of images, streams."""

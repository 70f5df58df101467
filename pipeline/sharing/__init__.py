"""Groups: each frame of a stream to one member, on a broker or on one machine."""

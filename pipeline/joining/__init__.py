"""Values of one stream beside the frames of another: joined by time or by an index."""

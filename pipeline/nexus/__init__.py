"""What NeXus files say of a stream, as a tree that any writer or view can take."""

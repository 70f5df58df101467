"""Lambda detectors by X-Spectrum: the xspd server's REST and ZeroMQ, and NeXus files."""

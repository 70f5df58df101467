"""Eiger detectors: two ZeroMQ streams, HDF5 files over HTTP, and a stand-in of the control unit."""

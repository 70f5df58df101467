"""Lambda detectors by X-Spectrum: NeXus files of their writers, and a stand-in for these."""

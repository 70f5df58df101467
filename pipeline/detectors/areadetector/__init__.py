"""EPICS areaDetector: images that its PVA plugin serves over PV Access."""

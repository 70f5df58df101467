"""lichtstrom: an event stream for X-ray and neutron detectors."""

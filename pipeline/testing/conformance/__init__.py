"""The adapter conformance kit: one fault script for every instrument.

Write a :class:`Rig` that plays your device, and take it through every fault with :func:`check`;
``docs/conformance.md`` shows how.
"""

from pipeline.testing.conformance.bench import Bench
from pipeline.testing.conformance.rig import Rig, Sent, pixels_sha256
from pipeline.testing.conformance.script import SCRIPT, check

#: The names of all faults, in the order of the script.
FAULTS = tuple(SCRIPT)

__all__ = ["FAULTS", "Bench", "Rig", "Sent", "check", "pixels_sha256"]

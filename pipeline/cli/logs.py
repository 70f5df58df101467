"""Logging of the commands: one line per event, on stderr."""

from __future__ import annotations

import logging

from pipeline.telemetry import logs

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


def set_up_logging(*, verbose: int, quiet: bool, form: logs.Form = "text") -> None:
    """Send our log to stderr: warnings, with -v events, with -vv details; with -q errors."""
    level = logging.ERROR if quiet else _LEVELS[min(verbose, 2)]
    logs.set_up_logging(logs.LogSettings(level, form))

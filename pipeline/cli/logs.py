"""Logging of the commands: one line per event, on stderr."""

from __future__ import annotations

import logging

import click

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


class _Stderr(logging.Handler):
    """Writes to what ``sys.stderr`` is at the moment: a progress line may stand in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            click.echo(self.format(record), err=True)
        except Exception:  # noqa: BLE001 -- as logging's own handlers do
            self.handleError(record)


def set_up_logging(*, verbose: int, quiet: bool) -> None:
    """Send our log to stderr: warnings, with -v events, with -vv details; with -q errors."""
    logger = logging.getLogger("pipeline")
    for handler in [h for h in logger.handlers if isinstance(h, _Stderr)]:
        logger.removeHandler(handler)
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if quiet else _LEVELS[min(verbose, 2)])

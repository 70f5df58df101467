"""The command line: one module per command, loaded when it is used."""

from __future__ import annotations


def main() -> None:
    """Run ``lichtstrom``; the entry point."""
    from pipeline.cli.root import lichtstrom

    lichtstrom(prog_name="lichtstrom")


__all__ = ["main"]

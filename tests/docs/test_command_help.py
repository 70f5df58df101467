"""Every command and option that a document names exists, and has its help."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from doc_blocks import ROOT, pages

LICHTSTROM = Path(sys.executable).with_name("lichtstrom")
#: Two-word commands: what follows is a command of its own and no argument.
GROUPS = (
    *("adapter", "simulate", "sink", "hdf5", "connect", "beamtime", "spool", "values", "group"),
    *("dlq", "retention", "access", "service"),
)
#: What docs/adapters.md would add.
EXAMPLES = {"adapter counter"}
_CALL = re.compile(r"lichtstrom ((?:[a-z][a-z0-9-]*)(?: [a-z][a-z0-9-]*)?)((?: [^`\n|#]*)?)")


def named() -> dict[str, set[str]]:
    """Commands that documents call in code, with the options they give."""
    found: dict[str, set[str]] = {}
    for page in pages():
        text = re.sub(r"\\\n\s*", " ", page.read_text())
        code = re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL)
        code += re.findall(r"`(lichtstrom [^`]+)`", text)
        for piece in code:
            # `service install NAME -- COMMAND` calls another one
            for words, rest in re.findall(_CALL, piece.replace(" -- ", "\nlichtstrom ")):
                first, _, second = words.partition(" ")
                command = f"{first} {second}" if first in GROUPS and second else first
                options = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", rest))
                found.setdefault(command, set()).update(options)
    return {command: found[command] for command in found.keys() - EXAMPLES}


@cache
def help_of(command: str) -> str:
    done = subprocess.run(
        [str(LICHTSTROM), *command.split(), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"lichtstrom {command} --help: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize("command", sorted(named()))
def test_a_command_in_the_documents_has_help_and_these_options(command: str) -> None:
    text = help_of(command)
    assert "Usage:" in text
    assert [o for o in sorted(named()[command]) if o not in text] == []


def test_the_page_of_the_command_line_names_every_command() -> None:
    listed = re.findall(r"^  ([a-z]+) +\S", help_of("").partition("Commands:")[2], re.MULTILINE)
    assert listed
    cells = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs/cli.md").read_text(), re.MULTILINE)
    documented = {w for cell in cells for w in re.findall(r"`(?:lichtstrom )?([a-z]+)", cell)}
    assert set(listed) - documented == set()

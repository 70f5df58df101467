"""The file adapters, the spool and the reader where Python has only what Windows gives it.

It stands in for a Windows machine; what it cannot show is said in ``docs/detectors/windows.md``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in import is_legal

from pipeline.local import RuntimeInfo

_CHILD = Path(__file__).parent / "stand_in.py"

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]


@pytest.mark.parametrize("store", ["file", "s3"])
def test_the_file_adapters_run_where_nothing_of_linux_is_left(
    store: str, runtime: RuntimeInfo, beamtime: str, tmp_path: Path
) -> None:
    said = json.loads(_run(store, runtime, beamtime, tmp_path))
    found = said["found"]
    assert said["spooled"] == len(found["pco"]["planted"])
    assert said["files_in_spool"] > said["spooled"]
    assert set(found) == {"files", "pilatus", "pco", "perkinelmer"}
    for name, facts in found.items():
        assert facts["ended"] == [f"{beamtime}/{name}/s"]
        assert facts["numbers"] == facts["planted"], name
        assert facts["wrong"] == [], name
        assert facts["complete"], name
    names = {part for path in tmp_path.rglob("*") for part in path.relative_to(tmp_path).parts}
    assert not [name for name in names if not is_legal(name)]
    folded = [str(path).lower() for path in tmp_path.rglob("*")]
    assert len(folded) == len(set(folded)), "two names differ by case only"


def _run(store: str, runtime: RuntimeInfo, beamtime: str, folder: Path) -> str:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("LICHTSTROM_")
    }
    environment |= {
        "LICHTSTROM_KAFKA_BOOTSTRAP": runtime.kafka.bootstrap,
        "LICHTSTROM_CREATE": "true",
        "LICHTSTROM_STORE_URL": f"file://{folder}/store",
        "PYTHONPATH": str(_CHILD.parent),
    }
    if store == "s3":
        if runtime.s3 is None:
            pytest.skip("NO S3 SERVER on this machine: see `lichtstrom doctor`")
        environment |= {
            "LICHTSTROM_STORE_URL": "s3://",
            "LICHTSTROM_STORE_ENDPOINTS": runtime.s3.endpoint,
            "LICHTSTROM_STORE_ACCESS_KEY": runtime.s3.access_key,
            "LICHTSTROM_STORE_SECRET_KEY": runtime.s3.secret_key,
            "LICHTSTROM_STORE_REGION": runtime.s3.region,
        }
    done = subprocess.run(
        [sys.executable, str(_CHILD), str(folder), beamtime],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("name", ["a:b", "con", "nul.txt", "x.", "y ", "a?b", "tab\t", "COM1.tif"])
def test_names_that_ntfs_refuses_are_known(name: str) -> None:
    assert not is_legal(name)


def test_the_stand_in_takes_away_what_it_says(tmp_path: Path) -> None:
    code = (
        "import sys, os, pathlib; sys.path.insert(0, sys.argv[1]); import stand_in;"
        "p = pathlib.Path(sys.argv[2]); stand_in.become_poor(p); import os; bad = []\n"
        "def refused(f, *kinds):\n"
        "    try: f()\n"
        "    except kinds: return\n"
        "    bad.append(f)\n"
        "refused(lambda: __import__('fcntl'), ImportError)\n"
        "refused(lambda: os.fork(), AttributeError)\n"
        "refused(lambda: os.kill(os.getpid(), 0), AssertionError)\n"
        "refused(lambda: (p / 'a:b').write_text(''), OSError)\n"
        "(p / 'a').write_text(''); (p / 'b').write_text('')\n"
        "refused(lambda: os.rename(p / 'a', p / 'b'), FileExistsError)\n"
        "held = open(p / 'a')\n"
        "refused(lambda: os.unlink(p / 'a'), PermissionError)\n"
        "refused(lambda: os.replace(p / 'b', p / 'a'), PermissionError)\n"
        "held.close(); os.unlink(p / 'a'); print(len(bad))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(_CHILD.parent), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == ("0", 0), done.stderr

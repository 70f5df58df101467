"""Writer, appliers and collector killed at random: nothing dangles, nothing is left behind.

The judge at the end shares no code with the collector: it compares files on disk with what readers
of the streams are told.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.local.processes import wait_until
from pipeline.manifest.part import packed_key
from pipeline.manifest.seal import load_seal
from pipeline.records import Segment
from pipeline.retention import policies
from pipeline.session import Session, connect

pytestmark = [pytest.mark.service, pytest.mark.timeout(1800)]
#: LICHTSTROM_RETENTION_KILLS=50 for the long form.
KILLS = int(os.environ.get("LICHTSTROM_RETENTION_KILLS", "4"))
#: Streams that are written to their end at least.
STREAMS = 2
LIMIT_S = 120.0
#: So young may an object be whose record is on its way, here where nothing hangs.
GRACE = "2s"
QUICK = ("--seal-after", "1s", "--settle", "0.5s")


class Child:
    """A process that is started again whenever it was killed, or has ended."""

    def __init__(self, command: Callable[[], list[str]], log: Path) -> None:
        self._command = command
        self._log = log
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command(), stdout=log, stderr=log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(LIMIT_S)

    def again(self) -> None:
        if self.process.poll() is not None:
            self.start()


def cli(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", *arguments]


def run(*arguments: str) -> str:
    done = subprocess.run(
        cli(*arguments), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_whatever_is_killed_nothing_dangles_and_nothing_is_left_behind(
    home_env: Path, beamtime: str, tmp_path: Path
) -> None:
    seed = int(os.environ.get("LICHTSTROM_SEED", "1"))
    dice = random.Random(seed)
    written = tmp_path / "written"
    written.mkdir()
    with connect() as session:
        session.create_beamtime(beamtime, "lambda", partitions=3)
        policies.change(
            session.services, beamtime, records_age_s=1.0, age_s=4.0, hold=["lambda/keep_*"]
        )
        writer_script = Path(__file__).with_name("retention_writer.py")
        writer = Child(
            lambda: [sys.executable, str(writer_script), beamtime, str(written), str(seed)],
            tmp_path / "writer.log",
        )
        apply = cli("retention", "apply", beamtime, "--watch", "0.3s", *QUICK)
        collect = cli("retention", "gc", beamtime, "--grace", GRACE)
        children = [
            writer,
            Child(lambda: apply, tmp_path / "apply-1.log"),
            Child(lambda: apply, tmp_path / "apply-2.log"),
            Child(lambda: collect, tmp_path / "gc.log"),
        ]
        try:
            for _ in range(KILLS):
                threading.Event().wait(dice.uniform(0.3, 2.5))
                dice.choice(children).kill()
                for child in children:
                    child.again()
            assert wait_until(lambda: len(list(written.iterdir())) > STREAMS, timeout_s=LIMIT_S)
            (written / "stop").touch()
            assert wait_until(lambda: writer.process.poll() == 0, timeout_s=LIMIT_S), (
                tmp_path / "writer.log"
            ).read_text()[-2000:]
        finally:
            for child in children:
                child.kill()
        counts = {p.name: int(p.read_text()) for p in written.iterdir() if "_" in p.name}
        judge(session, beamtime, counts)


def judge(session: Session, beamtime: str, counts: dict[str, int]) -> None:
    """Let the last ones go, collect, and compare."""
    threading.Event().wait(4.5)  # the policy's age: what has not ended 4 s ago does not go
    run("retention", "apply", beamtime, *QUICK)
    found = json.loads(run("retention", "gc", beamtime, "--grace", "0s", "--json"))
    assert found["dangling"] == []
    assert found["open"] == []
    live = {s.name.stream: s for s in session.streams(f"{beamtime}/*/*")}
    assert set(live) == {name for name in counts if name.startswith("keep")}
    for name in live:
        account = session.stream(beamtime, "lambda", name).verify()
        assert account["complete"], account
        assert account["received"] == counts[name]
    gone = {
        g["stream"]: g for g in json.loads(run("retention", "show", beamtime, "--json"))["gone"]
    }
    expected = {f"{beamtime}/lambda/{name}" for name in counts if name.startswith("go")}
    assert set(gone) == expected
    for name, tombstone in gone.items():
        assert tombstone["account"]["complete"], tombstone
        assert tombstone["account"]["received"] == counts[name.rpartition("/")[2]]
        assert tombstone["policy"]
    assert on_disk(session, beamtime) == referred(session, beamtime)
    again = json.loads(run("retention", "gc", beamtime, "--grace", "0s", "--json"))
    assert (again["orphans"], again["dangling"]) == ([], [])


def on_disk(session: Session, beamtime: str) -> set[str]:
    root = Path(session.services.store.url.removeprefix("file://"))
    bucket = root / session.services.names.bucket(beamtime)
    return {str(path.relative_to(root)) for path in bucket.rglob("*") if path.is_file()}


def referred(session: Session, beamtime: str) -> set[str]:
    """Return what readers of the streams that are left are told to read."""
    keys: set[str] = set()
    store = session.services.store
    for summary in session.streams(f"{beamtime}/*/*"):
        info = summary.info
        assert info.seal is not None
        sealed = load_seal(store, info.seal.key)
        parts = {part.key for part in sealed.parts} | {ref.key for ref in info.parts}
        keys |= {sealed.key, *parts}
        keys |= {packed_key(key) for key in parts if (_path(session, packed_key(key))).exists()}
        with session.stream(beamtime, "lambda", summary.name.stream) as stream:
            records = [located.value for located in stream.table().records]
        keys |= {r.blob for r in records if isinstance(r, Segment) and r.blob}
    return keys


def _path(session: Session, key: str) -> Path:
    return Path(session.services.store.url.removeprefix("file://")) / key

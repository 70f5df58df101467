"""What comes out of the running stack; ``tests/compose/run`` prepares it and runs this file.

Not named test_*: without an engine and images there is nothing to look at.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 -- registers the filters
import numpy as np
import pytest
from compose_panels import queries

import pipeline
from pipeline.config import KafkaSettings, Settings, StoreSettings
from pipeline.session import connect

COMPOSE = Path(os.environ["COMPOSE_FILE"]).parent
PROFILES = os.environ["COMPOSE_PROFILES"].split(",")
WITHOUT = os.environ.get("LICHTSTROM_CHECK_WITHOUT", "").split(",")
FULL = os.environ.get("LICHTSTROM_CHECK_FULL") == "1"
LIMIT_S = 120.0
#: A scan of 4 s, and a pause: several while the checks run. More than a laptop's `.env` asks for.
DEMO = {"DEMO_SCANS": "100", "DEMO_FRAMES": "80", "DEMO_RATE_HZ": "20", "DEMO_PAUSE_S": "4"}

pytestmark = pytest.mark.timeout(300)


def compose(*arguments: str, limit_s: float = LIMIT_S) -> str:
    done = subprocess.run(
        ["docker", "compose", "--progress", "quiet", *arguments],
        env={**os.environ, **DEMO},
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}\n{tails()}"
    return done.stdout


def tails() -> str:
    """The last lines of everything, for a failure's message."""
    argv = ["docker", "compose", "logs", "--no-color", "--tail", "8"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout


def lichtstrom(*arguments: str) -> str:
    return compose("run", "--rm", "-T", "lichtstrom", *arguments)


def eventually(look: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    """Return the first result of ``look`` that is true."""
    deadline_s = time.monotonic() + limit_s
    while not (found := look()):
        assert time.monotonic() < deadline_s, f"no {what} in {limit_s:g} s\n{tails()}"
        time.sleep(0.5)
    return found


def inspected() -> Any:
    names = compose("ps", "--all", "--quiet").split()
    argv = ["docker", "inspect", *names]
    return json.loads(subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout)


def service(container: dict[str, Any]) -> str:
    return str(container["Config"]["Labels"]["com.docker.compose.service"])


@pytest.fixture(scope="module", autouse=True)
def stack() -> Iterator[None]:
    begun_s = time.monotonic()
    services = [name for name in compose("config", "--services").split() if name not in WITHOUT]
    compose("up", "--detach", "--no-build", "--pull", "never", *services)
    print(f"\nup in {time.monotonic() - begun_s:.1f} s: {' '.join(sorted(services))}")
    yield
    compose("kill")


@pytest.fixture(scope="module")
def session() -> Iterator[pipeline.Session]:
    """As a program on the host would connect: compose/README.md has these settings."""
    env = json.loads(compose("config", "--format", "json"))["services"]
    kafka = env["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].rpartition("://")[2]
    settings = env["adapter"]["environment"]
    store = StoreSettings(
        url="s3://",
        endpoints=(f"http://127.0.0.1:{env['s3']['ports'][0]['published']}",),
        access_key=settings["LICHTSTROM_STORE_ACCESS_KEY"],
        secret_key=settings["LICHTSTROM_STORE_SECRET_KEY"],
    )
    with connect(settings=Settings(kafka=KafkaSettings(bootstrap=kafka), store=store)) as opened:
        yield opened


@pytest.fixture(scope="module")
def scan(session: pipeline.Session) -> str:
    """The first scan of the simulated detector, when it is complete."""

    def first() -> str:
        found = session.streams("demo/pilatus/*")
        return str(found[0].name) if found and found[0].state == "complete" else ""

    return str(eventually(first, "complete scan"))


def check_images(path: Path, session: pipeline.Session, scan: str) -> None:
    """Every frame of the scan is in the file, pixel by pixel."""
    expected = int(DEMO["DEMO_FRAMES"])
    with session.stream(*scan.split("/")) as stream, h5py.File(path) as file:
        data = file["entry/data/data"]
        assert data.shape == (expected, 619, 487)
        for row, frame in enumerate(stream.ordered(timeout_s=30.0)):
            assert np.array_equal(data[row], frame.array), f"frame {frame.number}"
        assert row == expected - 1


def test_a_frame_comes_out_as_hdf5(session: pipeline.Session, scan: str, tmp_path: Path) -> None:
    name = f"pilatus_{scan.rpartition('/')[2]}.h5"
    eventually(lambda: name in compose("exec", "-T", "hdf5", "ls", "/data/files"), name)
    compose("cp", f"hdf5:/data/files/{name}", str(tmp_path / name))
    check_images(tmp_path / name, session, scan)


def test_both_workers_count_the_spots_of_every_frame(session: pipeline.Session, scan: str) -> None:
    spots = scan.replace("/pilatus/", "/spots/")
    with session.stream(*spots.split("/")) as stream:
        eventually(lambda: stream.account()["complete"], "complete spots")
    assert len(compose("ps", "--quiet", "worker").split()) == 2


def test_the_live_picture_is_of_the_newest_scan() -> None:
    command = ["watch", "demo/pilatus/*", "--once"]
    shown = compose("run", "--rm", "-T", "watch", *command)
    assert shown.startswith("demo/pilatus/scan_")
    assert len(shown.splitlines()) > 10


def test_the_account_of_a_scan_is_complete_as_read_by_the_command_line(scan: str) -> None:
    assert json.loads(lichtstrom("verify", scan, "--json"))["complete"] is True


def test_no_container_runs_as_root_or_can_write_to_its_root_file_system() -> None:
    for container in inspected():
        user = container["Config"]["User"].partition(":")[0]
        assert user not in {"", "0", "root"}, service(container)
        assert container["HostConfig"]["ReadonlyRootfs"], service(container)
        assert container["HostConfig"]["CapDrop"] == ["ALL"], service(container)


def test_all_memory_limits_together_are_four_gigabytes() -> None:
    limits = {c["Name"]: c["HostConfig"]["Memory"] for c in inspected()}
    assert all(limits.values())
    assert sum(limits.values()) <= 4 * 1024**3


def test_a_worker_that_dies_is_started_again() -> None:
    victim = next(c for c in inspected() if service(c) == "worker")
    os.kill(victim["State"]["Pid"], signal.SIGKILL)

    def restarted() -> bool:
        now = next(c for c in inspected() if c["Id"] == victim["Id"])
        return bool(now["RestartCount"] > victim["RestartCount"] and now["State"]["Running"])

    eventually(restarted, "restart of the worker")


@pytest.mark.skipif("connect" not in PROFILES, reason="CONNECT NOT CHECKED: its plugin is missing")
def test_kafka_connect_writes_the_same_images(
    session: pipeline.Session, scan: str, tmp_path: Path
) -> None:
    eventually(lambda: '"healthy"' in compose("ps", "connect", "--format", "json"), "Connect")
    made = json.loads(
        lichtstrom(
            "connect",
            "hdf5",
            scan,
            "--out",
            "/data/files/connect",
            "--wait",
            "--timeout",
            "60",
            "--json",
        )
    )
    compose("cp", f"connect:{made['file']}", str(tmp_path / "file.h5"))
    check_images(tmp_path / "file.h5", session, scan)


def ask(path: str, **parameters: str) -> Any:
    """Ask the stack's Prometheus."""
    port = compose("port", "prometheus", "9090").strip().rpartition(":")[2]
    url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)["data"]


def label_values(label: str, selector: str | None) -> list[str]:
    return list(ask(f"label/{label}/values", **({"match[]": selector} if selector else {})))


@pytest.mark.skipif("monitoring" not in PROFILES, reason="not in COMPOSE_PROFILES")
def test_every_target_of_prometheus_is_up() -> None:
    def down() -> list[str]:
        # A sink comes and goes with its scan; everything else answers all the time.
        wanted = {"prometheus", "adapter", "worker", "exporter"}
        up = [t["labels"]["job"] for t in ask("targets")["activeTargets"] if t["health"] == "up"]
        return sorted(wanted - set(up)) + (["a worker"] if up.count("worker") < 2 else [])

    eventually(lambda: not down(), f"answer of {down()}")


@pytest.mark.skipif("monitoring" not in PROFILES, reason="not in COMPOSE_PROFILES")
def test_every_panel_of_every_dashboard_has_data(scan: str) -> None:
    paths = sorted((COMPOSE / "grafana" / "dashboards").glob("*.json"))
    assert paths, "no dashboard"
    empty: list[str] = []

    def all_have_data() -> bool:
        try:
            asked = [query for path in paths for query in queries(path, label_values)]
        except ValueError as error:  # a variable has no value yet
            empty[:] = [str(error)]
            return False
        empty[:] = [str(q) for q in asked if not ask("query", query=q.expression)["result"]]
        return not empty

    try:
        eventually(all_have_data, "data in every panel", limit_s=60.0)
    except AssertionError:
        pytest.fail("no data in:\n" + "\n".join(empty))


@pytest.mark.skipif("monitoring" not in PROFILES, reason="not in COMPOSE_PROFILES")
def test_the_rules_of_prometheus_are_loaded_and_can_be_evaluated() -> None:
    groups = ask("rules")["groups"]
    wrong = [r["name"] for g in groups for r in g["rules"] if r["health"] == "err"]
    assert not wrong
    assert bool(groups) == bool(list((COMPOSE / "prometheus" / "rules").glob("*.yml")))


@pytest.mark.skipif("grafana" in WITHOUT, reason="GRAFANA NOT CHECKED: its image cannot be pulled")
def test_grafana_has_the_dashboards() -> None:
    port = compose("port", "grafana", "3000").strip().rpartition(":")[2]
    url = f"http://127.0.0.1:{port}/api/search?type=dash-db"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found = json.load(answer)
    assert len(found) == len(list((COMPOSE / "grafana" / "dashboards").glob("*.json")))


@pytest.mark.skipif(not FULL, reason="only with --full")
def test_what_was_taken_is_there_after_down_and_up(session: pipeline.Session, scan: str) -> None:
    compose("down", "--timeout", "20")
    services = [name for name in compose("config", "--services").split() if name not in WITHOUT]
    compose("up", "--detach", "--no-build", "--pull", "never", *services)
    assert json.loads(lichtstrom("verify", scan, "--json"))["complete"] is True

"""Values beside frames on the real broker: live, late, and from EPICS and Bluesky."""

from __future__ import annotations

import io
import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.cli.root import lichtstrom
from pipeline.local.processes import wait_until
from pipeline.session import Session, connect
from pipeline.values.bluesky import BlueskyValues
from pipeline.values.epics import EpicsValues

LIMIT_S = 30.0
MS = 1_000_000
CHANNELS = ("motors", "ring", "shutter", "cryo", "flux", "scan")


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect() as session:
        yield session


def test_six_channels_reach_the_frames_of_a_live_stream_late_values_too(
    session: Session, beamtime: str
) -> None:
    t0 = time.time_ns()
    image = np.zeros((4, 4), np.uint16)
    with session.publish(beamtime, "cam", "s", rate_hz=1000) as out:
        channels = {
            name: session.publish_values(beamtime, name, "s", units={name: "mm"})
            for name in CHANNELS
        }
        joined: Any = session.stream(beamtime, "cam", "s")
        for name in CHANNELS:
            joined = joined.join(
                name,
                on="trigger" if name == "scan" else "time",
                how="linear" if name == "motors" else "step",
                wait_s=0.5 if name == "cryo" else LIMIT_S,
            )
        frames = joined.ordered(timeout_s=LIMIT_S)
        got: list[Any] = []
        reader = threading.Thread(target=lambda: got.extend(next(frames) for _ in range(100)))
        reader.start()
        for number in range(100):
            out.write(image, timestamp_ns=t0 + number * MS)
        out.flush()
        # the images are all there; their values come only now, and of cryo just the first ones
        for step in range(0, 120, 10):
            stamp = t0 + step * MS
            for name in set(CHANNELS) - {"scan"}:
                if name != "cryo" or step < 50:
                    channels[name].put(stamp, **{name: float(step)})
            for trigger in range(step, step + 10):
                channels["scan"].put(stamp, trigger=trigger, scan=trigger)
        reader.join(LIMIT_S)
        assert not reader.is_alive(), f"{len(got)} frames"
        for channel in channels.values():
            channel.end()
    found = [dict(frame.attributes) for frame in got]
    assert [f.number for f in got] == list(range(100))
    assert [f["motors"] for f in found] == pytest.approx([float(n) for n in range(100)])
    assert [f["ring"] for f in found] == [n // 10 * 10.0 for n in range(100)]
    assert [f["cryo"] for f in found] == [min(n // 10 * 10.0, 40.0) for n in range(100)]
    assert [f["scan"] for f in found] == list(range(100))
    late = {name.split("/")[1]: count for name, count in joined.late.items()}
    # frame 40 is as old as the newest value: another of that time might have come
    assert late == {**dict.fromkeys(CHANNELS, 0), "cryo": 60}
    assert set(joined.missing.values()) == {0}

    # stored, the same by every way of reading, and with nobody to wait for
    chosen = [f.number for f in joined.select("ring == 30 and motors > 33.5 and scan < 38")]
    assert chosen == [34, 35, 36, 37]
    with joined.shared("g", timeout_s=LIMIT_S) as deliveries:
        seen = {}
        for delivery in deliveries:
            seen[delivery.frame.number] = delivery.frame.attributes["scan"]
            delivery.ack()
    assert seen == {n: n for n in range(100)}
    assert joined.latest().attributes["cryo"] == 40.0


def test_a_channel_that_ticks_lets_frames_go_before_its_next_value(
    session: Session, beamtime: str
) -> None:
    with (
        session.publish(beamtime, "cam", "s", rate_hz=100) as out,
        session.publish_values(beamtime, "ring", "s", tick_s=0.05, settle_s=0.0) as ring,
    ):
        ring.put(current_mA=100.0)
        joined = session.stream(beamtime, "cam", "s").join("ring", wait_s=LIMIT_S)
        out.write(np.zeros((4, 4), np.uint16))
        frame = next(joined.ordered(timeout_s=LIMIT_S))
        assert frame.attributes == {"current_mA": 100.0}
        assert set(joined.late.values()) == {0}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_real_run_engine_publishes_its_scans_and_frames_join_their_points(
    session: Session, beamtime: str
) -> None:
    plans = pytest.importorskip("bluesky.plans")
    from bluesky import RunEngine
    from ophyd.sim import SynAxis, SynGauss

    motor = SynAxis(name="motor")
    counter = SynGauss("counter", motor, "motor", center=0, Imax=10)
    engine = RunEngine({}, context_managers=[])
    engine.subscribe(BlueskyValues(session, beamtime, "scan", first_trigger=1))
    try:
        engine(plans.scan([counter], motor, -2, 2, 5), stream="s")
    finally:
        engine.loop.call_soon_threadsafe(engine.loop.stop)
    with session.publish(beamtime, "cam", "s", rate_hz=10) as out:
        for number in range(1, 7):  # one more than there are points
            out.write(np.zeros((4, 4), np.uint16), number=number)
    joined = session.stream(beamtime, "cam", "s").join("scan", on="trigger", how="exact")
    found = [frame.attributes for frame in joined.ordered(timeout_s=LIMIT_S)]
    assert [f.get("motor") for f in found] == [-2, -1, 0, 1, 2, None]
    assert [f.get("seq_num") for f in found] == [1, 2, 3, 4, 5, None]
    assert found[2]["counter"] == 10.0
    assert set(joined.missing.values()) == {1}
    values = session.stream(beamtime, "scan", "s")
    assert values.state == "complete"
    assert values.metadata["bluesky_plan_name"] == "scan"


def test_epics_pvs_are_published_as_they_change_and_unknown_once_they_are_gone(
    session: Session, beamtime: str
) -> None:
    from p4p.nt import NTEnum, NTScalar
    from p4p.server import Server
    from p4p.server.raw import SharedPV

    current = SharedPV(nt=NTScalar("d"), initial=100.0)
    shutter = SharedPV(nt=NTEnum(), initial={"index": 0, "choices": ["closed", "open"]})
    conf = {
        "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
        "EPICS_PVAS_BROADCAST_PORT": "0",
        "EPICS_PVAS_SERVER_PORT": "0",
        "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_PVAS_BEACON_ADDR_LIST": "127.0.0.1",
    }
    server = Server(
        providers=[{"RING:CURRENT": current, "SHUTTER": shutter}], conf=conf, useenv=False
    )
    address = f"127.0.0.1:{server.conf()['EPICS_PVAS_BROADCAST_PORT']}"
    stop = threading.Event()
    with session.publish_values(beamtime, "ring", "s") as out:
        names = {"RING:CURRENT": "current_mA", "SHUTTER": "shutter"}
        source = EpicsValues(out, names, address=address)
        thread = threading.Thread(target=source.run, args=(stop,))
        thread.start()
        try:
            wait_until(lambda: len(source.connected) == 2, timeout_s=LIMIT_S)
            current.post(101.5, timestamp=time.time())
            wait_until(lambda: source.count >= 3, timeout_s=LIMIT_S)
            shutter.post(1, timestamp=time.time())
            wait_until(lambda: source.count >= 4, timeout_s=LIMIT_S)
            server.stop()
            wait_until(lambda: source.count >= 6, timeout_s=LIMIT_S)
        finally:
            stop.set()
            thread.join(LIMIT_S)
            server.stop()
    found: dict[str, list[Any]] = {"current_mA": [], "shutter": []}
    for frame in session.stream(beamtime, "ring", "s"):
        for name, value in frame.attributes.items():
            found[name].append(value)
    assert found["shutter"] == ["closed", "open", ""]
    assert found["current_mA"][:2] == [100.0, 101.5]
    assert math.isnan(found["current_mA"][2])


def test_lines_of_json_go_in_and_come_out_by_the_command(session: Session, beamtime: str) -> None:
    sent = [{"timestamp_ns": 10, "x": 1.5}, {"timestamp_ns": 20, "x": 2.5, "mode": "fast"}]
    text = "\n".join(json.dumps(line) for line in sent) + "\n\n"
    run = CliRunner()
    name = f"{beamtime}/motors/s"
    done = run.invoke(lichtstrom, ["values", "publish", name], input=io.StringIO(text).read())
    assert (done.exit_code, done.stdout) == (0, f"{name}: 2 values published\n")
    shown = run.invoke(lichtstrom, ["values", "show", name, "--json"])
    assert [json.loads(line) for line in shown.stdout.splitlines()] == sent
    wrong = run.invoke(lichtstrom, ["values", "publish", f"{beamtime}/motors/t"], input="{}\nx\n")
    assert wrong.exit_code == 1
    assert "line: 2 is not JSON" in wrong.stderr

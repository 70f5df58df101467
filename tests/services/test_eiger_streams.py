"""Both streams of an Eiger into the real broker and the real store; the control unit's REST."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli.root import lichtstrom
from pipeline.detectors.eiger.adapter import EigerAdapter
from pipeline.detectors.eiger.sim import EigerSimulator
from pipeline.detectors.rest import Device
from pipeline.ingest import IngestReport, run
from pipeline.local.processes import wait_until
from pipeline.session import Session, connect
from pipeline.testing.conformance.rig import pixels_sha256

SHAPE = (40, 60)


@pytest.fixture
def session(home_env: Any) -> Iterator[Session]:
    with connect() as made:
        yield made


class Ingest:
    """An adapter in a thread, until so many streams have ended."""

    def __init__(self, session: Session, beamtime: str, streams: int, **settings: Any) -> None:
        self.report: IngestReport | None = None
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._session, self._beamtime, self._streams = session, beamtime, streams
        self._adapter = EigerAdapter(**settings)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            with closing(self._adapter):
                self.report = run(
                    self._session,
                    self._adapter,
                    beamtime=self._beamtime,
                    detector="e",
                    stop=self._stop,
                    streams=self._streams,
                    on_progress=self._progress,
                    poll_s=0.05,
                )
        except BaseException as error:
            self.error = error

    def _progress(self, report: IngestReport) -> None:
        self.report = report

    def has_ended(self, count: int) -> bool:
        return self.report is not None and len(self.report.ended) >= count

    def __enter__(self) -> Ingest:
        self._thread.start()
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            self._stop.set()
        self._thread.join(30.0)
        assert not self._thread.is_alive()
        if kind is None:
            assert self.error is None


def addresses(simulator: EigerSimulator, *, rest: bool = True) -> dict[str, Any]:
    stream = {"stream_endpoint": f"tcp://127.0.0.1:{simulator.stream_port}"}
    return stream | ({"endpoint": f"http://127.0.0.1:{simulator.port}"} if rest else {})


def one_series(simulator: EigerSimulator, count: int) -> None:
    """Arm, expose and disarm: as a run does, but REST answers afterwards, too."""
    unit = simulator.unit
    unit.arm()
    assert unit.trigger(count, rate_hz=0) == count
    unit.disarm()


def truth_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def sent(truth: list[dict[str, Any]]) -> dict[tuple[int, int], str]:
    return {(t["number"], t["module"]): t["pixels_sha256"] for t in truth if not t.get("lost")}


def names_of(report: IngestReport) -> list[str]:
    return [name.rpartition("/")[2] for name in report.ended]


def received(session: Session, beamtime: str, name: str) -> dict[tuple[int, int], str]:
    with session.stream(beamtime, "e", name) as stream:
        return {
            (frame.number, module): pixels_sha256(part.array)
            for frame in stream.ordered(timeout_s=20.0)
            for module, part in frame.modules.items()
        }


@pytest.mark.parametrize(
    ("stream_format", "compression", "dtype"),
    [
        ("legacy", "bslz4", "uint32"),
        ("legacy", "lz4", "uint16"),
        ("cbor", "bslz4", "uint16"),
        ("cbor", "lz4", "uint32"),
        ("cbor", "none", "uint8"),
    ],
)
def test_every_pixel_arrives(session, beamtime, tmp_path, stream_format, compression, dtype):
    simulator = EigerSimulator(
        frames=12,
        rate_hz=0,
        shape=SHAPE,
        dtype=dtype,
        compression=compression,
        stream_format=stream_format,
        truth=tmp_path / "truth",
    )
    with Ingest(session, beamtime, 1, **addresses(simulator, rest=False)) as ingest:
        assert simulator.run() == 12
    assert ingest.report is not None
    assert (ingest.report.frames, ingest.report.quarantined) == (12, 0)
    truth = truth_of(tmp_path / "truth")
    (name,) = names_of(ingest.report)
    assert received(session, beamtime, name) == sent(truth)
    with session.stream(beamtime, "e", name) as stream:
        account = stream.account()
        assert (account["expected"], account["missing"], stream.state) == (12, [], "complete")
        assert stream.metadata["source_interface"] == "stream"
        assert stream.metadata["exposure_s"] == pytest.approx(0.0099)
        stamps = [stream.frame(number).timestamp_ns for number in range(12)]
    if stream_format == "cbor":  # its date has microseconds
        assert stamps == pytest.approx([t["timestamp_ns"] for t in truth], abs=1000, rel=0)
    else:
        assert {b - a for a, b in itertools.pairwise(stamps)} == {10_000_000}


@pytest.mark.parametrize("stream_format", ["legacy", "cbor"])
def test_thresholds_losses_and_attachments(session, beamtime, tmp_path, stream_format):
    channels = ("threshold_1", "threshold_2") if stream_format == "cbor" else ("threshold_1",)
    simulator = EigerSimulator(
        frames=0,
        shape=SHAPE,
        stream_format=stream_format,
        header_detail="all",
        channels=channels,
        lose=(0, 5, 9),
        truth=tmp_path / "truth",
    )
    with closing(simulator):
        unit = simulator.unit
        unit.initialize()
        with Ingest(session, beamtime, 2, **addresses(simulator)) as ingest:
            assert unit.wait_for_reader(20.0)
            one_series(simulator, 10)
            assert wait_until(lambda: ingest.has_ended(1), timeout_s=20.0)
            unit.initialize()  # counts its series from 1 again
            one_series(simulator, 4)
            with closing(Device(f"http://127.0.0.1:{simulator.port}")) as device:
                assert device.get("/stream/api/1.6.0/status/dropped")["value"] == 1
        tables = unit._tables
    assert ingest.report is not None
    first, second = names_of(ingest.report)
    assert first.startswith("series_1_")
    assert second.startswith("series_1_")
    truth = truth_of(tmp_path / "truth")
    cut = 10 * len(channels)
    assert received(session, beamtime, first) == sent(truth[:cut])
    assert received(session, beamtime, second) == sent(truth[cut:])
    with session.stream(beamtime, "e", first) as stream:
        account = stream.account()
        # the first number and the last are told by the count alone
        known = (account["expected"], account["received"], account["missing"])
        assert known == (10, 7, [[5, 5]])
        assert stream.metadata["device_dropped"] == 3
        for name in ("pixel_mask", "flatfield"):
            for channel in channels:
                kept = stream.attachment(f"{name}_{channel}" if len(channels) > 1 else name)
                assert kept.tolist() == tables[name].tolist()
        counts = stream.attachment("countrate_table").tolist()
        table = tables["countrate_table"]
        assert counts == (table[1] if stream_format == "cbor" else table).tolist()
        if len(channels) > 1:
            assert stream.metadata["channels"] == list(channels)
            assert stream.frame(1).array.shape == (2 * SHAPE[0], SHAPE[1])


@pytest.mark.parametrize("api", ["auto", "1.6.0"])
def test_check_says_what_the_control_unit_is(home_env, beamtime, api):
    simulator = EigerSimulator(frames=0, shape=SHAPE)
    with closing(simulator):
        arguments = [f"--{k.replace('_', '-')}={v}" for k, v in addresses(simulator).items()]
        arguments += ["--beamtime", beamtime, "--detector", "e", "--api", api, "--check"]
        simulator.unit.initialize()
        result = CliRunner().invoke(lichtstrom, ["adapter", "eiger", *arguments])
        assert result.exit_code == 0, result.output
        for fact in ("idle", "E-02-0000", "1.6.0" if api == "1.6.0" else "1.8.0", "enabled"):
            assert fact in result.output
    result = CliRunner().invoke(lichtstrom, ["adapter", "eiger", *arguments])
    assert result.exit_code == 1
    assert "127.0.0.1" in result.output

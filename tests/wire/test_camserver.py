"""camserver's port: replies byte by byte, the stand-in's manners, series told to the adapter."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.detectors.pilatus import camserver
from pipeline.detectors.pilatus.adapter import PilatusAdapter
from pipeline.detectors.pilatus.link import Began, CamserverLink, Conversation, Ended
from pipeline.detectors.pilatus.sim import PilatusSimulator
from pipeline.detectors.pilatus.sim_camserver import CamserverSimulator, first_file
from pipeline.errors import InvalidArgumentError, InvalidFrameError, SourceError
from pipeline.protocols import SeriesBegin, SeriesEnd, SourceFrame

# As drivers of beamlines expect it, with two spaces and a line of its own for two values.
CAMSETUP = """
  Camera definition:
    /home/det/p2_det/config/cam_data/camera.def
  Camera name: PILATUS 300K, S/N 3-0120
  Camera state: exposing
  Target file: /ramdisk/current/raw/t_2_0035.cbf
  Time left: 0.519020
  Last image: /ramdisk/current/raw/t_2_0034.cbf
  Master PID is: 8140
  Controlling PID is: 9512
  Exposure time: 0.019000
  Last completed image:
    /ramdisk/current/raw/t_1_0009.cbf
  Shutter is: closed
"""


def within(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError(f"not within {timeout_s} s")


class Client:
    """A beamline's control program: sends commands, collects replies."""

    def __init__(self, port: int, end: bytes = b"\n") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.end = end
        self.rest = b""

    def reply(self) -> str:
        while b"\x18" not in self.rest:
            data = self.socket.recv(4096)
            assert data, "hung up"
            self.rest += data
        reply, _, self.rest = self.rest.partition(b"\x18")
        return reply.decode()

    def ask(self, command: str) -> str:
        self.socket.sendall(command.encode() + self.end)
        return self.reply()

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[CamserverSimulator]:
    simulator = PilatusSimulator(tmp_path / "images", frames=5, rate_hz=500, shape=(20, 30))
    simulator.directory.mkdir()
    with CamserverSimulator(simulator) as server:
        yield server


@pytest.fixture
def client(device: CamserverSimulator) -> Iterator[Client]:
    made = Client(device.port)
    within(lambda: device._commander)
    yield made
    made.close()


# -- replies --------------------------------------------------------------------------------------


def test_replies_are_cut_at_0x18_however_they_arrive() -> None:
    whole = b"15 OK\x1810 OK /ramdisk/\x187 ERR /a/b_00001.tif\x18"
    for size in (1, 3, 100):
        replies = camserver.Replies()
        found = [
            (reply.code, reply.ok, reply.text)
            for at in range(0, len(whole), size)
            for reply in replies.feed(whole[at : at + size])
        ]
        assert found == [(15, True, ""), (10, True, "/ramdisk/"), (7, False, "/a/b_00001.tif")]


def test_a_reply_may_have_several_lines() -> None:
    (reply,) = camserver.Replies().feed(b"2 OK " + CAMSETUP.encode() + b"\x18")
    assert reply.code == 2
    assert camserver.parse_setup(reply.text).completed == "/ramdisk/current/raw/t_1_0009.cbf"


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-OpenSSH_9\x18", b"OK 15\x18", b"99999999 OK\x18", b"x" * 70_000]
)
def test_something_else_on_that_port_is_told(data: bytes) -> None:
    with pytest.raises(InvalidFrameError):
        camserver.Replies().feed(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_replies_or_an_error(data: bytes) -> None:
    try:
        for reply in camserver.Replies().feed(data):
            camserver.parse_setup(reply.text)
            camserver.parse_channels(reply.text)
            camserver.number_in(reply.text)
            camserver.split_target(reply.text)
    except InvalidFrameError:
        pass


def test_camsetup_says_state_target_last_image_and_who_commands() -> None:
    setup = camserver.parse_setup(CAMSETUP)
    assert setup == camserver.Setup(
        name="PILATUS 300K, S/N 3-0120",
        state="exposing",
        target="/ramdisk/current/raw/t_2_0035.cbf",
        completed="/ramdisk/current/raw/t_1_0009.cbf",
        controller=9512,
        exposure_s=0.019,
    )
    assert not setup.is_idle
    assert camserver.parse_setup("").is_idle


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/r/t.tif", ("t", 0, ".tif")),
        ("t_.tif", ("t", 0, ".tif")),
        ("t_014.tif", ("t", 14, ".tif")),
        ("t_2_0035.tif", ("t_2", 35, ".tif")),
        ("t_014B.tif", ("t_014B", 0, ".tif")),
        ("t_12.cbf", ("t_12", 0, ".cbf")),
    ],
)
def test_names_of_series_count_as_camserver_does(name: str, expected: tuple[str, int, str]) -> None:
    assert camserver.split_target(name) == expected
    prefix, start, _, ending = first_file(name.rpartition("/")[2])
    assert (prefix, start, f".{ending}") == expected


def test_temperatures_and_humidities_are_read() -> None:
    text = (
        "Channel 0: Temperature = 31.4C, Rel. Humidity = 5.2%;\n"
        "Channel 1: Temperature = -2C, Rel. Humidity = 3%"
    )
    assert camserver.parse_channels(text) == ([31.4, -2.0], [5.2, 3.0])


# -- the stand-in ---------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\n", b"\0", b"\x18"])
def test_commands_end_with_newline_nul_or_0x18_and_may_be_shortened(
    end: bytes, device: CamserverSimulator
) -> None:
    client = Client(device.port, end)
    assert client.ask("EXPT 0.5") == "15 OK Exposure time set to: 0.500000 sec."
    assert client.ask("expp 0.6") == "15 OK Exposure period set to: 0.600000 sec"
    assert client.ask("ni 7") == "15 OK N images set to: 7"
    assert client.ask("ni 0").startswith("15 ERR")
    assert client.ask("Exp 1") == "1 ERR *** Unrecognized command: Exp"
    assert client.ask("nonsense").startswith("1 ERR")
    assert client.ask("imgpath").startswith("10 OK /")
    assert client.ask("setthr lowG 6000").startswith("15 OK")
    client.close()


def test_only_the_first_client_commands(device: CamserverSimulator, client: Client) -> None:
    assert client.ask("ni 3") == "15 OK N images set to: 3"
    second = Client(device.port)
    assert second.ask("ni 4") == "1 ERR access denied"
    assert second.ask("exposure a.cbf") == "1 ERR access denied"
    assert second.ask("ni") == "15 OK N images set to: 3"
    assert client.ask("ni 9") == "15 OK N images set to: 9"
    # a process of its own: it has the values of the moment when it was connected
    assert second.ask("ni") == "15 OK N images set to: 3"
    second.close()


def test_a_series_ends_with_the_path_of_its_last_image(
    device: CamserverSimulator, client: Client
) -> None:
    client.ask("ni 4")
    client.ask("expp 0.002")
    client.ask("setackint 2")
    client.ask("mxsettings Wavelength 1.5 Chi 90")
    assert client.ask("Exposure t_014.cbf").startswith("15 OK")
    assert client.reply().endswith("/t_015.cbf")
    assert client.reply() == f"7 OK {device.device.directory}/t_017.cbf"
    files = sorted(device.device.directory.iterdir())
    assert [path.name for path in files] == [f"t_0{n}.cbf" for n in (14, 15, 16, 17)]
    assert b"# Wavelength 1.5" in files[0].read_bytes()


def test_a_killed_pilatus3_says_err_and_then_ok(device: CamserverSimulator, client: Client) -> None:
    client.ask("ni 1000")
    client.ask("expp 0.01")
    client.ask("exposure k.cbf")
    within(lambda: device.frames >= 2)
    assert client.ask("k") == "13 ERR kill"
    assert client.reply().startswith("7 ERR /")
    assert client.reply().startswith("7 OK /")


# -- looking at it --------------------------------------------------------------------------------


def test_a_look_never_keeps_the_control_token(device: CamserverSimulator) -> None:
    link = CamserverLink(f"127.0.0.1:{device.port}")
    for _ in range(3):
        link.look()
        within(lambda: device._commander is None)
    client = Client(device.port)
    assert client.ask("ni 3").startswith("15 OK")
    client.close()


def test_a_series_is_seen_to_begin_and_to_end(device: CamserverSimulator, client: Client) -> None:
    link = CamserverLink(f"127.0.0.1:{device.port}")
    link.look()
    client.ask("ni 50")
    client.ask("expp 0.01")
    client.ask("exposure t_100.cbf")
    within(lambda: (link.look(), link._current)[1])
    (began,) = link.take()
    assert isinstance(began, Began)
    assert (began.images, began.period_s, began.late) == (50, 0.01, False)
    assert began.target.endswith("/t_100.cbf")
    assert began.metadata["temperatures_C"] == [31.4, 25.1]
    assert client.reply().startswith("7 OK")
    within(lambda: not device._exposing)
    link.look()
    assert link.take() == [Ended(last=f"{device.device.directory}/t_149.cbf")]


def test_a_series_between_two_looks_is_seen_when_it_is_over(
    device: CamserverSimulator, client: Client
) -> None:
    link = CamserverLink(f"127.0.0.1:{device.port}")
    link.look()
    client.ask("exposure q.cbf")
    client.reply()
    within(lambda: not device._exposing)
    link.look()
    began, ended = link.take()
    assert isinstance(began, Began)
    assert ended == Ended(last=f"{device.device.directory}/q_00004.cbf")


def test_a_killed_series_is_told_as_such(device: CamserverSimulator, client: Client) -> None:
    link = CamserverLink(f"127.0.0.1:{device.port}")
    link.look()
    client.ask("ni 1000")
    client.ask("expp 0.01")
    client.ask("exposure k.cbf")
    within(lambda: (link.look(), link._current)[1])
    client.ask("k")
    within(lambda: not device._exposing)
    link.look()
    _, ended = link.take()
    assert isinstance(ended, Ended)
    assert ended.killed


def test_a_full_ramdisk_is_warned_of_once(
    device: CamserverSimulator, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    link = CamserverLink(f"127.0.0.1:{device.port}", low_gb=1e9)
    with caplog.at_level(logging.WARNING):
        link.look()
        link.look()
    assert sum("nearly full" in record.message for record in caplog.records) == 1


def test_no_camserver_is_a_source_error_that_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(SourceError, match="is it running"):
        CamserverLink(f"127.0.0.1:{port}").check()


def test_garbage_on_the_port_is_an_error_and_no_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            connection.recv(100)
            connection.sendall(b"HTTP/1.0 400\r\n\r\n\x18")
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(InvalidFrameError), Conversation(server.getsockname()[:2]) as talk:
            talk.ask("CamSetup", 2)
        thread.join(10)


@pytest.mark.parametrize("address", ["", ":5", "h:", "h:0", "h:99999", "h:x"])
def test_an_address_that_cannot_be_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgumentError):
        CamserverLink(address)


# -- the adapter ----------------------------------------------------------------------------------


class Run:
    """An adapter's events, taken in a thread."""

    def __init__(self, directory: Path, port: int, **settings: Any) -> None:
        self.adapter = PilatusAdapter(
            watch=directory, timezone="UTC", grace_s=0.2, camserver=f"127.0.0.1:{port}", **settings
        )
        link = self.adapter._link
        assert link is not None
        link._every_s = link._pause_s = 0.02
        self.link = link
        self.events: list[Any] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._take)
        self.thread.start()

    def _take(self) -> None:
        for event in self.adapter.events(poll_s=0.02):
            if event is not None:
                self.events.append(event)
            if self.stop.is_set():
                return

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def close(self) -> None:
        self.stop.set()
        self.thread.join(10)
        self.adapter.close()


@pytest.fixture
def run(device: CamserverSimulator, client: Client) -> Iterator[Run]:
    made = Run(device.device.directory, device.port)
    within(lambda: made.link._before)
    yield made
    made.close()


def test_a_stream_ends_when_the_last_file_is_there_without_any_silence(
    run: Run, client: Client
) -> None:
    client.ask("ni 60")
    client.ask("expp 0.01")
    client.ask("exposure t_100.cbf")
    (end,) = within(lambda: run.of(SeriesEnd))
    assert (end.state, end.expected) == ("complete", 60)
    assert [frame.header.number for frame in run.of(SourceFrame)] == list(range(100, 160))
    begin = run.of(SeriesBegin)[-1]  # the first file may come before camserver is asked
    assert begin.rate_hz == pytest.approx(100)
    assert begin.run == run.of(SeriesBegin)[0].run
    assert begin.metadata["images_announced"] == 60
    assert begin.metadata["wavelength_A"] == 0.99987
    assert begin.metadata["units"]["temperatures_C"] == "degC"


def test_two_series_of_one_name_are_two(run: Run, client: Client) -> None:
    client.ask("ni 30")
    client.ask("expp 0.01")  # longer than the time between two looks
    for count in (1, 2):
        client.ask("exposure same.cbf")
        client.reply()
        within(lambda count=count: len(run.of(SeriesEnd)) == count)
    assert [end.expected for end in run.of(SeriesEnd)] == [30, 30]


def test_a_killed_series_is_aborted_with_what_there_is(
    run: Run, client: Client, device: CamserverSimulator
) -> None:
    client.ask("ni 1000")
    client.ask("expp 0.01")
    client.ask("exposure k.cbf")
    within(lambda: device.frames >= 3 and run.link._current)
    client.ask("k")
    (end,) = within(lambda: run.of(SeriesEnd))
    assert end.state == "aborted"
    assert end.expected == len(run.of(SourceFrame)) == device.frames


def test_missing_files_are_counted_in_expected(
    client: Client, device: CamserverSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.detectors.pilatus.adapter._MISSING_S", 0.2)
    # those that end in 5 are not seen, as if they had been lost
    run = Run(device.device.directory, device.port, patterns="*[0-46-9].cbf")
    try:
        within(lambda: run.link._before)
        client.ask("ni 30")
        client.ask("exposure l_008.cbf")
        (end,) = within(lambda: run.of(SeriesEnd))
        assert (end.state, end.expected, len(run.of(SourceFrame))) == ("complete", 30, 27)
    finally:
        run.close()


def test_an_old_file_of_the_same_name_is_not_of_the_series(
    run: Run, client: Client, device: CamserverSimulator
) -> None:
    client.ask("ni 100")
    client.ask("expp 0.01")
    client.ask("exposure t.cbf")
    within(lambda: run.adapter._acquisitions and run.of(SourceFrame))
    directory = device.device.directory
    old = (directory / "t_00000.cbf").read_bytes()
    hidden = directory / ".t"
    hidden.write_bytes(old)
    os.utime(hidden, (1e9, 1e9))
    hidden.rename(directory / "t_00090.cbf")
    within(lambda: any(acquisition.stale for acquisition in run.adapter._acquisitions))
    (end,) = within(lambda: run.of(SeriesEnd))
    numbers = [frame.header.number for frame in run.of(SourceFrame)]
    assert (end.expected, sorted(numbers)) == (100, list(range(100)))


def test_without_camserver_silence_ends_the_series(device: CamserverSimulator) -> None:
    made = Run(device.device.directory, 1, idle_end_s=0.3)
    try:
        device.expose("w.cbf")
        (end,) = within(lambda: made.of(SeriesEnd))
        assert (end.state, end.expected) == ("complete", None)
        assert made.link.is_up is False
    finally:
        made.close()


def test_check_tells_of_camserver(device: CamserverSimulator, client: Client) -> None:
    adapter = PilatusAdapter(watch=device.device.directory, camserver=f"127.0.0.1:{device.port}")
    facts = adapter.check()
    adapter.close()
    assert facts["state"] == "idle"
    assert facts["control"] == "another client's"


def test_the_simulate_command_serves_clients_until_it_is_stopped(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    truth = tmp_path / "truth"
    simulator = PilatusSimulator(
        tmp_path / "i", frames=0, rate_hz=100, shape=(9, 9), camserver_port=port, truth=truth
    )
    stop = threading.Event()
    made: list[int] = []
    thread = threading.Thread(target=lambda: made.append(simulator.run(stop)))
    thread.start()

    def connected() -> Client | None:
        try:
            return Client(port)
        except OSError:
            return None

    client = within(connected)
    client.ask("expp 0.001")
    for name in ("a.cbf", "b_005.cbf"):
        client.ask("ni 3")
        client.ask(f"exposure {name}")
        client.reply()
        within(lambda: client.ask("camsetup").count("idle"))
    client.close()
    stop.set()
    thread.join(20)
    assert made == [6]
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    assert [(line["series"], line["number"]) for line in lines] == [
        *(("a", n) for n in range(3)),
        *(("b", n) for n in (5, 6, 7)),
    ]

"""A stand-in for camserver's port: answers commands, and starts series of the file simulator.

Written from the vendor's manuals and the source that PSI published; shares no code with the reader.
"""

from __future__ import annotations

import math
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.detectors.pilatus.sim import PilatusSimulator

_END = b"\x18"
_MAX_COMMAND = 1 << 14
# command in camserver's spelling: code of its reply, whether only the commander may give it
_COMMANDS = {
    "CamCmd": (15, True),
    "CamSetup": (2, False),
    "DebTime": (15, True),
    "Delay": (15, True),
    "Df": (5, False),
    "DiscardMultiIm": (15, True),
    "ExpEnd": (6, True),
    "ExpPeriod": (15, True),
    "ExpTime": (15, True),
    "Exposure": (15, True),
    "ExtEnable": (15, True),
    "ExtMtrigger": (15, True),
    "ExtTrigger": (15, True),
    "GapFill": (15, True),
    "HeaderString": (15, True),
    "ImgPath": (10, True),
    "K": (13, True),
    "LdBadPixMap": (15, True),
    "LdFlatField": (15, True),
    "MXsettings": (15, True),
    "NExpFrame": (15, True),
    "NImages": (15, True),
    "ResetCam": (15, True),
    "SetAckInt": (15, True),
    "SetEnergy": (15, True),
    "SetThreshold": (15, True),
    "ShowPID": (16, False),
    "Tau": (15, True),
    "Telemetry": (18, False),
    "THread": (215, False),
    "Version": (24, False),
}
_STARTS = ("Exposure", "ExtTrigger", "ExtMtrigger", "ExtEnable")
_MAX_IMAGES = 65535


class _Client:
    """One connection; camserver gives each a process, with the values of that moment."""

    def __init__(self, connection: socket.socket, pid: int, settings: dict[str, str]) -> None:
        self.connection = connection
        self.pid = pid
        self.settings = settings
        self._lock = threading.Lock()

    def send(self, code: int, text: str, *, ok: bool = True) -> None:
        reply = f"{code} {'OK' if ok else 'ERR'} {text}".rstrip(" ").encode("latin-1", "replace")
        try:
            with self._lock:
                self.connection.sendall(reply + _END)
        except OSError:
            pass  # gone; its thread sees that, too


class CamserverSimulator:
    """Listens as camserver does and writes files when told to.

    The first client commands; later ones read, until it leaves and somebody connects anew.  A
    context manager: listens from ``__enter__`` to ``__exit__``.

    Parameters
    ----------
    device:
        Gives model, format, directory and pictures of all series.
    port:
        TCP port; 0 takes a free one, see ``port`` after entering.
    pilatus3:
        Answer a kill as a Pilatus3 does: ``7 ERR`` and then ``7 OK``.
    on_frame:
        Called with each number when its file is in place.
    """

    def __init__(
        self,
        device: PilatusSimulator,
        *,
        port: int = 0,
        pilatus3: bool = True,
        on_frame: Callable[[int], None] | None = None,
    ) -> None:
        self.device = device
        self.port = port
        self.frames = 0
        self._pilatus3 = pilatus3
        self._on_frame = on_frame
        period_s = 1 / device.rate_hz if device.rate_hz else 0.01
        #: As the process that commands knows them; shared with those that connect later.
        self.settings = {
            "ExpTime": f"{max(period_s - 0.00095, period_s / 2):.6f}",
            "ExpPeriod": f"{period_s:.6f}",
            "NImages": str(max(1, device.frames)),
            "SetAckInt": "0",
            "ImgPath": f"{device.directory}/",
        }
        self._target = self._completed = ""
        self._exposing = False
        self._clients: list[_Client] = []
        self._commander: _Client | None = None
        self._pids = os.getpid()
        self._lock = threading.Lock()
        self._kill = threading.Event()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._server: socket.socket | None = None

    def __enter__(self) -> CamserverSimulator:
        """Listen."""
        self.device.prepare()
        self._server = socket.create_server(("127.0.0.1", self.port))
        self._server.settimeout(0.1)
        self.port = self._server.getsockname()[1]
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the series, hang up, and wait for all threads."""
        self._closed.set()
        self._kill.set()
        for client in list(self._clients):
            self._hang_up(client)
        for thread in list(self._threads):
            thread.join(10)
        if self._server is not None:
            self._server.close()

    def disconnect(self) -> None:
        """Hang up on every client, as a restart of camserver does."""
        for client in list(self._clients):
            self._hang_up(client)

    def expose(self, name: str, stop: threading.Event | None = None) -> None:
        """Make a series as if typed in camserver's own window; returns when it is over."""
        if stop is not None:
            self._kill = stop
        self._expose(name, None)

    # -- connections ----------------------------------------------------------------------------

    def _spawn(self, work: Callable[[], None]) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=work, name="camserver simulator", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed.is_set() and self._server is not None:
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            connection.settimeout(None)
            with self._lock:
                self._pids += 1
                client = _Client(connection, self._pids, dict(self.settings))
                self._clients.append(client)
                if self._commander is None:
                    self._commander = client
                    client.settings = self.settings
            self._spawn(lambda client=client: self._serve(client))  # type: ignore[misc]  # bound now

    def _serve(self, client: _Client) -> None:
        rest = b""
        while True:
            try:
                data = client.connection.recv(4096)
            except OSError:
                data = b""
            if not data or len(rest) > _MAX_COMMAND:
                break
            # newline, NUL and 0x18 all end a command
            *lines, rest = (rest + data).replace(b"\0", b"\n").replace(_END, b"\n").split(b"\n")
            for line in lines:
                if line.strip():
                    self._command(client, line.decode("latin-1").strip())
        with self._lock:
            if client in self._clients:
                self._clients.remove(client)
            if self._commander is client:
                self._commander = None  # the next one to connect gets control
        client.connection.close()

    @staticmethod
    def _hang_up(client: _Client) -> None:
        try:
            client.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            client.connection.close()

    # -- commands -------------------------------------------------------------------------------

    def _command(self, client: _Client, line: str) -> None:
        word, _, argument = line.replace("=", " ").partition(" ")
        argument = argument.strip()
        found = [name for name in _COMMANDS if name.lower().startswith(word.lower())]
        exact = [name for name in found if name.lower() == word.lower()]
        if len(exact or found) != 1:
            client.send(1, f"*** Unrecognized command: {word}", ok=False)
            return
        name = (exact or found)[0]
        code, restricted = _COMMANDS[name]
        asks = not argument and name in client.settings
        if restricted and not asks and client is not self._commander:
            client.send(1, "access denied", ok=False)
        elif name == "CamCmd":
            self._command(client, argument or "?")
        elif name in _STARTS:
            self._start(client, argument)
        elif name in ("K", "ResetCam"):
            client.send(13, "kill", ok=False)
            self._kill.set()
        elif name == "ImgPath" and argument:
            self._set_path(client, argument)
        elif not restricted or asks:
            client.send(code, self._answer(client, name))
        else:
            self._set(client, name, code, argument)

    def _set(self, client: _Client, name: str, code: int, argument: str) -> None:
        if name in ("ExpTime", "ExpPeriod", "NImages", "SetAckInt"):
            try:
                value = float(argument)
            except ValueError:
                value = math.nan
            whole = name in ("NImages", "SetAckInt")
            low, high = {"NImages": (1, _MAX_IMAGES), "SetAckInt": (0, _MAX_IMAGES)}.get(
                name, (1e-7, 1e6)
            )
            if not low <= value <= high:
                client.send(code, f"Illegal value for {name}: {argument}", ok=False)
                return
            self.settings[name] = str(int(value)) if whole else f"{value:.6f}"
            client.send(code, self._answer(client, name))
            return
        if name == "MXsettings":
            words = argument.replace(",", " ").split()
            self.device.header_settings |= dict(zip(words[::2], words[1::2], strict=False))
        client.send(code, f"{name} {argument}".strip())

    def _set_path(self, client: _Client, argument: str) -> None:
        path = Path(self.settings["ImgPath"]) / argument
        root = self.device.directory.resolve()
        if not path.resolve().is_relative_to(root):
            client.send(10, "*** Write permission denied", ok=False)  # the simulator's own rule
            return
        path.mkdir(parents=True, exist_ok=True)
        self.settings["ImgPath"] = f"{path}/"
        client.send(10, self.settings["ImgPath"])

    def _answer(self, client: _Client, name: str) -> str:
        values = client.settings
        if name == "CamSetup":
            return self._setup()
        if name == "Df":
            path = Path(self.settings["ImgPath"])
            return str(shutil.disk_usage(path if path.is_dir() else "/").free // 1024)
        return {
            "ShowPID": f"PID = {client.pid}",
            "Version": "Code release: tvx-8.2 (simulated)",
            "THread": (
                "Channel 0: Temperature = 31.4C, Rel. Humidity = 5.2%;\n"
                "Channel 1: Temperature = 25.1C, Rel. Humidity = 3.1%"
            ),
            "Telemetry": "=== Telemetry at {} ===\nImage format: {}(w) x {}(h) pixels".format(
                time.strftime("%Y-%m-%dT%H:%M:%S"), *reversed(self.device.shape)
            ),
            "ExpTime": f"Exposure time set to: {values['ExpTime']} sec.",
            "ExpPeriod": f"Exposure period set to: {values['ExpPeriod']} sec",
            "NImages": f"N images set to: {values['NImages']}",
            "SetAckInt": f"Acknowledge interval is {values['SetAckInt']}",
            "ImgPath": values["ImgPath"],
        }[name]

    def _setup(self) -> str:
        controller = self._commander.pid if self._commander else os.getpid()
        return (
            "\n  Camera definition:\n    /home/det/p2_det/config/cam_data/camera.def\n"
            f"  Camera name: PILATUS3 {self.device.model}, S/N 00-0000\n"
            f"  Camera state: {'exposing' if self._exposing else 'idle'}\n"
            f"  Target file: {self._target}\n  Time left: 0.000000\n"
            f"  Last image: {self._completed}\n  Master PID is: {os.getpid()}\n"
            f"  Controlling PID is: {controller}\n  Exposure time: {self.settings['ExpTime']}\n"
            f"  Last completed image:\n    {self._completed}\n  Shutter is: closed\n"
        )

    # -- series ---------------------------------------------------------------------------------

    def _start(self, client: _Client, name: str) -> None:
        if self._exposing or not name or "/" in name:
            client.send(15, "cannot start an exposure", ok=False)
            return
        self._exposing = True  # before the answer: whoever asks next sees it
        self._target = self.settings["ImgPath"] + name
        client.send(15, f" Starting {self.settings['ExpTime']} second background")
        self._spawn(lambda: self._expose(name, client))

    def _expose(self, name: str, client: _Client | None) -> None:
        if client is not None:
            self._kill.clear()
        images = int(self.settings["NImages"])
        series = self.device.like(
            Path(self.settings["ImgPath"]), name, images, 1 / float(self.settings["ExpPeriod"])
        )
        self._exposing, self._target = True, self.settings["ImgPath"] + name
        every = int(self.settings["SetAckInt"])

        def made(number: int) -> None:
            path = str(series.path(number))
            done = number - series.start_number + 1
            self.frames += 1
            if client is not None and every and done % every == 0 and done < images:
                client.send(7, path)
            last[0] = path
            if self._on_frame is not None:
                self._on_frame(number)

        last = [self._completed]
        count = series.run(self._kill, made)
        # a killed series has no further image, also if the kill came with the last one
        self._completed, self._exposing = last[0], False
        if client is None:
            return
        if count < images and self._pilatus3:
            client.send(7, self._completed, ok=False)
        client.send(7, self._completed)


def first_file(name: str) -> tuple[str, int, int, str]:
    """Return prefix, first number, digits and ending of the files of a series called ``name``.

    Three digits or more behind the last underscore are the first number and its width.
    """
    stem, _, ending = name.rpartition(".")
    prefix, underscore, digits = stem.rpartition("_")
    if underscore and len(digits) >= 3 and digits.isascii() and digits.isdigit():
        return prefix, int(digits), len(digits), ending
    return stem.removesuffix("_"), 0, 5, ending

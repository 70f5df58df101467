"""The REST interface of the simulated control unit (SIMPLON API 1.6.0 and 1.8.0)."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from pipeline.detectors.eiger.sim_unit import RefusedError, Unit

_VERSIONS = ("1.6.0", "1.8.0")
_PATH = re.compile(r"/(?P<module>\w+)/api/(?:(?P<version>[\d.]+)/)?(?P<rest>.*)")
_MAX_BODY = 1 << 20


class Server:
    """Serves the unit on loopback while the block runs."""

    def __init__(self, unit: Unit, port: int) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _handler(unit))
        self._http.daemon_threads = True
        self.port = int(self._http.server_address[1])
        self._thread = threading.Thread(target=self._http.serve_forever, name="simplon")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _handler(unit: Unit) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = _PATH.fullmatch(self.path.partition("?")[0])
            if found is None:
                self._answer(404, None)
                return
            if found["rest"].strip("/") == "version":
                self._answer(200, {"value": "1.8.0", "value_type": "string"})
                return
            value = _read(unit, found["module"], found["rest"])
            if found["version"] not in _VERSIONS or value is None:
                self._answer(404, None)
                return
            self._answer(200, {"value": value, "value_type": _type(value), "access_mode": "rw"})

        def do_PUT(self) -> None:
            body = self.rfile.read(min(_MAX_BODY, int(self.headers.get("Content-Length") or 0)))
            found = _PATH.fullmatch(self.path)
            if found is None or found["version"] not in _VERSIONS:
                self._answer(404, None)
                return
            try:
                given = json.loads(body) if body.strip() else {}
                self._answer(200, _write(unit, found["module"], found["rest"], given))
            except RefusedError as error:
                self._answer(400, {"error": str(error)})
            except (KeyError, ValueError, TypeError):
                self._answer(404, None)

        def _answer(self, status: int, value: Any) -> None:
            text = b"" if value is None else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    return Handler


def _read(unit: Unit, module: str, path: str) -> Any:
    """Return a parameter, None if there is no such."""
    before_initialize = {("detector", "status/state"): unit.state}
    with unit.lock:
        if unit.state == "na":
            return before_initialize.get((module, path))
        match module, path.split("/"):
            case "detector", ["config", key]:
                return unit.config.get(key)
            case "stream", ["config", key]:
                return unit.stream.get(key)
        return {
            **before_initialize,
            ("stream", "status/state"): "ready",
            ("stream", "status/dropped"): unit.dropped,
            ("filewriter", "config/mode"): "disabled",
            ("filewriter", "status/state"): "disabled",
            ("filewriter", "files"): [],
            ("monitor", "config/mode"): "disabled",
            ("system", "status/state"): "ready",
        }.get((module, path))


def _write(unit: Unit, module: str, path: str, given: Any) -> Any:
    """Set a parameter, or do a command; return what the control unit answers."""
    kind, _, name = path.partition("/")
    if kind == "command":
        return _command(unit, module, name)
    with unit.lock:
        values = {"detector": unit.config, "stream": unit.stream}[module]
        if kind != "config" or name not in values:
            raise KeyError(name)
        values[name] = type(values[name])(given["value"])
        return [name, *(["count_time"] if name == "frame_time" else [])]


def _command(unit: Unit, module: str, name: str) -> Any:
    if (module, name) == ("detector", "initialize"):
        unit.initialize()
        return None
    if module != "detector" or name not in ("arm", "trigger", "disarm", "cancel", "abort"):
        raise KeyError(name)
    if name == "trigger":
        unit.trigger()  # answers when the images are made
        return None
    return {"sequence id": getattr(unit, name)()}


def _type(value: Any) -> str:
    names = {bool: "bool", int: "uint", float: "float", str: "string"}
    return names.get(type(value), "list")

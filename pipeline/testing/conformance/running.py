"""The adapter at work: in a thread, or in a process that can be killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pipeline.config import Settings
from pipeline.ingest import run
from pipeline.ingest.report import IngestReport
from pipeline.session import connect

#: How long an adapter may take to stop, seconds.
_STOP_S = 40.0


def make_adapter(name: str, settings: Mapping[str, Any]) -> Any:
    """Return the adapter of an entry point; LookupError if there is none."""
    found = list(entry_points(group="lichtstrom.adapters", name=name))
    if not found:
        raise LookupError(f"no entry point {name!r} in lichtstrom.adapters: is it installed?")
    return found[0].load()(**settings)


class ThreadRun:
    """``pipeline.ingest.run`` in a thread of this process."""

    def __init__(
        self,
        adapter: str,
        settings: Mapping[str, Any],
        *,
        place: Settings,
        options: Mapping[str, Any],
    ) -> None:
        self.error: BaseException | None = None
        self.report = IngestReport()
        self._stop = threading.Event()
        self._work = (adapter, dict(settings), place, dict(options))
        self._thread = threading.Thread(target=self._run, name="adapter", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        name, settings, place, options = self._work
        try:
            adapter = make_adapter(name, settings)
            try:
                with connect(settings=place) as session:
                    run(session, adapter, stop=self._stop, report=self.report, **options)
            finally:
                adapter.close()
        except BaseException as error:  # noqa: BLE001 -- told to whoever waits for the adapter
            self.error = error

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop it as SIGTERM does; TimeoutError if it does not."""
        self._stop.set()
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            raise TimeoutError(f"the adapter has not stopped within {_STOP_S:g} s")

    def describe(self) -> str:
        """Return what it says of itself."""
        return f"{self.report}; error: {self.error!r}"


class ProcessRun:
    """The same in a process, see :mod:`pipeline.testing.conformance.child`."""

    def __init__(
        self,
        adapter: str,
        settings: Mapping[str, Any],
        *,
        environment: Mapping[str, str],
        options: Mapping[str, Any],
        log: Path,
        jumps_s: Sequence[float] = (),
    ) -> None:
        self.error: BaseException | None = None
        self._log = log
        told = {
            "adapter": adapter,
            "settings": dict(settings),
            "run": dict(options),
            "jumps_s": list(jumps_s),
        }
        command = [sys.executable, "-m", "pipeline.testing.conformance.child", json.dumps(told)]
        with log.open("a") as output:
            self._process = subprocess.Popen(
                command, env=dict(environment), stdout=output, stderr=output
            )

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._process.wait(_STOP_S)

    def jump(self) -> None:
        """Let its wall clock jump."""
        self._process.send_signal(signal.SIGUSR1)

    def stop(self) -> None:
        """Stop it by SIGTERM; TimeoutError if it does not stop."""
        if self.is_alive:
            self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise TimeoutError(f"the adapter has not stopped within {_STOP_S:g} s") from error

    def describe(self) -> str:
        """Return the last of its log."""
        return f"exit status {self._process.poll()}; {self._log.read_text()[-3000:]}"

"""A client of Kafka Connect's REST interface: connectors made, looked at and removed.

https://kafka.apache.org/43/kafka-connect/user-guide/#rest-api
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, Self
from urllib.parse import quote, unquote

import urllib3

from pipeline.connectors.errors import (
    ConnectError,
    ConnectorConfigError,
    ConnectorExistsError,
    ConnectorNotFoundError,
    ConnectUnavailableError,
)
from pipeline.errors import (
    InvalidArgumentError,
    InvalidNameError,
    PluginError,
)

_POLL_S = 0.2
# A task gets 5 s to end (task.shutdown.graceful.timeout.ms), and its consumer leaves then.
_STOP_S = 15.0
# What a worker says (409) of a name that is taken; all other 409 are rebalances that pass.
_TAKEN = "already exists"
# What Jetty 12 refuses in a path, quoted or not (UriCompliance.DEFAULT; a worker of Kafka 4.3.1
# made a connector "a/b" and answered 400 to its removal, 2026-11-23).
_UNUSABLE = re.compile(r"[/\\%;\x00-\x1f\x7f]|^\.*$")
_STRANGER = "what answers there is not Kafka Connect"
#: Task states that do not pass by themselves.
FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """One task of a connector.

    Parameters
    ----------
    number:
        From 0.
    state:
        RUNNING, FAILED, PAUSED, UNASSIGNED, RESTARTING or STOPPED.
    worker:
        Host and port of the worker that has it.
    trace:
        The failure's stack trace; empty if there was none.
    """

    number: int
    state: str
    worker: str
    trace: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorStatus:
    """A connector and its tasks; the fields are those of :class:`TaskStatus`."""

    name: str
    state: str
    worker: str
    trace: str
    tasks: tuple[TaskStatus, ...]

    @property
    def failure(self) -> str:
        """The first lines of the first trace; empty when nothing has failed."""
        traces = [self.trace] if self.state == FAILED else []
        traces += [task.trace for task in self.tasks if task.state == FAILED]
        return first_lines(traces[0]) if traces else ""


class ConnectRest:
    """A worker of a Connect group; any of them answers for all. Thread-safe.

    Parameters
    ----------
    url:
        Of the REST interface, for example ``http://127.0.0.1:8083``, or with
        ``https://user:password@`` where the cluster asks for these (HTTP basic authentication).
    timeout_s:
        Limit of each call, waiting out rebalances included.

    Raises
    ------
    InvalidArgumentError
        For what is no such URL.
    """

    def __init__(self, url: str, *, timeout_s: float = 30.0) -> None:
        parsed = _parsed(url)
        #: Without a password: it is quoted in messages.
        self.url = parsed._replace(auth=None).url.rstrip("/")
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if parsed.auth:
            self._headers |= urllib3.make_headers(basic_auth=unquote(parsed.auth))
        self._timeout_s = timeout_s
        self._pool = urllib3.PoolManager(maxsize=2, retries=False)

    def cluster_id(self) -> str:
        """Return the id of the Kafka cluster that the workers read from and write to."""
        answer = self._call("GET", "/")
        with self._understood():
            return str(answer["kafka_cluster_id"])

    def plugins(self) -> dict[str, str]:
        """Return the classes of the connectors that a worker can run, with sink or source."""
        answer = self._call("GET", "/connector-plugins")
        with self._understood():
            return {plugin["class"]: plugin["type"] for plugin in answer}

    def require_plugin(self, class_name: str) -> None:
        """Raise PluginError unless the worker has a connector of this class."""
        known = self.plugins()
        if class_name not in known:
            raise PluginError(
                f"Kafka Connect at {self.url} has no plugin {class_name}: put its jar into a"
                " folder of the worker's plugin.path and start the worker again (docs/connect.md);"
                f" it has {', '.join(sorted(known)) or 'none'}"
            )

    def refused(self, config: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """Return what the plugin says against these settings, by field; empty when all is well."""
        plugin = quote(config["connector.class"], safe="")
        answer = self._call(
            "PUT", f"/connector-plugins/{plugin}/config/validate", body=dict(config)
        )
        with self._understood():
            values = [entry["value"] for entry in answer["configs"]]
            return {v["name"]: tuple(v["errors"]) for v in values if v["errors"]}

    def create(self, name: str, config: Mapping[str, str]) -> None:
        """Create a connector; it and its tasks start some moments later.

        Raises
        ------
        InvalidNameError
            For a name that the worker would take, but that cannot stand in the path of a request:
            nobody could ever remove the connector.
        PluginError, ConnectorExistsError, ConnectorConfigError, ConnectError
            As the worker says; ConnectUnavailableError if none answers.
        """
        if _UNUSABLE.search(name):
            raise InvalidNameError("connector", name, "must not hold / \\ % ; or be dots alone")
        self.require_plugin(config["connector.class"])
        body = {"name": name, "config": dict(config)}
        status, answer = self._request("POST", "/connectors", body=body)
        if status == 409:
            raise ConnectorExistsError(name, url=self.url)
        if status == 400:
            fields = self.refused({**config, "name": name})
            raise ConnectorConfigError(name, fields or {"connector": (_message(answer),)})
        self._check(status, answer)

    def status(self, name: str) -> ConnectorStatus | None:
        """Return the state of a connector; None if there is none, or not yet."""
        status, answer = self._request("GET", f"/connectors/{quote(name, safe='')}/status")
        if status == 404:
            return None
        self._check(status, answer)
        with self._understood():
            return _status(answer)

    def statuses(self) -> list[ConnectorStatus]:
        """Return the state of all connectors by name; one that has none yet is UNASSIGNED."""
        found = self._call("GET", "/connectors?expand=status")
        with self._understood():
            return [
                _status({"name": name, **found[name].get("status", {})}) for name in sorted(found)
            ]

    def config(self, name: str) -> dict[str, str]:
        """Return the settings of a connector; raises ConnectorNotFoundError."""
        path = f"/connectors/{quote(name, safe='')}/config"
        answer = self._of(name, "GET", path)
        with self._understood():
            return {str(key): str(value) for key, value in answer.items()}

    def remove(self, name: str) -> bool:
        """Remove a connector, and its place in its topics, so that the same name begins anew.

        Returns whether the place could be removed, too: a plugin that is gone, or tasks that do
        not end, are no reason to keep a connector.  Raises ConnectorNotFoundError.
        """
        path = f"/connectors/{quote(name, safe='')}"
        self._of(name, "PUT", f"{path}/stop")
        forgotten = self._forget_offsets(f"{path}/offsets")
        self._of(name, "DELETE", path)
        return forgotten

    def close(self) -> None:
        """Close the connections. May be called twice."""
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- requests ---------------------------------------------------------------------------

    def _forget_offsets(self, path: str) -> bool:
        """Delete the offsets as soon as the tasks have left the group (400 or 500 until then)."""
        deadline = time.monotonic() + min(_STOP_S, self._timeout_s)
        while True:
            status, _ = self._request("DELETE", path)
            if status < 300 or time.monotonic() > deadline:
                return status < 300
            time.sleep(_POLL_S)

    def _of(self, name: str, method: str, path: str) -> Any:
        status, answer = self._request(method, path)
        if status == 404:
            raise ConnectorNotFoundError(name, url=self.url)
        self._check(status, answer)
        return answer

    def _call(self, method: str, path: str, *, body: object = None) -> Any:
        status, answer = self._request(method, path, body=body)
        self._check(status, answer)
        return answer

    def _check(self, status: int, answer: Any) -> None:
        if status >= 300:
            raise ConnectError(f"Kafka Connect at {self.url} says {status}: {_message(answer)}")

    def _request(self, method: str, path: str, *, body: object = None) -> tuple[int, Any]:
        """Return status and JSON of an answer; waits while the group's work is redistributed."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            status, answer = self._once(method, path, body, deadline - time.monotonic())
            passing = status == 503 or (status == 409 and _TAKEN not in _message(answer))
            if not passing:
                return status, answer
            if time.monotonic() + _POLL_S > deadline:
                self._give_up(_message(answer))
            time.sleep(_POLL_S)

    def _once(self, method: str, path: str, body: object, limit_s: float) -> tuple[int, Any]:
        try:
            answer = self._pool.request(
                method,
                self.url + path,
                body=None if body is None else json.dumps(body).encode(),
                headers=self._headers,
                timeout=urllib3.Timeout(max(0.1, limit_s)),
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as error:
            self._give_up(_reason(error), error)
        try:
            return answer.status, json.loads(answer.data) if answer.data else None
        except ValueError as error:
            if answer.status < 300:
                self._give_up(_STRANGER, error)
            return answer.status, answer.data.decode(errors="replace")

    @contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, AttributeError) as error:
            self._give_up(_STRANGER, error)

    def _give_up(self, problem: str, cause: Exception | None = None) -> NoReturn:
        raise ConnectUnavailableError(self.url, problem) from cause


#: Of a trace what only says that there is a cause, and names of classes that say nothing more.
_WRAPPING = "Exiting WorkerSinkTask"
_PLAIN = ("org.apache.kafka.connect.errors.ConnectException", "lichtstrom.connect.")


def first_lines(trace: str, count: int = 3) -> str:
    """Return what a stack trace says: its message and causes, without the places in the code."""
    lines = [line.strip() for line in trace.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("at ", "... "))]
    said = list(dict.fromkeys(_said(line) for line in lines))
    if len(said) > 1 and said[0].startswith(_WRAPPING):
        del said[0]
    return " | ".join(said[:count])


def _said(line: str) -> str:
    kind, separator, text = line.removeprefix("Caused by: ").partition(": ")
    if separator and kind.startswith(_PLAIN):
        return text
    return line.removeprefix("Caused by: ")


def _parsed(url: str) -> urllib3.util.Url:
    try:
        parsed = urllib3.util.parse_url(url)
    except urllib3.exceptions.LocationParseError:
        parsed = urllib3.util.Url()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        # Not the text itself, which may hold a password.
        raise InvalidArgumentError("url", "must be written http://host:port")
    return parsed


def _status(answer: Mapping[str, Any]) -> ConnectorStatus:
    connector = answer.get("connector", {})
    return ConnectorStatus(
        name=answer["name"],
        state=connector.get("state", "UNASSIGNED"),
        worker=connector.get("worker_id", ""),
        trace=connector.get("trace", ""),
        tasks=tuple(
            TaskStatus(
                number=task["id"],
                state=task["state"],
                worker=task.get("worker_id", ""),
                trace=task.get("trace", ""),
            )
            for task in answer.get("tasks", ())
        ),
    )


def _message(answer: Any) -> str:
    if isinstance(answer, dict) and answer.get("message"):
        return str(answer["message"])
    # A page of HTML, from a proxy or the web server itself, as one line.
    return " ".join(str(answer).split())[:300] if answer else "nothing more"


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", None)
    return str(cause or error)

"""The client of Connect's REST interface, against a small server that answers as told."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.connectors.errors import (
    ConnectError,
    ConnectorConfigError,
    ConnectorExistsError,
    ConnectorNotFoundError,
    ConnectTimeoutError,
    ConnectUnavailableError,
)
from pipeline.connectors.rest import ConnectRest, first_lines
from pipeline.connectors.waiting import identity, wait_for_file
from pipeline.errors import (
    InvalidArgumentError,
    InvalidNameError,
    PluginError,
)

CLASS = "org.example.Sink"
CONFIG = {"connector.class": CLASS, "topics": "t"}
#: As a worker words it (Kafka 4.3.1).
REBALANCE = {"error_code": 409, "message": "Cannot complete request because of a conflicting op"}
TRACE = """org.apache.kafka.connect.errors.ConnectException: Exiting WorkerSinkTask
\tat org.apache.kafka.connect.runtime.WorkerSinkTask.deliverMessages(WorkerSinkTask.java:636)
Caused by: java.io.IOException: No space left on device
\tat java.base/java.io.FileOutputStream.write(FileOutputStream.java:1)
\t... 8 more
"""

Answer = tuple[int, Any]


@dataclass
class Worker:
    """Answers by method and path: one after the other, the last one again and again."""

    url: str = ""
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    authorization: str = ""

    def on(self, call: str, *answers: Answer) -> None:
        self.answers[call] = list(answers)

    def called(self, call: str) -> int:
        return sum(made == call for made, _ in self.calls)

    def answer(self, call: str, body: Any) -> Answer:
        self.calls.append((call, body))
        waiting = self.answers.get(call, [(404, {"error_code": 404, "message": "HTTP 404"})])
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]


@pytest.fixture
def worker() -> Iterator[Worker]:
    found = Worker()

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            found.authorization = self.headers.get("Authorization") or ""
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = found.answer(
                f"{self.command} {self.path}", json.loads(body) if body else None
            )
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            data = b"" if content is None else data
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    for method in ("GET", "POST", "PUT", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.handle_any)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    found.on("GET /connector-plugins", (200, [{"class": CLASS, "type": "sink", "version": "1"}]))
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture
def rest(worker: Worker) -> Iterator[ConnectRest]:
    with ConnectRest(worker.url + "/", timeout_s=5.0) as client:
        yield client


def status(state: str = "RUNNING", task: str = "RUNNING", trace: str = "") -> dict[str, Any]:
    return {
        "name": "c",
        "connector": {"state": state, "worker_id": "w:1"},
        "tasks": [{"id": 0, "state": task, "worker_id": "w:1", "trace": trace}],
        "type": "sink",
    }


# -- creating ---------------------------------------------------------------------------------


def test_a_connector_is_created_with_its_name_and_settings(
    worker: Worker, rest: ConnectRest
) -> None:
    worker.on("POST /connectors", (201, {"name": "c"}))
    rest.create("c", CONFIG)
    assert worker.calls[-1] == ("POST /connectors", {"name": "c", "config": CONFIG})


def test_a_rebalance_is_waited_out(worker: Worker, rest: ConnectRest) -> None:
    worker.on("POST /connectors", (409, REBALANCE), (409, REBALANCE), (201, {"name": "c"}))
    rest.create("c", CONFIG)
    assert worker.called("POST /connectors") == 3


def test_a_rebalance_without_end_is_an_error_that_may_pass(worker: Worker) -> None:
    worker.on("POST /connectors", (409, REBALANCE))
    with (
        ConnectRest(worker.url, timeout_s=0.5) as rest,
        pytest.raises(ConnectUnavailableError, match="conflicting op") as caught,
    ):
        rest.create("c", CONFIG)
    assert caught.value.retriable
    assert caught.value.url == worker.url


def test_a_name_that_is_taken_is_told_at_once_and_not_waited_for(
    worker: Worker, rest: ConnectRest
) -> None:
    worker.on("POST /connectors", (409, {"message": "Connector c already exists"}))
    with pytest.raises(ConnectorExistsError, match="connect remove c"):
        rest.create("c", CONFIG)
    assert worker.called("POST /connectors") == 1


def test_a_plugin_that_the_worker_lacks_is_named_with_those_it_has(
    worker: Worker, rest: ConnectRest
) -> None:
    with pytest.raises(PluginError, match=r"no plugin org\.other\.Sink.*org\.example\.Sink"):
        rest.create("c", {"connector.class": "org.other.Sink"})
    assert worker.called("POST /connectors") == 0


def test_refused_settings_are_told_for_each_field(worker: Worker, rest: ConnectRest) -> None:
    worker.on("POST /connectors", (400, {"message": "contains the following 1 error(s)"}))
    values = [
        {"value": {"name": "layout", "errors": ["Invalid value x", "must be nxmx"]}},
        {"value": {"name": "topics", "errors": []}},
    ]
    worker.on(f"PUT /connector-plugins/{CLASS}/config/validate", (200, {"configs": values}))
    with pytest.raises(ConnectorConfigError, match="layout: Invalid value x must be nxmx") as e:
        rest.create("c", CONFIG)
    assert e.value.fields == {"layout": ("Invalid value x", "must be nxmx")}
    assert worker.calls[-1][1] == {**CONFIG, "name": "c"}


def test_a_refusal_of_no_field_keeps_the_workers_words(worker: Worker, rest: ConnectRest) -> None:
    worker.on("POST /connectors", (400, {"message": "Connector name is empty"}))
    worker.on(f"PUT /connector-plugins/{CLASS}/config/validate", (200, {"configs": []}))
    with pytest.raises(ConnectorConfigError, match="Connector name is empty"):
        rest.create("c", CONFIG)


# -- whoever answers --------------------------------------------------------------------------


def test_nobody_at_the_address_is_an_error_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused for sure
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with (
            ConnectRest(url, timeout_s=5.0) as rest,
            pytest.raises(ConnectUnavailableError, match=url),
        ):
            rest.plugins()


def test_a_worker_that_accepts_and_says_nothing_costs_the_limit_and_no_more() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            ConnectRest(url, timeout_s=0.3) as rest,
            pytest.raises(ConnectUnavailableError, match="timed out"),
        ):
            rest.plugins()


@pytest.mark.parametrize("url", ["nonsense", "http://", "ftp://127.0.0.1:1", "http://a:b", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError, match="http://host:port"):
        ConnectRest(url)


def test_a_password_in_the_address_is_sent_and_never_shown(worker: Worker) -> None:
    url = worker.url.replace("http://", "http://me:s%40crt@")
    with ConnectRest(url, timeout_s=5.0) as rest:
        rest.plugins()
        assert worker.authorization == "Basic bWU6c0BjcnQ="  # me:s@crt
        assert rest.url == worker.url
        with pytest.raises(ConnectError) as caught:
            rest.cluster_id()
    assert "crt" not in str(caught.value)


def test_another_web_server_at_the_address_is_recognised(worker: Worker, rest: ConnectRest) -> None:
    worker.on("GET /connector-plugins", (200, b"<html>welcome</html>"))
    with pytest.raises(ConnectUnavailableError, match="not Kafka Connect"):
        rest.plugins()


def test_json_that_is_no_answer_of_connect_is_recognised_too(
    worker: Worker, rest: ConnectRest
) -> None:
    worker.on("GET /connector-plugins", (200, {"another": "service"}))
    worker.on("GET /", (200, []))
    for call in (rest.plugins, rest.cluster_id):
        with pytest.raises(ConnectUnavailableError, match="not Kafka Connect"):
            call()


def test_an_error_of_the_worker_is_told_in_its_words(worker: Worker, rest: ConnectRest) -> None:
    worker.on("GET /connectors?expand=status", (500, {"message": "Request timed out"}))
    with pytest.raises(ConnectError, match="says 500: Request timed out"):
        rest.statuses()
    worker.on("GET /connectors?expand=status", (502, b"<html>proxy</html>"))
    with pytest.raises(ConnectError, match="says 502: <html>proxy"):
        rest.statuses()


# -- looking and removing ---------------------------------------------------------------------


def test_a_failed_task_tells_what_happened_without_places_in_the_code(
    worker: Worker, rest: ConnectRest
) -> None:
    worker.on("GET /connectors/c/status", (200, status(task="FAILED", trace=TRACE)))
    found = rest.status("c")
    assert found is not None
    assert found.failure == "java.io.IOException: No space left on device"
    assert found.tasks[0].worker == "w:1"
    assert first_lines("") == ""


def test_what_a_writer_said_is_told_once() -> None:
    ours = "org.apache.kafka.connect.errors.ConnectException"
    trace = f"""{ours}: Exiting WorkerSinkTask due to unrecoverable exception.
\tat org.apache.kafka.connect.runtime.WorkerSinkTask.deliverMessages(WorkerSinkTask.java:636)
Caused by: {ours}: /out/d_s.h5 exists: choose another directory
Caused by: lichtstrom.connect.hdf5.Failed: /out/d_s.h5 exists: choose another directory
"""
    assert first_lines(trace) == "/out/d_s.h5 exists: choose another directory"
    assert first_lines(trace.splitlines()[0]).startswith("Exiting WorkerSinkTask")


def test_connectors_are_listed_by_name_also_those_without_a_state_yet(
    worker: Worker, rest: ConnectRest
) -> None:
    worker.on("GET /connectors?expand=status", (200, {"d": {}, "c": {"status": status()}}))
    assert [(s.name, s.state, s.failure) for s in rest.statuses()] == [
        ("c", "RUNNING", ""),
        ("d", "UNASSIGNED", ""),
    ]


def test_a_name_is_quoted_in_the_path(worker: Worker, rest: ConnectRest) -> None:
    worker.on("GET /connectors/a%20b%3F%C3%BC/status", (200, status()))
    assert rest.status("a b?ü") is not None


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a%b", "a;b", "", ".", "..", "a\nb"])
def test_a_name_that_could_not_be_asked_for_is_refused(
    worker: Worker, rest: ConnectRest, name: str
) -> None:
    with pytest.raises(InvalidNameError, match="must not hold"):
        rest.create(name, CONFIG)
    assert worker.called("POST /connectors") == 0


def test_removing_stops_forgets_the_place_once_the_tasks_have_ended_and_deletes(
    worker: Worker, rest: ConnectRest
) -> None:
    worker.on("PUT /connectors/c/stop", (202, None))
    not_yet = (400, {"message": "Connectors must be in the STOPPED state"})
    worker.on("DELETE /connectors/c/offsets", not_yet, (500, {}), (200, {"message": "reset"}))
    worker.on("DELETE /connectors/c", (204, None))
    assert rest.remove("c")
    assert [call for call, _ in worker.calls] == [
        "PUT /connectors/c/stop",
        *["DELETE /connectors/c/offsets"] * 3,
        "DELETE /connectors/c",
    ]


def test_a_connector_whose_place_cannot_be_forgotten_is_removed_all_the_same(
    worker: Worker,
) -> None:
    worker.on("PUT /connectors/c/stop", (202, None))
    worker.on("DELETE /connectors/c/offsets", (500, {"message": "plugin is gone"}))
    worker.on("DELETE /connectors/c", (204, None))
    with ConnectRest(worker.url, timeout_s=0.3) as rest:
        assert not rest.remove("c")
    assert worker.called("DELETE /connectors/c") == 1


def test_removing_what_does_not_exist_is_an_error(rest: ConnectRest) -> None:
    with pytest.raises(ConnectorNotFoundError, match="no connector c"):
        rest.remove("c")


# -- waiting ----------------------------------------------------------------------------------


def test_waiting_ends_when_the_file_is_there(
    worker: Worker, rest: ConnectRest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.connectors.waiting._LOOK_S", 0.01)
    path = tmp_path / "file.h5"
    worker.on("GET /connectors/c/status", (404, {}), (200, status()), (200, status()))
    answer = worker.answer

    def answer_and_write(call: str, body: Any) -> Answer:
        if worker.called(call) == 3:
            path.write_bytes(b"")
        return answer(call, body)

    monkeypatch.setattr(worker, "answer", answer_and_write)
    wait_for_file(rest, "c", path, timeout_s=10.0)
    assert worker.called("GET /connectors/c/status") >= 3


def test_the_file_that_is_to_be_replaced_is_not_taken_for_the_new_one(
    worker: Worker, rest: ConnectRest, tmp_path: Path
) -> None:
    path = tmp_path / "file.h5"
    path.write_bytes(b"old")
    worker.on("GET /connectors/c/status", (200, status()))
    with pytest.raises(ConnectTimeoutError, match="connector c goes on") as caught:
        wait_for_file(rest, "c", path, before=identity(path), timeout_s=0.0)
    assert caught.value.path == str(path)
    (tmp_path / "new").write_bytes(b"new")
    before = identity(path)
    (tmp_path / "new").replace(path)
    wait_for_file(rest, "c", path, before=before, timeout_s=0.0)


def test_waiting_ends_with_the_failure_of_a_task(
    worker: Worker, rest: ConnectRest, tmp_path: Path
) -> None:
    worker.on("GET /connectors/c/status", (200, status(task="FAILED", trace=TRACE)))
    with pytest.raises(ConnectError, match=r"connector c failed: .*No space left on device"):
        wait_for_file(rest, "c", tmp_path / "file.h5", timeout_s=10.0)


def test_waiting_ends_when_somebody_removes_the_connector(
    worker: Worker, rest: ConnectRest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.connectors.waiting._LOOK_S", 0.01)
    worker.on("GET /connectors/c/status", (200, status()), (404, {}))
    with pytest.raises(ConnectorNotFoundError):
        wait_for_file(rest, "c", tmp_path / "file.h5", timeout_s=10.0)

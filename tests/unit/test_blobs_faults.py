"""A server on loopback that answers wrongly, late, in part or not at all."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.blobs import links as links_module
from pipeline.blobs import open_store
from pipeline.blobs.links import Link, Links
from pipeline.config import Secret, StoreSettings
from pipeline.errors import (
    BlobNotFoundError,
    PipelineError,
    StoreDeniedError,
    StoreFullError,
    StoreUnavailableError,
)
from pipeline.protocols import BlobStore

SECRET = "topsecret-0123456789"
DATE = "Sun, 22 Nov 2026 03:00:00 GMT"


class Server(ThreadingHTTPServer):
    """``fault`` is "ok", "hang", "reset", "partial", or (status, code)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault: str | tuple[int, str] = "ok"
        self.faults_left: int | None = None
        self.requests = 0
        self.released = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Connections that break are the purpose here."""

    def next_fault(self) -> str | tuple[int, str]:
        self.requests += 1
        if self.faults_left is None:
            return self.fault
        self.faults_left -= 1
        return self.fault if self.faults_left >= 0 else "ok"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        fault = self.server.next_fault()
        if fault == "hang":
            self.server.released.wait(30)
            self.close_connection = True
        elif fault == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
        elif fault == "partial":
            self.reply(206, b"1234", length=8)
            self.close_connection = True
        elif fault == "ok":
            self.reply(206 if self.command == "GET" else 200, b"12345678", length=8)
        else:
            status, code = fault
            body = f"<Error><Code>{code}</Code><Message>m</Message></Error>" if code else ""
            self.reply(status, body.encode(), length=len(body))

    def reply(self, status: int, body: bytes, *, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", "application/xml")
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", DATE)
        if status == 206:
            self.send_header("Content-Range", f"bytes 0-{length - 1}/{length}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def make_server() -> Iterator[Callable[[], Server]]:
    running: list[tuple[Server, threading.Thread]] = []

    def make() -> Server:
        server = Server()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return server

    yield make
    for server, thread in running:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture
def server(make_server: Callable[[], Server]) -> Server:
    return make_server()


def _store(*servers: Server, timeout_s: float = 5.0) -> BlobStore:
    endpoints = tuple(server.endpoint for server in servers)
    return open_store(
        StoreSettings(
            url="s3://",
            endpoints=endpoints,
            access_key="k",
            secret_key=Secret(SECRET),
            timeout_s=timeout_s,
        )
    )


CALLS: dict[str, Callable[[BlobStore], object]] = {
    "put": lambda s: s.put("b/x", [b"12345678"], durability="process"),
    "get": lambda s: s.get("b/x", 0, 8),
    "size": lambda s: s.size("b/x"),
    "list": lambda s: list(s.list("b/")),
    "folders": lambda s: s.folders("b/"),
    "delete": lambda s: s.delete(["b/x"]),
    "create_bucket": lambda s: s.create_bucket("bucket"),
    "buckets": lambda s: s.folders(""),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ((503, "SlowDown"), StoreUnavailableError),
        ((500, "InternalError"), StoreUnavailableError),
        ((507, "InsufficientStorage"), StoreFullError),
        ((403, "SignatureDoesNotMatch"), StoreDeniedError),
        ((401, "AccessDenied"), StoreDeniedError),
        ("reset", StoreUnavailableError),
    ],
    ids=str,
)
def test_an_answer_that_is_none_has_its_own_error_with_the_address_and_no_secret(
    server: Server, call: str, fault: str | tuple[int, str], error: type[PipelineError]
) -> None:
    server.fault = fault
    store = _store(server)
    with pytest.raises(error) as caught:
        CALLS[call](store)
    assert f"127.0.0.1:{server.server_port}" in str(caught.value)
    assert SECRET not in f"{caught.value!r} {caught.value} {caught.value.__cause__}"
    store.close()


@pytest.mark.parametrize("call", CALLS)
def test_nothing_listening_is_unavailable(server: Server, call: str) -> None:
    store = _store(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(StoreUnavailableError, match=r"[Rr]efused|no connection"):
        CALLS[call](store)
    store.close()


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_does_not_answer_is_given_up(server: Server, call: str) -> None:
    server.fault = "hang"
    store = _store(server, timeout_s=0.3)
    with pytest.raises(StoreUnavailableError):
        CALLS[call](store)
    store.close()


@pytest.mark.parametrize("code", ["QuotaExceeded", "XMinioStorageFull"])
def test_a_quota_is_a_full_store_and_is_not_asked_again(server: Server, code: str) -> None:
    server.fault = (403, code)
    store = _store(server)
    with pytest.raises(StoreFullError, match=code):
        CALLS["put"](store)
    assert server.requests == 1
    store.close()


def test_a_wrong_access_key_of_versitygw_is_denied_though_it_says_404(server: Server) -> None:
    server.fault = (404, "XAdminUserNotFound")
    store = _store(server)
    for call in CALLS:
        with pytest.raises(StoreDeniedError):
            CALLS[call](store)
    store.close()


def test_a_web_server_that_is_no_s3_server_is_not_a_missing_object(server: Server) -> None:
    server.fault = (404, "")
    store = _store(server)
    for call in ("put", "get", "size", "list"):
        with pytest.raises(StoreUnavailableError, match="no S3 server"):
            CALLS[call](store)
    store.close()


def test_a_body_cut_short_is_read_again(server: Server) -> None:
    server.fault, server.faults_left = "partial", 1
    store = _store(server)
    assert store.get("b/x", 0, 8) == b"12345678"
    server.faults_left = None
    with pytest.raises(StoreUnavailableError):
        store.get("b/x", 0, 8)
    store.close()


def test_an_object_shorter_than_the_range_is_not_found(server: Server) -> None:
    store = _store(server)
    with pytest.raises(BlobNotFoundError):
        store.get("b/x", 0, 9)
    server.fault = (416, "InvalidRange")
    with pytest.raises(BlobNotFoundError):
        store.get("b/x", 9, 1)
    store.close()


@pytest.mark.parametrize("fault", [(503, "SlowDown"), "reset"], ids=str)
def test_a_store_that_fails_twice_and_recovers_is_not_an_error(
    server: Server, fault: str | tuple[int, str]
) -> None:
    server.fault, server.faults_left = fault, 2
    store = _store(server)
    CALLS["put"](store)
    assert server.requests == 3
    store.close()


def test_operations_spread_over_the_links(make_server: Callable[[], Server]) -> None:
    servers = [make_server() for _ in range(3)]
    store = _store(*servers)
    for _ in range(12):
        CALLS["get"](store)
    assert [server.requests for server in servers] == [4, 4, 4]
    store.close()


@pytest.mark.parametrize("fault", [(503, "SlowDown"), "reset", "hang"], ids=str)
def test_the_loss_of_one_link_is_survived_and_it_is_set_aside(
    make_server: Callable[[], Server], fault: str | tuple[int, str]
) -> None:
    good, bad = make_server(), make_server()
    bad.fault = fault
    store = _store(good, bad, timeout_s=1.0)
    for _ in range(10):
        CALLS["put"](store)
    assert good.requests == 10
    assert bad.requests == 1
    store.close()


def test_only_when_all_links_fail_is_it_an_error(make_server: Callable[[], Server]) -> None:
    servers = [make_server(), make_server()]
    for server in servers:
        server.fault = (503, "SlowDown")
    store = _store(*servers)
    with pytest.raises(StoreUnavailableError, match="503"):
        CALLS["put"](store)
    assert [server.requests for server in servers] == [3, 3]
    store.close()


def test_a_link_that_recovers_is_used_again(
    make_server: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links_module, "SET_ASIDE_S", -1.0)
    good, bad = make_server(), make_server()
    bad.fault, bad.faults_left = (503, "SlowDown"), 1
    store = _store(good, bad)
    for _ in range(10):
        CALLS["put"](store)
    assert bad.requests > 2
    store.close()


class _Clock:
    """Time that passes only in ``sleep``."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.mark.parametrize("count", [1, 2, 3])
def test_links_that_use_up_their_time_stay_within_the_timeout(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    clock = _Clock()
    monkeypatch.setattr(links_module, "time", clock)
    endpoints = tuple(f"http://127.0.0.1:{port}" for port in range(1, count + 1))
    links = Links(StoreSettings(url="s3://", endpoints=endpoints, timeout_s=10.0), store="s3://")
    tried = set()

    def hang(link: Link, budget_s: float) -> None:
        tried.add(link.endpoint)
        clock.sleep(budget_s)
        raise OSError

    with pytest.raises(StoreUnavailableError):
        links.attempt(hang, lambda _, link: StoreUnavailableError("s3://", link.name))
    assert tried == set(endpoints)
    assert clock.now_s <= 111.0


def test_variables_meant_for_other_programs_do_not_interfere(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    store = _store(server)
    assert store.get("b/x", 0, 8) == b"12345678"
    store.close()

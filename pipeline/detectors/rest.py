"""HTTP to a device: short waits, bounded answers, and errors that name the address."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3

from pipeline.errors import InvalidArgumentError, SourceError

#: A device's JSON answers are small; a mask of 16M pixels as base64 is the largest.
MAX_ANSWER_NBYTES = 256 << 20


class NotThereError(SourceError):
    """The device answered 404: no such parameter or file (yet, or any more)."""


class Device:
    """The HTTP server of one device.  Safe for several threads.

    Parameters
    ----------
    endpoint:
        ``http://host:port``, perhaps with a path in front of all others.
    timeout_s:
        How long a connection, and each piece of an answer, may take. A request is not repeated:
        the callers poll.

    Raises
    ------
    InvalidArgumentError
        The endpoint is no HTTP address.
    """

    def __init__(self, endpoint: str, *, timeout_s: float = 5.0) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidArgumentError("endpoint", f"{endpoint!r} is not like http://HOST:PORT")
        self.endpoint = endpoint.rstrip("/")
        self.host = parts.hostname
        self._timeout_s = timeout_s
        self._pool = urllib3.PoolManager(maxsize=4, retries=False)

    def get(self, path: str, /, **query: str) -> Any:
        """Return the JSON answer to a GET.

        Raises NotThereError, or SourceError if the device is away or answers something else.
        """
        return self._json("GET", path, fields=query or None)

    def put(self, path: str, body: Any = None, /, **query: str) -> Any:
        """Return the JSON answer to a PUT with a JSON body (None: no body), None if it is empty."""
        target = f"{path}?{urlencode(query)}" if query else path
        return self._json("PUT", target, **({} if body is None else {"json": body}))

    def delete(self, path: str) -> None:
        """Delete a resource; one that is gone already is no error."""
        try:
            with self._request("DELETE", path):
                pass
        except NotThereError:
            pass

    def size(self, path: str) -> int:
        """Return the length of a resource in bytes, by HEAD."""
        with self._request("HEAD", path) as answer:
            length = answer.headers.get("Content-Length", "")
        if not length.isdigit():
            raise SourceError(f"{self.endpoint}{path}: HEAD tells no length")
        return int(length)

    def download(self, path: str, *, piece_nbytes: int = 1 << 20) -> Iterator[bytes]:
        """Yield a resource in pieces; raises SourceError if it ends before its length."""
        with self._request("GET", path) as answer:
            try:
                yield from answer.stream(piece_nbytes)
            except urllib3.exceptions.HTTPError as error:
                raise SourceError(f"{self.endpoint}{path}: cut short: {error}") from error

    def _json(self, method: str, path: str, **more: Any) -> Any:
        with self._request(method, path, **more) as answer:
            try:
                text = answer.read(MAX_ANSWER_NBYTES + 1)
            except urllib3.exceptions.HTTPError as error:
                raise SourceError(f"{self.endpoint}{path}: cut short: {error}") from error
        if len(text) > MAX_ANSWER_NBYTES:
            raise SourceError(f"{self.endpoint}{path}: more than {MAX_ANSWER_NBYTES} bytes")
        if not text.strip():
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            raise SourceError(f"{self.endpoint}{path}: the answer is no JSON: {error}") from error

    @contextmanager
    def _request(self, method: str, path: str, **more: Any) -> Iterator[urllib3.BaseHTTPResponse]:
        url = self.endpoint + path
        try:
            answer = self._pool.request(
                method,
                url,
                timeout=urllib3.Timeout(self._timeout_s),
                redirect=False,
                preload_content=False,
                **more,
            )
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise SourceError(f"{url}: no answer: {reason}. Is the device on?") from error
        try:
            if answer.status == 404:
                raise NotThereError(f"{url}: not there")
            if answer.status >= 300:
                raise SourceError(f"{url}: HTTP status {answer.status}: {answer.read(200)!r}")
            yield answer
        finally:
            answer.release_conn()

    def close(self) -> None:
        """Close the connections; may be called twice."""
        self._pool.clear()

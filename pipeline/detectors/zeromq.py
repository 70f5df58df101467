"""Messages from a device's ZeroMQ sockets, bounded in number and size.

A PUSH socket shares its messages among all who read: :func:`only_reader` keeps a second adapter on
this machine away.  Between machines the stream's claim does that (``WriterActiveError``).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import zmq
from filelock import FileLock, Timeout

from pipeline.errors import InvalidArgumentError, SourceError

#: A larger message is none of a detector; the connection it comes by is dropped.
MAX_MESSAGE_NBYTES = 1 << 30
#: Smaller parts are copied: cheaper than a reference into the socket's memory.
_COPY_BELOW_NBYTES = 4096


@contextmanager
def only_reader(endpoint: str) -> Iterator[None]:
    """Be the only reader of an endpoint on this machine; the lock goes with the process.

    Raises SourceError when another process (or adapter of this one) reads it.
    """
    name = hashlib.sha256(endpoint.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"lichtstrom-reader-{name}.lock"
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise SourceError(
            f"{endpoint} is read by another adapter on this machine: its messages would be shared"
            " between both, and each series would be incomplete. Stop the other one first"
        ) from None
    except OSError as error:
        raise SourceError(f"{path}: cannot lock: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


class Receiver:
    """Reads messages of several parts from one or more endpoints.  For one thread.

    Parameters
    ----------
    endpoints:
        Like ``tcp://host:9999``; connected at once and again whenever the device comes back.
    kind:
        ``pull`` takes its share of a PUSH socket's messages, ``sub`` gets all of a PUB socket's
        from when the subscription has arrived there.
    queue:
        Messages that may wait here per endpoint; past it PUSH holds back, and PUB drops.
    bind:
        Listen on the endpoints instead of connecting (HiDRA's senders connect to us).

    Raises
    ------
    InvalidArgumentError
        An endpoint is no address.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        kind: Literal["pull", "sub"],
        queue: int = 1000,
        bind: bool = False,
    ) -> None:
        self.endpoints = tuple(endpoints)
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._sockets: list[zmq.Socket[bytes]] = []
        #: How many connections each endpoint has now, by its monitor.
        self._monitors: list[zmq.Socket[bytes]] = []
        self._connections = [0] * len(self.endpoints)
        for endpoint in self.endpoints:
            socket = self._context.socket(zmq.PULL if kind == "pull" else zmq.SUB)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, queue)
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_NBYTES)
            # a device that loses its power sends no goodbye
            socket.setsockopt(zmq.HEARTBEAT_IVL, 0)
            socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
            socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 10)
            socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 5)
            socket.setsockopt(zmq.RECONNECT_IVL, 100)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
            if kind == "sub":
                socket.setsockopt(zmq.SUBSCRIBE, b"")
            self._sockets.append(socket)
            self._monitors.append(
                socket.get_monitor_socket(
                    zmq.EVENT_CONNECTED | zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
                )
            )
            try:
                (socket.bind if bind else socket.connect)(endpoint)
            except zmq.ZMQError as error:
                self.close()
                raise InvalidArgumentError("endpoint", f"{endpoint!r}: {error}") from error
            self._poller.register(socket, zmq.POLLIN)

    def receive(self, timeout_s: float, *, limit: int = 100) -> list[tuple[int, list[memoryview]]]:
        """Return what has come, at most ``limit`` messages, each with the index of its endpoint.

        Waits ``timeout_s`` for the first one; an empty list after that. Large parts are views on
        memory that stays as long as the view is kept.
        """
        messages: list[tuple[int, list[memoryview]]] = []
        ready = dict(self._poller.poll(max(0, round(timeout_s * 1000))))
        indices = [index for index, socket in enumerate(self._sockets) if socket in ready]
        while indices and len(messages) < limit:
            for index in list(indices):
                try:
                    frames = self._sockets[index].recv_multipart(zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    indices.remove(index)
                    continue
                messages.append((index, [_view(frame) for frame in frames]))
        return messages

    def connections(self) -> list[int]:
        """Return per endpoint how many peers are connected now."""
        from zmq.utils.monitor import recv_monitor_message

        for index, monitor in enumerate(self._monitors):
            while monitor.poll(0):
                event = recv_monitor_message(monitor)["event"]
                gone = event == zmq.EVENT_DISCONNECTED
                self._connections[index] += -1 if gone else 1
        return list(self._connections)

    def close(self) -> None:
        """Release the sockets; what waits in them is lost. May be called twice."""
        for socket in self._sockets:
            socket.disable_monitor()
            socket.close(linger=0)
        for monitor in self._monitors:
            monitor.close(linger=0)
        self._sockets.clear()
        self._monitors.clear()
        self._context.destroy(linger=0)


def _view(frame: zmq.Frame) -> memoryview:
    buffer = frame.buffer
    return memoryview(bytes(buffer)) if buffer.nbytes < _COPY_BELOW_NBYTES else buffer

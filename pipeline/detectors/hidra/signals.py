"""Registration at HiDRA's senders: ZeroMQ requests on their signal ports."""

from __future__ import annotations

import logging

import zmq
from zmq.utils.monitor import recv_monitor_message

from pipeline.detectors.hidra import wire
from pipeline.errors import InvalidArgumentError, SourceError

log = logging.getLogger(__name__)


class SignalPort:
    """One sender's signal port; it is asked again whenever it comes back.

    Parameters
    ----------
    endpoint:
        ``tcp://HOST:PORT``.
    appid, target, pattern:
        As for :func:`pipeline.detectors.hidra.wire.make_signal`.
    """

    def __init__(self, endpoint: str, *, appid: str, target: str, pattern: str) -> None:
        self.endpoint = endpoint
        self.is_registered = False
        self._settings = {"appid": appid, "target": target, "pattern": pattern}
        self._target = target
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        for option, value in (
            (zmq.LINGER, 0),
            # a sender that died in between answers nothing: the next request must go all the same
            (zmq.REQ_RELAXED, 1),
            (zmq.REQ_CORRELATE, 1),
            (zmq.MAXMSGSIZE, 1 << 16),
            (zmq.TCP_KEEPALIVE, 1),
            (zmq.TCP_KEEPALIVE_IDLE, 10),
            (zmq.TCP_KEEPALIVE_INTVL, 5),
            (zmq.RECONNECT_IVL, 100),
            (zmq.RECONNECT_IVL_MAX, 2000),
        ):
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise InvalidArgumentError("endpoint", f"{endpoint!r}: {error}") from error

    def tend(self) -> None:
        """Register where the sender has come (back); never waits.

        Raises SourceError when the sender refuses.
        """
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event == zmq.EVENT_DISCONNECTED:
                if self.is_registered:
                    log.warning("HiDRA's sender has gone endpoint=%s", self.endpoint)
                self.is_registered = False
            else:
                self._send(wire.START)
        while self._socket.poll(0):
            wire.check_answer(self._socket.recv_multipart(), wire.START, target=self._target)
            self.is_registered = True
            log.info("registered at HiDRA's sender endpoint=%s", self.endpoint)

    def ask(self, signal: bytes, timeout_s: float) -> list[bytes] | None:
        """Send a signal and return its answer, None after ``timeout_s``."""
        self._send(signal)
        if not self._socket.poll(round(timeout_s * 1000)):
            return None
        return self._socket.recv_multipart()

    def _send(self, signal: bytes) -> None:
        try:
            self._socket.send_multipart(wire.make_signal(signal, **self._settings), zmq.NOBLOCK)
        except zmq.Again:
            log.warning("HiDRA's sender takes no signal endpoint=%s", self.endpoint)

    def check(self, timeout_s: float) -> str:
        """Return the sender's version; SourceError if there is none."""
        answer = self.ask(wire.GET_VERSION, timeout_s)
        if answer is None:
            raise SourceError(
                f"no answer from {self.endpoint} in {timeout_s:g} s. Is HiDRA's datamanager running"
                " there, and its com_port (50000) open?"
            )
        wire.check_answer(answer, wire.GET_VERSION, target=self._target)
        return answer[1][:32].decode("latin-1") if len(answer) > 1 else "unknown"

    def close(self, *, timeout_s: float = 1.0) -> None:
        """Deregister and let go; may be called twice."""
        if self._socket.closed:
            return
        if self.is_registered:
            self.is_registered = False
            self.ask(wire.STOP, timeout_s)
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)
        self._context.destroy(linger=0)

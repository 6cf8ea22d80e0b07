"""Asking the instrument's replay service, one request at a time (protocol.md, 1.3)."""

from __future__ import annotations

import time
from collections import deque

import zmq

from streamer.events import AskReplay
from streamer.exits import Exit
from streamer.inbox import Inbox
from streamer.transport.curve import Curve
from streamer.transport.data_in import peer
from streamer.transport.sockets import Context, connect, new_socket
from streamer.wire import WireError, decode_replay_answer, encode_replay_request
from streamer.wire.items import Arrived, ReplayDone

TIMEOUT_S = 2.0


class ReplaySocket:
    """Puts what an instrument sends again into the inbox, followed by `ReplayDone`.

    Parameters
    ----------
    context : Context
    inbox : Inbox
        A request leaves only while there is room in it.
    curve : Curve, optional
    max_message_bytes : int
    """

    def __init__(
        self, context: Context, inbox: Inbox, curve: Curve | None = None, max_message_bytes: int = 256 << 20
    ) -> None:
        self._context, self._inbox, self._curve = context, inbox, curve
        self._max_bytes = max_message_bytes
        self._waiting: deque[AskReplay] = deque()
        self._asked: AskReplay | None = None
        self._deadline_s = 0.0
        self._endpoint = ""
        self.socket: zmq.Socket[bytes] | None = None

    def ask(self, request: AskReplay) -> None:
        """Queue a request."""
        self._waiting.append(request)

    def work(self, now_s: float) -> None:
        """Give up what took too long, and send the next request; `now_s` is monotonic."""
        if self._asked is not None and now_s >= self._deadline_s:
            self._finish(self._asked, f"no answer from {self._endpoint} in {TIMEOUT_S:g} s")
            self.close()  # so that a late answer cannot be taken for the next one's
        while self._asked is None and self._waiting and self._inbox.roomy:
            self._send(self._waiting.popleft(), now_s)

    def receive(self) -> None:
        """Take an answer that waits."""
        if self.socket is None:
            return
        try:
            frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return
        asked = self._asked
        try:
            answer = decode_replay_answer([f.buffer for f in frames])
        except WireError as error:
            if asked is not None:
                self._finish(asked, f"its answer cannot be read: {error.text}")
            return
        if asked is None or answer.id != asked.id:
            return
        now, host = time.time_ns(), peer(frames[0])
        messages = [Arrived(now, parts, host, replayed=True) for parts in answer.messages]
        self._finish(asked, answer.error, messages)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.socket is not None:
            self.socket.close(linger=0)
        self.socket, self._endpoint = None, ""

    def _send(self, request: AskReplay, now_s: float) -> None:
        try:
            socket = self._connected(request.endpoint)
        except Exit as error:
            self._finish(request, error.text)
            return
        socket.send_multipart(encode_replay_request(request.id, request.series, request.first, request.last))
        self._asked, self._deadline_s = request, now_s + TIMEOUT_S

    def _connected(self, endpoint: str) -> zmq.Socket[bytes]:
        if self.socket is None or endpoint != self._endpoint:
            self.close()
            socket = new_socket(self._context, zmq.DEALER)
            socket.maxmsgsize = self._max_bytes
            connect(socket, endpoint, "replay", self._curve)
            self.socket, self._endpoint = socket, endpoint
        return self.socket

    def _finish(self, request: AskReplay, error: str | None, messages: list[Arrived] | None = None) -> None:
        self._asked = None
        self._inbox.push([*(messages or []), ReplayDone(time.time_ns(), request.id, error)])

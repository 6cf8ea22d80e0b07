"""The controller's side of decisions and requests."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np
import zmq
from numpy.typing import NDArray

from streamer.client_socket import CurveKeys, open_socket
from streamer.wire.control import Control, decode_control, encode_control
from streamer.wire.errors import WireError
from streamer.wire.results import Result

_log = logging.getLogger("scanwise.client")
_HELLO_S: Final = 5.0
_POLL_MS: Final = 100
_DECISIONS: Final = 1000


class RequestRefused(RuntimeError):  # noqa: N818
    """The streamer answered with a nack; the text says why."""


class NoAnswer(TimeoutError):  # noqa: N818
    """Nobody answered in time."""


@dataclass(frozen=True)
class Decision:
    """What the streamer asks an instrument to do (protocol.md, 3).

    Parameters
    ----------
    id, series, action, mode, reason
        As in the protocol; `mode` is ``advise`` or ``enforce``.
    issued_ns, valid_until_ns : int
        Unix nanoseconds of the streamer's clock.
    evidence : map
        The numbers behind it.
    model : int
        Version of the model that made it.
    index : u4[m], optional
        Positions it is about.
    dwell_s : f4[m], optional
        Dwell there.
    message_id
        What the answer echoes.
    """

    id: Any
    series: str
    action: str
    mode: str
    reason: str
    issued_ns: int
    valid_until_ns: int
    evidence: Mapping[str, Any] = field(default_factory=dict)
    model: int = 0
    index: NDArray[np.uint32] | None = None
    dwell_s: NDArray[np.float32] | None = None
    message_id: Any = None

    @property
    def expired(self) -> bool:
        """Whether it is too late for it, by this computer's clock."""
        return time.time_ns() > self.valid_until_ns

    @classmethod
    def from_control(cls, message: Control) -> Self:
        """Read a notification.

        Raises
        ------
        KeyError, TypeError, ValueError
            Where it lacks its id or action, or has wrong times.
        """
        p, arrays = message.params, message.arrays
        return cls(
            id=p["decision"],
            series=str(p.get("series", "")),
            action=str(p["action"]),
            mode=str(p.get("mode", "advise")),
            reason=str(p.get("reason", "")),
            issued_ns=int(p.get("issued_ns", 0)),
            valid_until_ns=int(p.get("valid_until_ns", 0)),
            evidence=p.get("evidence") or {},
            model=int(p.get("model", 0)),
            index=arrays.get("index"),
            dwell_s=arrays.get("dwell_s"),
            message_id=message.id,
        )


class Controller:
    """Hears decisions, answers them, and asks for what the streamer knows.

    It says hello at once on every new connection and every 5 s, in a thread of its own. When nothing is heard
    nothing happens: no exception, the scan goes on as planned. All methods are thread-safe.

    Parameters
    ----------
    url : str
        Control endpoint, ``tcp://127.0.0.1:5557`` by default of the streamer.
    name : str
        What the streamer calls this client in its logs.
    on_decision : callable, optional
        Called with each `Decision` in the client's thread, instead of handing it to `poll`; it must be quick and
        may call `accept` and `refuse`, but no request. If it raises, the decision is refused with the error's text.
    role : {"controller", "viewer"}
        A viewer hears no decisions.
    timeout_s : float
        How long requests wait for their answer.
    curve : CurveKeys, optional

    Raises
    ------
    OSError
        Where the address is wrong.
    """

    def __init__(
        self,
        url: str,
        name: str,
        on_decision: Callable[[Decision], object] | None = None,
        *,
        role: Literal["controller", "viewer"] = "controller",
        timeout_s: float = 5.0,
        curve: CurveKeys | None = None,
    ) -> None:
        # Nothing is queued for a streamer that is not there: it would come late, in a heap.
        self._socket = open_socket(zmq.DEALER, url, bind=False, curve=curve, hwm=1000, immediate=True)
        self._hello = {"role": role, "name": name}
        self._on_decision = on_decision
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._outgoing: queue.SimpleQueue[tuple[float, Control]] = queue.SimpleQueue()
        self._waiting: dict[Any, Future[Control]] = {}
        self._decisions: queue.Queue[Decision] = queue.Queue(_DECISIONS)
        self._stop = threading.Event()
        self._wake_lock = threading.Lock()
        self._wake, self._woken = _pair()
        self.boot: str | None = None
        """The streamer process last heard; None as long as nobody answered."""
        self._last_heard_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="scanwise-controller", daemon=True)
        self._thread.start()

    @property
    def silent_s(self) -> float | None:
        """Seconds since the streamer was last heard; None if never."""
        return None if self._last_heard_s is None else time.monotonic() - self._last_heard_s

    # -- decisions ------------------------------------------------------------------------------------------

    def poll(self, timeout_s: float = 0.0) -> Decision | None:
        """Return the next decision, or None after `timeout_s` seconds; expired ones say so themselves."""
        try:
            if timeout_s <= 0:
                return self._decisions.get_nowait()
            return self._decisions.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def accept(self, decision: Decision) -> None:
        """Tell the streamer that the decision is obeyed."""
        self._send(Control("ack", decision.message_id, "decision", {"decision": decision.id}))

    def refuse(self, decision: Decision, error: str) -> None:
        """Tell the streamer that the decision is not obeyed, and why, in a sentence."""
        params = {"decision": decision.id, "error": error}
        self._send(Control("nack", decision.message_id, "decision", params))

    # -- requests -------------------------------------------------------------------------------------------

    def request(self, val: str, **params: Any) -> Result:
        """Ask anything of the protocol.

        Returns
        -------
        Result
            Topic `val`, the answer's params, its arrays by name.

        Raises
        ------
        RequestRefused
            Where the streamer says no, with its reason.
        NoAnswer
            Where nobody answers in time, or the client was closed.
        """
        request_id = next(self._ids)
        future: Future[Control] = Future()
        self._waiting[request_id] = future
        self._send(Control("cmd", request_id, val, params))
        try:
            answer = future.result(0.0 if self._stop.is_set() else self._timeout_s)
        except TimeoutError as error:
            raise NoAnswer(f"no answer to {val} within {self._timeout_s:g} s") from error
        finally:
            self._waiting.pop(request_id, None)
        if answer.msg == "nack":
            raise RequestRefused(str(answer.params.get("error", "refused without a reason")))
        return Result(val, answer.params, answer.arrays)

    def status(self) -> dict[str, Any]:
        """Return the status: state, books, rate_hz, lag_ms and so on. Raises as `request`."""
        return dict(self.request("status").head)

    def snapshot(self, names: Sequence[str] | None = None) -> Result:
        """Return maps of one model by name (without ``map/``), all by default. Raises as `request`."""
        return self.request("snapshot", **({} if names is None else {"names": list(names)}))

    def basis(self) -> Result:
        """Return arrays mean f4[D], eigenspectra f4[K, D], eigenvalues f4[m]. Raises as `request`."""
        return self.request("basis")

    def spectrum(self, index: int) -> Result:
        """Return arrays raw, denoised, expected, f4[D], of one position. Raises as `request`."""
        return self.request("spectrum", index=int(index))

    def window(self, lo: float, hi: float) -> Result:
        """Return arrays denoised and raw over nav_shape, summed from `lo` to `hi` (axis units).

        Raises as `request`.
        """
        return self.request("window", lo=float(lo), hi=float(hi))

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Change what is given and return the settings in force. Raises as `request`."""
        return dict(self.request("settings", **changes).head)

    def accept_group(self, group: Any, name: str) -> Result:
        """Make a group of anomalies a known phase. Raises as `request`."""
        return self.request("accept", group=group, name=name)

    def dismiss_group(self, group: Any, reason: str) -> Result:
        """Say that a group of anomalies is none. Raises as `request`."""
        return self.request("dismiss", group=group, reason=reason)

    # -- the client's thread ----------------------------------------------------------------------------------

    def _send(self, message: Control) -> None:
        self._outgoing.put((time.monotonic() + self._timeout_s, message))
        with self._wake_lock:
            if not self._wake.closed:
                self._wake.send(b"", zmq.NOBLOCK)

    def _run(self) -> None:
        monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        poller = zmq.Poller()
        for socket in (self._socket, self._woken, monitor):
            poller.register(socket, zmq.POLLIN)
        hello_due_s = 0.0
        while not self._stop.is_set():
            ready = dict(poller.poll(_POLL_MS))
            if self._woken in ready:
                self._woken.recv()
            if monitor in ready:
                monitor.recv_multipart()
                hello_due_s = 0.0
            if time.monotonic() >= hello_due_s and self._put(Control("cmd", "hello", "hello", self._hello)):
                hello_due_s = time.monotonic() + _HELLO_S
            self._put_outgoing()
            if self._socket in ready:
                self._take(self._socket.recv_multipart(copy=False))
        self._put_outgoing()
        self._socket.disable_monitor()
        monitor.close()
        self._woken.close()
        self._socket.close(200)

    def _put(self, message: Control) -> bool:
        try:
            self._socket.send_multipart(encode_control(message), flags=zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _put_outgoing(self) -> None:
        """Send what waits; what nobody took in time is forgotten (its caller has given up)."""
        for _ in range(self._outgoing.qsize()):
            until_s, message = self._outgoing.get()
            if not self._put(message) and time.monotonic() < until_s:
                self._outgoing.put((until_s, message))

    def _take(self, frames: Sequence[zmq.Frame]) -> None:
        try:
            message = decode_control([frame.buffer for frame in frames])
        except WireError as error:
            _log.warning("cannot read a message of the streamer: %s", error)
            return
        self._last_heard_s = time.monotonic()
        self.boot = message.params.get("boot", self.boot)
        if message.msg == "notify" and message.val == "decision":
            self._decide(message)
        elif message.msg in ("ack", "nack"):
            future = self._waiting.pop(message.id, None)
            if future is not None:
                future.set_result(message)

    def _decide(self, message: Control) -> None:
        try:
            decision = Decision.from_control(message)
        except (KeyError, TypeError, ValueError) as error:
            _log.warning("cannot read a decision: %r", error)
            return
        if self._on_decision is None:
            if self._decisions.full():
                self._decisions.get_nowait()
            self._decisions.put_nowait(decision)
            return
        try:
            self._on_decision(decision)
        except Exception as error:
            _log.exception("the controller's callback failed over decision %s", decision.id)
            self.refuse(decision, f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Close the connection; requests that wait get `NoAnswer` when their time is over."""
        self._stop.set()
        with self._wake_lock:
            if not self._wake.closed:
                # The thread may have seen by itself that it is to stop, and then nobody is there to be woken.
                with suppress(zmq.Again):
                    self._wake.send(b"", zmq.NOBLOCK)
                self._wake.close(_POLL_MS)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _pair() -> tuple[zmq.Socket[Any], zmq.Socket[Any]]:
    """Return two connected sockets: what is sent on one wakes a poller on the other."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    near, far = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    for socket in (near, far):
        socket.set_hwm(0)
        socket.setsockopt(zmq.LINGER, 0)
    url = f"inproc://scanwise-{id(near):x}"
    far.bind(url)
    near.connect(url)
    return near, far

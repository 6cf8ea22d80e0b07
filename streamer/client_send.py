"""The instrument's side of the data stream: numbers, encodes and sends a series."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from streamer.client_outlet import Outlet
from streamer.client_socket import CurveKeys
from streamer.wire.codec import Part
from streamer.wire.data import DTYPES
from streamer.wire.encode import (
    encode_events,
    encode_header,
    encode_heartbeat,
    encode_image,
    encode_series_end,
)

_HEARTBEAT_S = 1.0
_REPLAY_S = 10.0


class Sender:
    """Sends series after series; counts frames and messages, and never blocks an instrument.

    While a series is open, and 10 s after its end, a heartbeat goes out every second, so that a streamer that
    missed the header or the tail can ask for them. All methods are thread-safe; blocks are numbered in the order of the
    calls.

    Parameters
    ----------
    url : str
        Data endpoint, ``tcp://127.0.0.1:5555`` by default of the streamer.
    pattern, bind, replay, keep_bytes, queue_messages, curve
        As for `Outlet`.
    series : str, optional
        Name of the first series; names must be unique, and are made up where none is given.
    """

    def __init__(
        self,
        url: str,
        pattern: Literal["pub", "push"] = "pub",
        bind: bool = True,
        *,
        series: str | None = None,
        replay: str | None = "tcp://127.0.0.1:*",
        keep_bytes: int = 256 << 20,
        queue_messages: int = 1000,
        curve: CurveKeys | None = None,
    ) -> None:
        self._outlet = Outlet(
            url,
            pattern,
            bind,
            replay=replay,
            keep_bytes=keep_bytes,
            queue_messages=queue_messages,
            curve=curve,
        )
        self._lock = threading.RLock()
        self._next_series = series
        self.series = ""
        """Name of the series that is open, or was last."""
        self.is_open = False
        self.n_sent = 0
        """Spectra of this series so far, whether they were taken or not."""
        self.n_dropped = 0
        """Spectra of this series that found every queue full (PUSH); a replay may still bring them."""
        self._n_channels = 0
        self._last_number = -1
        self._silent_after_s = math.inf
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="scanwise-heartbeat", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the data socket is, with its real port."""
        return self._outlet.url

    @property
    def replay(self) -> str | None:
        """Where the replay service is, with its real port."""
        return self._outlet.replay

    @property
    def waiting(self) -> int:
        """Messages waiting here because nobody takes them (PUSH)."""
        return self._outlet.waiting

    @property
    def replayed(self) -> int:
        """Messages sent again because the streamer asked."""
        return self._outlet.replayed

    def open(
        self,
        nav_shape: Sequence[int],
        axis: Mapping[str, Any],
        *,
        series: str | None = None,
        positions: NDArray[np.float64] | None = None,
        **keys: Any,
    ) -> str:
        """Send the header of a new series.

        Parameters
        ----------
        nav_shape : 1 to 3 numbers
            Positions of the scan, slowest axis first.
        axis : map
            {name, units, size, offset, scale} or {name, units, values}.
        series : str, optional
            Its unique name.
        positions : f8[n, d], optional
            Coordinates of positions that are no grid; then `nav_shape` is [n].
        **keys
            Optional keys of the header as protocol.md names them (technique, dwell_s, passes, actions, ...).

        Returns
        -------
        str
            The name of the series.

        Raises
        ------
        RuntimeError
            Where a series is open already, or one of this name was.
        """
        with self._lock:
            name = series or self._next_series or f"scan-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
            if self.is_open or name == self.series:
                raise RuntimeError(f"series {self.series!r} is {'still open' if self.is_open else 'over'}")
            if self.replay is not None:
                keys = {"replay": self.replay, **keys}
            values = axis.get("values")
            self._n_channels = int(axis["size"] if values is None else len(values))
            header = encode_header(name, nav_shape, axis, positions=positions, **keys)
            self.series, self._next_series, self.is_open = name, None, True
            self.n_sent = self.n_dropped = 0
            self._last_number = -1
            self._silent_after_s = math.inf
            self._post(header)
        return name

    def send(self, counts: NDArray[Any], **keys: Any) -> bool:
        """Send spectra.

        Parameters
        ----------
        counts : (D,) or (n, D)
            A dtype of the protocol (uint8, uint16, uint32, int16, int32, float32, float64); copied, so the
            buffer may be used again at once.
        **keys
            Optional keys of an image: `index` (one number, a list or uint32[n]), `pass_`, `dwell_s`, `revision`,
            `axis`, `crc` true for a checksum.

        Returns
        -------
        bool
            False where it was dropped because nobody takes it (PUSH).

        Raises
        ------
        RuntimeError
            Where no series is open.
        ValueError
            Where shape or dtype do not fit the series.
        """
        self._check_open()
        counts = np.asarray(counts)
        if counts.dtype.name not in DTYPES:
            raise ValueError(f"counts are {counts.dtype.name}; the protocol has {', '.join(DTYPES)}")
        if counts.ndim not in (1, 2) or counts.shape[-1] != self._n_channels:
            raise ValueError(f"counts have shape {counts.shape}; the axis has {self._n_channels} channels")
        n = 1 if counts.ndim == 1 else counts.shape[0]
        keys = {"t_ns": time.time_ns(), **keys}
        with self._lock:
            number = self._last_number + 1
            return self._post(encode_image(self.series, number, self.n_sent, counts, **keys), n)

    def send_events(self, offsets: NDArray[Any], channels: NDArray[Any], **keys: Any) -> bool:
        """Send spectra as lists of events.

        Parameters
        ----------
        offsets : uint32[n + 1]
            Counts of spectrum i are ``channels[offsets[i]:offsets[i + 1]]``.
        channels : uint16 or uint32
            The channel of every single count.
        **keys
            As for `send`.

        Returns
        -------
        bool
            As for `send`.

        Raises
        ------
        RuntimeError
            Where no series is open.
        ValueError
            Where `channels` has another dtype or `offsets` do not divide it.
        """
        self._check_open()
        if channels.dtype.name not in ("uint16", "uint32"):
            raise ValueError(f"channels are {channels.dtype.name}, not uint16 or uint32")
        if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(channels):
            raise ValueError(f"offsets do not divide {len(channels)} events")
        keys = {"t_ns": time.time_ns(), **keys}
        with self._lock:
            number, frame = self._last_number + 1, self.n_sent
            parts = encode_events(self.series, number, frame, offsets, channels, self._n_channels, **keys)
            return self._post(parts, len(offsets) - 1)

    def heartbeat(self) -> None:
        """Say what has been sent; happens by itself every second."""
        with self._lock:
            if self._last_number < 0:
                return
            keys: dict[str, Any] = {} if self.replay is None else {"replay": self.replay}
            beat = encode_heartbeat(self.series, self._last_number, n_sent=self.n_sent, **keys)
            self._outlet.put_if_idle(beat)

    def end(self, exit_status: str = "success", reason: str | None = None) -> None:
        """End the series.

        Parameters
        ----------
        exit_status : {"success", "stopped", "abort"}
        reason : str, optional
            A sentence, for example that of the decision that was obeyed.

        Raises
        ------
        RuntimeError
            Where no series is open.
        """
        keys: dict[str, Any] = {} if reason is None else {"reason": reason}
        with self._lock:
            self._check_open()
            number = self._last_number + 1
            self._post(encode_series_end(self.series, number, self.n_sent, exit_status=exit_status, **keys))
            self.is_open = False
            self._silent_after_s = time.monotonic() + _REPLAY_S

    def _check_open(self) -> None:
        if not self.is_open:
            raise RuntimeError("no series is open: open() first")

    def _post(self, parts: list[Part], n: int = 0) -> bool:
        self._last_number += 1
        self.n_sent += n
        taken = self._outlet.put(self._outlet.keep(self.series, self._last_number, parts))
        self.n_dropped += 0 if taken else n
        return taken

    def _beat(self) -> None:
        while not self._stop.wait(_HEARTBEAT_S):
            if time.monotonic() < self._silent_after_s:
                self.heartbeat()

    def close(self, replay_s: float = _REPLAY_S) -> None:
        """Close; first let the streamer ask for what it misses.

        Parameters
        ----------
        replay_s : float
            Most seconds to wait for that; one quiet second ends it earlier, 0 does not wait.
        """
        if self._stop.is_set():
            return
        self.heartbeat()
        if replay_s > 0:
            self._outlet.wait_for_replay(replay_s)
        self._stop.set()
        self._thread.join()
        self._outlet.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.is_open and kind is not None:
            self.end("abort", reason=f"{kind.__name__}: {error}")
        elif self.is_open:
            self.end()
        self.close()

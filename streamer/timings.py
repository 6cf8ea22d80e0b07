"""How long things take: for the report at the end of a series, and for Prometheus."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from streamer.metrics import Metrics

_EDGES_S: Final = np.geomspace(1e-5, 1e3, 801)  # 2.3 % wide: finer than any clock on the way


class Timings:
    """Latencies and stages of the series that is open.

    Parameters
    ----------
    metrics : Metrics
        Gets every observation as well.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        with self._lock:
            self._latencies = np.zeros(_EDGES_S.size + 1, dtype=np.int64)
            self._stages: dict[str, tuple[int, float]] = {}

    def latency(self, seconds: float) -> None:
        """Observe one result's time from receipt to publishing."""
        self._metrics.latency(seconds)
        place = int(np.searchsorted(_EDGES_S, seconds))
        with self._lock:
            self._latencies[place] += 1

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Observe how long a stage takes."""
        begun = time.perf_counter()
        yield
        seconds = time.perf_counter() - begun
        self._metrics.stage(name, seconds)
        with self._lock:
            n, total_s = self._stages.get(name, (0, 0.0))
            self._stages[name] = (n + 1, total_s + seconds)

    def summary(self) -> dict[str, Any]:
        """Return latency quantiles in ms (None before any result) and for each stage its number and mean."""
        with self._lock:
            counts, stages = self._latencies.copy(), dict(self._stages)
        return {
            "latency_p50_ms": _quantile_ms(counts, 0.5),
            "latency_p99_ms": _quantile_ms(counts, 0.99),
            "stages": {k: {"n": n, "total_s": t, "mean_ms": 1e3 * t / n} for k, (n, t) in stages.items()},
        }


def _quantile_ms(counts: np.ndarray[Any, np.dtype[np.int64]], q: float) -> float | None:
    total = int(counts.sum())
    if not total:
        return None
    place = int(np.searchsorted(np.cumsum(counts), q * total))
    return float(1e3 * _EDGES_S[min(place, _EDGES_S.size - 1)])

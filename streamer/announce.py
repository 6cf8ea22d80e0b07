"""What a series tells its subscribers: itself, its basis, its anomalies."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from models.axis import Axis
from models.base import Basis, BatchResult
from models.candidates import candidates
from models.linear import LinearEngine
from streamer.events import Count, Event, Publish
from streamer.scan import Scan
from streamer.wire import HeaderMap, Result, f4

MOST_ANOMALIES: Final = 8


def basis_event(series: str, basis: Basis) -> Publish:
    """Return a basis as it is published."""
    head = {
        "series": series,
        "model": basis.version,
        "rank": basis.rank,
        "noise_edge": float(basis.noise_edge),
    }
    arrays = {
        "mean": f4(basis.mean),
        "eigenspectra": f4(basis.eigenspectra),
        "eigenvalues": f4(basis.eigenvalues),
    }
    return Publish(Result("basis", head, arrays))


def series_event(header: HeaderMap, scan: Scan, head: dict[str, Any]) -> Publish:
    """Return the `series` message: `head` on top of what the header said, with the axis as it is known now."""
    fields = header.model_dump(exclude_none=True, exclude={"msg_number", "series", "positions"})
    fields["axis"] = scan.axis.model_dump(exclude_none=True)
    arrays = {} if scan.positions is None else {"positions": scan.positions}
    return Publish(Result("series", {**fields, **head}, arrays))


class Anomalies:
    """Makes the `anomaly` messages of a series and numbers them.

    Parameters
    ----------
    series, technique : str
        Name of the series, and what the instrument measures.
    """

    def __init__(self, series: str, technique: str) -> None:
        self.count = 0
        self._series, self._technique = series, technique

    def told(self, result: BatchResult, engine: LinearEngine, axis: Axis) -> list[Event]:
        """Return the messages for the most anomalous flagged rows of a batch."""
        flagged = np.flatnonzero(result.flag & 1)
        if not flagged.size:
            return []
        worst = flagged[np.argsort(-result.anomaly[flagged], kind="stable")[:MOST_ANOMALIES]]
        told: list[Event] = [Count("anomalies", n=int(flagged.size))]
        return told + [self._message(result, row, engine, axis) for row in worst.tolist()]

    def _message(self, result: BatchResult, row: int, engine: LinearEngine, axis: Axis) -> Publish:
        position = int(result.index[row])
        raw, _, expected = engine.spectrum(position)
        lo, hi = (int(c) for c in result.window[row])
        ends = [float(axis.values[lo]), float(axis.values[min(hi, axis.values.size) - 1])]
        head = {
            "series": self._series,
            "model": result.version,
            "id": f"{self._series}/anomaly/{self.count}",
            "index": [position],
            "score": float(result.anomaly[row]),
            "p_value": float(result.p_value[row]),
            "window": ends,
            "group": None,
            "kind": "cosmic ray" if engine.shows_spike(raw, expected, lo) else "feature",
            "candidates": candidates(self._technique, ends[0], ends[1], axis.units),
        }
        self.count += 1
        return Publish(Result("anomaly", head, {"spectrum": f4(raw), "expected": f4(expected)}))

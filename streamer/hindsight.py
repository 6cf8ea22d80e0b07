"""What decisions that were only advice would have saved, and what would have been missed (protocol.md, 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import Float64


@dataclass(frozen=True)
class _Then:
    """How things stood when advice was given: phase labels, dwell, and dwell that would still have been measured."""

    decision: str
    action: str
    label: NDArray[np.int32]
    dwell_s: Float64
    anomalies: int
    kept_s: Float64 | None


class Hindsight:
    """Remembers how things stood at each piece of advice that would have left something out."""

    def __init__(self) -> None:
        self._then: list[_Then] = []

    def note(
        self,
        decision: str,
        action: str,
        label: NDArray[np.int32],
        dwell_s: Float64,
        anomalies: int,
        kept_s: Float64 | None = None,
    ) -> None:
        """Remember a stop, or the dwells (P,) of a pass (`kept_s`)."""
        self._then.append(_Then(decision, action, label.copy(), dwell_s.copy(), anomalies, kept_s))

    def told(
        self, label: NDArray[np.int32], dwell_s: Float64, anomalies: int, planned_s: float
    ) -> list[dict[str, Any]]:
        """What became of each, at the end of the scan: time saved, area that was called otherwise then, anomalies.

        Parameters
        ----------
        label, dwell_s : ndarray, (P,)
            The final phases and dwells.
        anomalies : int
            Flagged positions in the end.
        planned_s : float
            Dwell of a position in a pass as planned.
        """
        return [_told(then, label, dwell_s, anomalies, planned_s) for then in self._then]


def _told(then: _Then, label: NDArray[np.int32], dwell_s: Float64, anomalies: int, planned_s: float) -> dict[str, Any]:
    if then.kept_s is None:
        saved_s, left_out = float((dwell_s - then.dwell_s).sum()), np.ones(label.size, dtype=np.bool_)
    else:
        saved_s, left_out = float((planned_s - then.kept_s).sum()), then.kept_s == 0
    differs = left_out & (label >= 0) & (then.label != label)
    new = np.setdiff1d(label[left_out & (label >= 0)], then.label)
    return {
        "decision": then.decision,
        "action": then.action,
        "saved_s": saved_s,
        "saved_part": saved_s / max(float(dwell_s.sum()), 1e-300),
        "missed_area": float(np.count_nonzero(differs)) / max(label.size, 1),
        "missed_phases": new.tolist(),
        "missed_anomalies": max(0, anomalies - then.anomalies) if then.kept_s is None else 0,
    }

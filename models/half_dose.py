"""How far a model has moved since it had seen half of the dose: what of its signal it did not know then."""

from __future__ import annotations

import numpy as np

from models.pca import orthonormal
from models.published import Published

_STEP = 1.1


class HalfDose:
    """Versions of a model at growing doses; only those are kept that are still wanted."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, Published]] = []

    def note(self, dose: float, published: Published) -> None:
        """Remember the version that was in force at a dose."""
        if self._kept and dose < _STEP * self._kept[-1][0]:
            return
        self._kept.append((dose, published))
        while len(self._kept) > 1 and self._kept[1][0] <= 0.5 * dose:
            del self._kept[0]

    def angle_deg(self, dose: float, published: Published) -> float:
        """Angle between a version and that of half of the dose, degrees; 90 where that is not known."""
        before = [version for at, version in self._kept if at <= 0.5 * dose]
        return signal_angle_deg(before[-1], published) if before else 90.0


def signal_angle_deg(old: Published, new: Published) -> float:
    """Angle between the spectra of a version and the span of an earlier one, degrees; 90 where one has no components.

    Its squared sine is the part of the signal variance of the new compositions that lies outside the old span, in
    units of the noise. The largest principal angle would be that of the faintest component instead, which has just
    come above the noise, whatever it is worth.
    """
    if not old.basis.rank or not new.basis.rank:
        return 90.0
    known = orthonormal(new.scaling.merge(old.eigenspectra.T))
    along = new.scaling.merge(new.eigenspectra.T).astype(np.float64) @ new.shrinkage.axes
    outside = along - known @ (known.T @ along)
    signal = np.maximum(new.shrinkage.signal, 0.0)
    whole = float(signal @ (along**2).sum(axis=0))
    if not whole > 0:
        return 0.0
    share = float(signal @ (outside**2).sum(axis=0)) / whole
    return float(np.degrees(np.arcsin(np.sqrt(np.clip(share, 0.0, 1.0)))))

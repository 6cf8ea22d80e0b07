"""How a microscopist finds iron's valence from white lines: the references that fitted fractions are compared with.

Both subtract a power law, found by the two-area method before the edge (Egerton, Electron Energy-Loss Spectroscopy in
the Electron Microscope, 2011, sec. 4.4.1), and turn a ratio of integrals into a fraction by the same ratio of the two
references, which mix linearly.

* `l3_l2_ratio`: integrated L3 over L2 above two arctan steps, 2 : 1, scaled to the continuum behind the edge
  (Pearson, Ahn & Fultz, Phys. Rev. B 47 (1993) 8471).
* `two_windows`: 2 eV at the Fe3+ L3 maximum over 2 eV at L2 (van Aken & Liebscher, Phys. Chem. Minerals 29 (2002) 188).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_BEFORE_EV, _BEHIND_EV = (650.0, 700.0), (735.0, 760.0)
_L3_EV, _L2_EV = (703.0, 715.0), (717.0, 728.0)
_STEPS_EV = (708.5, 721.5)
_WINDOW_3_EV, _WINDOW_2_EV = (708.5, 710.5), (719.7, 721.7)


def without_power_law(ev: Array, counts: NDArray[Any]) -> Array:
    """Spectra (n, D) less the power law of their two areas before the edge."""
    low, high = _BEFORE_EV
    middle = np.sqrt(low * high)
    halves = [(ev >= low) & (ev < middle), (ev >= middle) & (ev < high)]
    first, second = (np.maximum(counts[:, half].sum(axis=1), 0.5) for half in halves)
    powers = np.linspace(0.0, 8.0, 801)
    ratios = np.array([(ev[halves[0]] ** -r).sum() / (ev[halves[1]] ** -r).sum() for r in powers])
    power = np.interp(first / second, ratios, powers)
    both = halves[0] | halves[1]
    level = (first + second) / np.array([(ev[both] ** -r).sum() for r in power])
    return np.asarray(counts - level[:, None] * ev[None] ** -power[:, None])


def _sum(ev: Array, spectra: Array, window: tuple[float, float]) -> Array:
    return np.asarray(spectra[:, (ev >= window[0]) & (ev < window[1])].sum(axis=1))


def _areas_above_steps(ev: Array, edges: Array) -> tuple[Array, Array]:
    heights = np.array([2 / 3, 1 / 3])
    steps = heights @ (np.arctan(ev[None] - np.array(_STEPS_EV)[:, None]) / np.pi + 0.5)
    height = _sum(ev, edges, _BEHIND_EV) / steps[(ev >= _BEHIND_EV[0]) & (ev < _BEHIND_EV[1])].sum()
    lines = edges - height[:, None] * steps
    return _sum(ev, lines, _L3_EV), _sum(ev, lines, _L2_EV)


def _areas_of_windows(ev: Array, edges: Array) -> tuple[Array, Array]:
    return _sum(ev, edges, _WINDOW_3_EV), _sum(ev, edges, _WINDOW_2_EV)


def _calibrated(
    areas: Callable[[Array, Array], tuple[Array, Array]], ev: Array, counts: NDArray[Any], references: Array
) -> Array:
    """Fraction (n,) of the second reference, in [0, 1], from the ratio of two areas."""
    bright = references * (1e9 / references.sum(axis=1, keepdims=True).max())
    (of_3, of_2) = areas(ev, without_power_law(ev, bright))
    above, below = areas(ev, without_power_law(ev, counts))
    ratio = above / np.where(np.abs(below) < 1e-9, 1e-9, below)
    fraction = (of_3[0] - ratio * of_2[0]) / ((of_3[0] - of_3[1]) - ratio * (of_2[0] - of_2[1]))
    # A negative L2 says nothing; half is the best guess that needs no data.
    return np.asarray(np.clip(np.where(below > 0, fraction, 0.5), 0.0, 1.0))


def l3_l2_ratio(ev: Array, counts: NDArray[Any], references: Array) -> Array:
    """Fraction (n,) of the second of two references by the ratio of the white lines' areas."""
    return _calibrated(_areas_above_steps, ev, counts, references)


def two_windows(ev: Array, counts: NDArray[Any], references: Array) -> Array:
    """Fraction (n,) of the second of two references by the ratio of two narrow windows."""
    return _calibrated(_areas_of_windows, ev, counts, references)

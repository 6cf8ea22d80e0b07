"""What a feature of a spectrum may be, in words for an operator: X-ray lines, energy-loss edges, core levels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import find_peaks

from models.base import Float64
from models.elements import FWHM_KEV, FoundLine, LineTest, find_elements
from models.lines import COMMON, FWHM_PER_SIGMA, LEAST_KEV, Line, core_levels, elements, emission_lines, fwhm_kev

_EV = {"ev": 1.0, "kev": 1e3, "mev": 1e6}
_KEPT_APART = 4.0
"""Candidates within this log likelihood ratio of the best are named beside it."""
_WEAK = 0.02
_EDGE_SHIFT_EV = 4.0
"""Chemical shift and calibration error of edges and core levels that nothing should be made of."""
_DELAYED_EV = 40.0
"""M4,5 edges of the fifth period and heavier rise so much later than their threshold."""
_SHARP_M = frozenset(["La", "Ce", "Pr", "Nd", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu"])
_LEAST_LABELLED_EV = 95.0
"""Below, plasmons rise like edges."""
_MOST_LABELS = 16


@dataclass(frozen=True, eq=False)
class Feature:
    """A spectrum with something unexpected: channel `values` (D,), `counts` (D,), and what was `expected` (D,)."""

    values: Float64
    counts: NDArray[Any]
    expected: NDArray[Any]


@dataclass(frozen=True)
class Label:
    """A name for what is at `value` on the axis; `counts` of it where known, else its height."""

    value: float
    text: str
    counts: float


def candidates(
    technique: str, lo: float, hi: float, units: str, feature: Feature | None = None, most: int = 3
) -> list[str]:
    """Say what may lie in a window, most likely first; empty where this technique has no tables.

    Parameters
    ----------
    technique : str
        As the wire names it: eds, eels, xps; others have none.
    lo, hi : float
        Window on the axis, in `units` (eV or keV).
    feature : Feature, optional
        The spectrum itself: then the other lines of each element must agree with it.
    most : int
        Longest list.

    Examples
    --------
    >>> candidates("eds", 5.35, 5.48, "keV")
    ['Cr Ka 5.412 keV', 'V Kb 5.428 keV (with V Ka 4.950 keV)']
    """
    per_unit = _EV.get(units.strip().lower())
    if per_unit is None or not np.isfinite([lo, hi]).all():
        return []
    low, high = sorted(
        (abs(lo) * per_unit, abs(hi) * per_unit) if technique == "xps" else (lo * per_unit, hi * per_unit)
    )
    if technique == "eds":
        found = _seen_lines(low / 1e3, high / 1e3, per_unit, feature) if feature else _near_lines(low / 1e3, high / 1e3)
        return [_line_words(line) for line in found[:most]]
    if technique == "eels":
        return [f"{e} {shell} edge {ev:.4g} eV" for e, shell, ev in _edges(low, high)][:most]
    if technique == "xps":
        return [f"{e} {orbital} {ev:.4g} eV" for e, orbital, ev in _levels(low, high)][:most]
    return []


# -- X-ray lines --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _all_lines() -> tuple[tuple[Line, float], ...]:
    """Every line with its strength beside the brightest of its shell."""
    found = []
    for element in elements():
        lines = emission_lines(element)
        for line in lines:
            top = max(other.strength for other in lines if other.shell == line.shell)
            if line.strength >= _WEAK * top and line.kev >= LEAST_KEV[line.shell]:
                found.append((line, line.strength / top))
    return tuple(found)


@lru_cache(maxsize=256)
def _near_lines(low: float, high: float) -> list[Line]:
    """Lines in a window of keV: the nearer, the stronger in its shell and the commoner the better."""
    centre = 0.5 * (low + high)
    sigma = float(fwhm_kev(centre, FWHM_KEV)) / FWHM_PER_SIGMA
    rated: dict[str, tuple[float, Line]] = {}
    for line, share in _all_lines():
        away = (line.kev - centre) / sigma
        if not low - sigma <= line.kev <= high + sigma:
            continue
        rating = -0.5 * away**2 + 1.5 * np.log(share) - (0.0 if line.element in COMMON else 2.0)
        if line.element not in rated or rating > rated[line.element][0]:
            rated[line.element] = (float(rating), line)
    best = sorted(rated.values(), key=lambda pair: -pair[0])
    return [line for rating, line in best if rating > best[0][0] - _KEPT_APART]


def _seen_lines(low: float, high: float, per_unit: float, feature: Feature) -> list[Line]:
    """Lines in a window whose elements explain the whole spectrum best beside what was expected."""
    kev = feature.values * (per_unit / 1e3)
    test = LineTest.of(kev, feature.counts, feature.expected)
    nearest = _strongest(low, high)
    rated = sorted(((test.gain(e) + np.log(share), e) for e, (share, _) in nearest.items()), reverse=True)
    rated = [(gain, e) for gain, e in rated if gain > max(rated[0][0] - _KEPT_APART, 0.0)]
    return [nearest[e][1] for _, e in rated] or _near_lines(low, high)


def _strongest(low: float, high: float) -> dict[str, tuple[float, Line]]:
    """Strongest line of each element, and its share, within a window and a third of a peak's width around it."""
    margin = float(fwhm_kev(0.5 * (low + high), FWHM_KEV)) / 3
    best: dict[str, tuple[float, Line]] = {}
    for line, share in _all_lines():
        if low - margin <= line.kev <= high + margin and share > best.get(line.element, (0.0, line))[0]:
            best[line.element] = (share, line)
    return best


def _line_words(line: Line) -> str:
    """Name and energy; a minor line says which line must be beside it."""
    mine = [other for other in emission_lines(line.element) if other.shell == line.shell]
    main = max(mine, key=lambda other: other.strength)
    words = f"{line.element} {line.label} {line.kev:.3f} keV"
    return words if main.label == line.label else f"{words} (with {main.element} {main.label} {main.kev:.3f} keV)"


# -- edges and levels -----------------------------------------------------------------------------------------------


def _edges(low: float, high: float) -> list[tuple[str, str, float]]:
    """Energy-loss edges that may begin in a window of eV, or, for delayed ones, shortly before it."""
    rated: dict[str, tuple[float, str, float]] = {}
    for element in elements():
        for level in core_levels(element):
            delay = _DELAYED_EV if level.shell in {"M4", "M5"} and element not in _SHARP_M else 0.0
            if not level.yields_edge or not low - _EDGE_SHIFT_EV - delay <= level.ev <= high + _EDGE_SHIFT_EV:
                continue
            # Of a doublet the lower edge is the one that begins; rare elements and faint edges come last.
            rating = max(low - level.ev - delay, level.ev - high, 0.0) + (0.0 if element in COMMON else 8.0)
            rating += (5.0 if level.shell in {"L2", "M4"} else 0.0) + (6.0 if delay else 0.0)
            if element not in rated or rating < rated[element][0]:
                rated[element] = (rating, level.shell, level.ev)
    return [(element, shell, ev) for element, (_, shell, ev) in sorted(rated.items(), key=lambda item: item[1])]


def _levels(low: float, high: float) -> list[tuple[str, str, float]]:
    """Core levels within a window of eV and a chemical shift around it; near and strong ones first."""
    centre, found = 0.5 * (low + high), []
    for element in elements():
        for level in core_levels(element):
            orbital = level.orbital
            if level.ev < 10 or orbital[1:] in {"p1/2", "d3/2", "f5/2"}:
                continue
            if low - _EDGE_SHIFT_EV <= level.ev <= high + _EDGE_SHIFT_EV:
                # The more nodes, the weaker: 1s, 2p, 3d and 4f are the lines of their shells.
                weaker = int(orbital[0]) - 1 - "spdf".index(orbital[1])
                rating = abs(level.ev - centre) + weaker + (0.0 if element in COMMON else 4.0)
                found.append((rating, element, orbital, level.ev))
    return [(element, orbital, ev) for _, element, orbital, ev in sorted(found)]


# -- labels for a plot ----------------------------------------------------------------------------------------------


def label_peaks(technique: str, values: Float64, units: str, spectrum: NDArray[Any]) -> list[Label]:
    """Name the peaks (or edges) of a mean spectrum, by their place on the axis; at most 16.

    Parameters
    ----------
    values : f8[D]
        The axis, in `units`.
    spectrum : (D,)
        Summed counts rather than a mean: how certain a peak is depends on them.
    """
    per_unit = _EV.get(units.strip().lower())
    if per_unit is None or values.size < 32 or not np.all(np.diff(values) > 0):
        return []
    if technique == "eds":
        found = list(_line_labels(find_elements(values * per_unit / 1e3, spectrum).lines, 1e3 / per_unit))
    elif technique == "eels":
        found = list(_edge_labels(values * per_unit, np.asarray(spectrum, dtype=np.float64), per_unit))
    else:
        return []
    return sorted(sorted(found, key=lambda label: -label.counts)[:_MOST_LABELS], key=lambda label: label.value)


def _line_labels(lines: tuple[FoundLine, ...], per_kev: float) -> Iterator[Label]:
    """One label for each peak: its strongest line, and others that make a quarter of it."""
    left = sorted(lines, key=lambda line: -line.counts)
    while left:
        top = left[0]
        reach = 0.6 * float(fwhm_kev(top.kev, FWHM_KEV))
        near = [line for line in left if abs(line.kev - top.kev) <= reach]
        left = [line for line in left if abs(line.kev - top.kev) > reach]
        names = [f"{line.element} {line.label}" for line in near if line.counts >= 0.25 * top.counts]
        elements_seen = dict.fromkeys(name.split()[0] for name in names)
        shown = [next(n for n in names if n.split()[0] == element) for element in elements_seen]
        # Minor lines of an element that is labelled elsewhere only crowd the plot.
        if top.counts >= _WEAK * max(line.counts for line in lines if line.element == top.element):
            yield Label(top.kev * per_kev, " + ".join(shown), sum(line.counts for line in near))


def _edge_labels(ev: Float64, counts: Float64, per_unit: float) -> Iterator[Label]:
    for onset, height in edge_onsets(ev, counts):
        named = _edges(onset - _EDGE_SHIFT_EV, onset + _EDGE_SHIFT_EV)
        if named:
            element, shell, _ = named[0]
            yield Label(onset / per_unit, f"{element} {shell}", height)


def edge_onsets(ev: Float64, counts: Float64, least_z: float = 10.0) -> list[tuple[float, float]]:
    """Losses where counts rise above the power law of what comes before: (onset in eV, excess counts).

    At each channel a power law is fitted to 30 eV before it and extrapolated over the 10 eV after it.
    """
    step = float(np.median(np.diff(ev)))
    before, after, gap = max(4, round(30 / step)), max(2, round(10 / step)), max(1, round(2 / step))
    usable = (np.arange(ev.size) >= before + gap) & (np.arange(ev.size) + after <= ev.size)
    excess, z = np.zeros(ev.size), np.zeros(ev.size)
    for i in np.flatnonzero(usable & (ev >= _LEAST_LABELLED_EV)):
        excess[i], z[i] = _above_power_law(ev, counts, slice(i - gap - before, i - gap), slice(i, i + after))
    relative = excess / np.maximum(_moving_sum(counts, after), 1.0)
    peaks, _ = find_peaks(np.where(relative > 0.03, z, 0.0), height=least_z, distance=after)
    accepted: list[int] = []
    for p in sorted(peaks.tolist(), key=lambda i: -z[i]):
        # What follows an edge (its second line, its fine structure) is no edge of its own.
        if all(not 0 <= p - q < 1.5 * before and not 0 <= q - p < 2 * after for q in accepted):
            accepted.append(p)
    steep = np.gradient(counts, ev)
    return [(float(ev[p + int(np.argmax(steep[p : p + after]))]), float(excess[p])) for p in sorted(accepted)]


def _moving_sum(counts: Float64, n: int) -> Float64:
    total = np.concatenate([[0.0], np.cumsum(counts)])
    ends = np.minimum(np.arange(counts.size) + n, counts.size)
    return np.asarray(total[ends] - total[:-1])


def _above_power_law(ev: Float64, counts: Float64, fit: slice, test: slice) -> tuple[float, float]:
    """Excess counts in `test` over the power law of `fit`, and the excess in standard deviations."""
    y = np.maximum(counts[fit], 0.5)
    x = np.log(ev[fit])
    centre = float(np.average(x, weights=y))
    spread = float((y * (x - centre) ** 2).sum())
    level = float(np.average(np.log(y), weights=y))
    slope = float((y * (x - centre) * (np.log(y) - level)).sum()) / max(spread, 1e-300)
    away = np.log(ev[test]) - centre
    expected = np.exp(level + slope * away)
    total = float(expected.sum())
    # Errors of level and slope carry over to the extrapolation.
    variance = total + total**2 / y.sum() + float((expected * away).sum()) ** 2 / max(spread, 1e-300)
    excess = float(counts[test].sum()) - total
    return excess, excess / np.sqrt(max(variance, 1e-300))

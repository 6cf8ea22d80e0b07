"""Which elements an EDS spectrum holds: line families found one after another by a Poisson likelihood ratio."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from models.base import Float64
from models.lines import COMMON, FWHM_PER_SIGMA, LEAST_KEV, Templates, emission_lines, fwhm_kev, make_templates
from models.mixture import fit_mixtures

FROM_KEV = 0.2
"""The noise peak of a detector at zero energy ends here."""
FWHM_KEV = 0.130
_BINS_PER_FWHM = 6
_MOST_ELEMENTS = 24
_MOST_EXACT = 24
_EVIDENCE = 14.0
"""Log likelihood ratio an element needs: about one false one in 1e4 spectra among some 90 elements and their places."""
_SHAPE_ERROR, _BACKGROUND_ERROR = 0.02, 0.01
"""Relative errors of what is fitted already, over a peak's width: tails, tabulated ratios, calibration."""
_SELDOM = 8.0
"""How much more evidence a rare element needs: before any spectrum, it is e^8 times less likely than a common one."""
_PARTNER = 0.15
"""A shell that must be seen has at least this share of its tabulated strength beside another of its element."""
_PARTNER_RANGE_KEV = (1.2, 18.5)
_OVERVOLTAGE = 0.6
_OFFSET_SD_KEV, _GAIN_SD, _WIDTH_SD = 0.008, 1.5e-3, 0.04
_CLIPPINGS = 4
_KNOTS_KEV, _KNOTS_SHARE = 0.25, 0.25


@dataclass(frozen=True)
class FoundLine:
    """A line of an element that was found: `counts` of it in the spectrum, `kev` on the spectrum's own axis."""

    element: str
    label: str
    kev: float
    counts: float


@dataclass(frozen=True)
class ElementFit:
    """What a spectrum holds.

    Attributes
    ----------
    elements : tuple of str
        Most certain first.
    lines : tuple of FoundLine
        By energy.
    offset_kev, gain : float
        A line of tabulated energy E is at offset + gain E on the axis.
    fwhm_kev : float
        At Mn K-alpha.
    """

    elements: tuple[str, ...]
    lines: tuple[FoundLine, ...]
    offset_kev: float
    gain: float
    fwhm_kev: float


@dataclass(frozen=True)
class _Calibration:
    fwhm: float = FWHM_KEV
    offset: float = 0.0
    gain: float = 1.0


@dataclass(frozen=True, eq=False)
class _Binned:
    """Counts in bins of a sixth of a peak's width, and what the background is made of."""

    edges: Float64
    counts: Float64
    hats: Float64

    @property
    def centres(self) -> Float64:
        return 0.5 * (self.edges[1:] + self.edges[:-1])


def find_elements(axis_kev: Float64, spectrum: NDArray[Any]) -> ElementFit:
    """Name the elements of a spectrum of at least some hundred counts.

    The element whose line families (their ratios within a shell as tabulated, partners in other shells present where
    the beam can excite them) raise the likelihood most joins the model, and all are fitted again with the background;
    energy calibration and resolution are refined on the way.

    Parameters
    ----------
    axis_kev : f8[D]
        Channel energies, rising.
    spectrum : (D,)
        Counts; negative values count as none.
    """
    binned = _bin(axis_kev, np.maximum(np.asarray(spectrum, dtype=np.float64), 0.0))
    if binned is None or not binned.counts.any():
        return ElementFit((), (), 0.0, 1.0, FWHM_KEV)
    calibration = _Calibration()
    first = _Search(binned, calibration)
    first.run(most=6)
    calibration = _refined(binned, first, calibration)
    search = _Search(binned, calibration)
    search.run(most=_MOST_ELEMENTS)
    return search.result()


def _bin(axis_kev: Float64, counts: Float64) -> _Binned | None:
    step_kev = float(np.median(np.diff(axis_kev))) if axis_kev.size > 1 else 0.0
    inside = axis_kev >= FROM_KEV
    if step_kev <= 0 or np.count_nonzero(inside) < 16:
        return None
    merged = max(1, int(FWHM_KEV / _BINS_PER_FWHM / step_kev))
    n = np.count_nonzero(inside) // merged
    kept = counts[inside][: n * merged].reshape(n, merged).sum(axis=1)
    first = axis_kev[inside][0] - 0.5 * step_kev
    edges = first + merged * step_kev * np.arange(n + 1)
    return _Binned(edges, kept, _hats(0.5 * (edges[1:] + edges[:-1])))


def _hats(kev: Float64) -> Float64:
    """Triangles, broader than any peak, that add up to a continuum, (H, D)."""
    knots = [float(kev[0])]
    while knots[-1] < kev[-1]:
        knots.append(knots[-1] + max(_KNOTS_KEV, _KNOTS_SHARE * knots[-1]))
    rows = [np.interp(kev, knots, np.eye(len(knots))[k]) for k in range(len(knots))]
    return np.array([r for r in rows if r.sum() > 0])


@lru_cache(maxsize=8)
def _templates(first: float, step: float, n: int, fwhm: float, offset: float, gain: float) -> Templates:
    return make_templates(first + step * np.arange(n + 1, dtype=np.float64), fwhm, offset, gain)


class _Search:
    """Forward selection of elements at one calibration."""

    def __init__(self, binned: _Binned, calibration: _Calibration) -> None:
        self.binned, self.calibration = binned, calibration
        edges = binned.edges
        step = float(edges[1] - edges[0])
        grid = (float(edges[0]), step, binned.counts.size)
        self.templates = _templates(*grid, calibration.fwhm, calibration.offset, calibration.gain)
        self.tied, self.tied_shell, self.seldom = self._tie(_beam_limit_kev(binned))
        self.chosen: list[int] = []
        self.evidence: dict[str, float] = {}
        self._fit()

    def _tie(self, limit_kev: float) -> tuple[Float64, list[int], Float64]:
        """One spectrum for each shell on the grid, with the least its partners must show; shell; evidence it lacks."""
        t = self.templates
        tied, owner, seldom = [], [], []
        for i, (element, shell) in enumerate(t.names):
            if t.spectra[i].sum() < 0.05 or t.mean_kev[i] < LEAST_KEV[shell]:
                continue
            row = t.spectra[i].copy()
            for j, (other, _) in enumerate(t.names):
                excited = _PARTNER_RANGE_KEV[0] < t.mean_kev[j] < min(_PARTNER_RANGE_KEV[1], _OVERVOLTAGE * limit_kev)
                if j != i and other == element and excited and t.photons[j] > 0:
                    row += _PARTNER * min(t.photons[j] / t.photons[i], 3.0) * t.spectra[j]
            tied.append(row)
            seldom.append(0.0 if element in COMMON else _SELDOM)
            owner.append(i)
        return np.array(tied), owner, np.array(seldom)

    @property
    def shells(self) -> list[int]:
        """Templates of all shells of the chosen elements."""
        t, chosen = self.templates, {self._element(c) for c in self.chosen}
        return [i for i, (element, _) in enumerate(t.names) if element in chosen and t.spectra[i].sum() > 0.05]

    def _columns(self) -> Float64:
        return np.concatenate([self.binned.hats, self.templates.spectra[self.shells]])

    def _fit(self, robust: bool = True) -> None:
        """Fit background and chosen elements; `robust` cuts what stands out, so that no continuum grows into it."""
        columns, counts = self._columns(), self.binned.counts
        for _ in range(_CLIPPINGS if robust else 1):
            fit = fit_mixtures(counts[None], columns)
            self.amounts, self.errors = fit.amounts[0], fit.errors[0]
            self.model = np.maximum(self.amounts @ columns, 1e-6)
            counts = np.minimum(self.binned.counts, self.model + 2 * np.sqrt(self.model))

    def gains(self) -> Float64:
        """Log likelihood ratio of each candidate beside the present model, 0 where it would be negative, (C,)."""
        background = self.amounts[: self.binned.hats.shape[0]] @ self.binned.hats
        known = maximum_filter1d(np.maximum(self.model - background, 0.0), 2 * _BINS_PER_FWHM + 1)
        wrong = (_SHAPE_ERROR * known) ** 2 + (_BACKGROUND_ERROR * background) ** 2
        variance = self.model + 1.5 * _BINS_PER_FWHM * wrong
        return likelihood_gains(self.binned.counts, self.model, variance, self.tied) - self.seldom

    def run(self, most: int) -> None:
        """Add elements until none is certain enough; drop those that later ones have explained away."""
        for _ in range(2 * most):
            gains = self.gains()
            gains[np.isin(self.tied_shell, self.shells)] = 0.0
            best = int(np.argmax(gains))
            if gains[best] < _EVIDENCE or len(self.chosen) >= 2 * most:
                break
            self.chosen.append(best)
            self.evidence[self._element(best)] = self.evidence.get(self._element(best), 0.0) + float(gains[best])
            self._fit()
        self._fit(robust=False)
        self._prune()

    def _element(self, candidate: int) -> str:
        return self.templates.names[self.tied_shell[candidate]][0]

    def _prune(self) -> None:
        """Drop elements that those found later have explained away."""
        shells, n_hats = self.shells, self.binned.hats.shape[0]
        certain = self.amounts[n_hats:] ** 2 > 2 * _EVIDENCE * self.errors[n_hats:] ** 2
        kept = {self.templates.names[i][0] for i, good in zip(shells, certain, strict=True) if good}
        self.chosen = [c for c in self.chosen if self._element(c) in kept]
        self._fit(robust=False)

    def result(self) -> ElementFit:
        """Elements and lines with what they have in the spectrum."""
        c = self.calibration
        amounts = self.amounts[self.binned.hats.shape[0] :]
        lines: dict[tuple[str, str], FoundLine] = {}
        for template, amount in zip(self.shells, amounts, strict=True):
            element, shell = self.templates.names[template]
            mine = [line for line in emission_lines(element) if line.shell == shell]
            total = sum(line.strength for line in mine)
            for line in mine:
                place = c.offset + c.gain * line.kev
                if self.binned.edges[0] < place < self.binned.edges[-1]:
                    counts = float(amount) * line.strength / total
                    lines[element, line.label] = FoundLine(element, line.label, place, counts)
        found = sorted({self._element(c) for c in self.chosen}, key=lambda e: -self.evidence[e])
        ordered = tuple(sorted(lines.values(), key=lambda line: line.kev))
        return ElementFit(tuple(found), ordered, c.offset, c.gain, c.fwhm)


@dataclass(frozen=True, eq=False)
class LineTest:
    """Tests elements one by one on a spectrum whose other counts are expected."""

    gains: dict[str, float]

    @classmethod
    def of(cls, axis_kev: Float64, counts: NDArray[Any], expected: NDArray[Any]) -> LineTest:
        """Compare `counts` (D,) with what was `expected` (D,), any continuum, and each element's lines in addition."""
        binned = _bin(axis_kev, np.maximum(np.asarray(counts, dtype=np.float64), 0.0))
        known = _bin(axis_kev, np.maximum(np.asarray(expected, dtype=np.float64), 0.0))
        if binned is None or known is None or not binned.counts.any():
            return cls({})
        if known.counts.any():
            binned = replace(binned, hats=np.concatenate([binned.hats, known.counts[None]]))
        search = _Search(binned, _Calibration())
        gains = search.gains()
        best: dict[str, float] = {}
        for candidate, gain in enumerate(gains.tolist()):
            element = search.templates.names[search.tied_shell[candidate]][0]
            best[element] = max(best.get(element, 0.0), gain)
        return cls(best)

    def gain(self, element: str) -> float:
        """Log likelihood ratio that an element's lines bring, 0 where they bring nothing."""
        return self.gains.get(element, 0.0)


def likelihood_gains(counts: Float64, model: Float64, variance: Float64, candidates: Float64) -> Float64:
    """Log likelihood ratio (C,) of adding each candidate spectrum (C, D) at its best positive amount.

    The maximum over the amount is found by Newton steps, for those few that a matched filter likes best; the others
    get 0. Where `variance`, with the model's own error, is more than that of counts, the ratio is lowered as that of a
    matched filter is.
    """
    plain = _matched(counts, model, model, candidates)
    best = np.argsort(-plain, kind="stable")[:_MOST_EXACT]
    some = candidates[best]
    area, amount = some.sum(axis=1), np.zeros(best.size)
    for _ in range(8):
        expected = model + amount[:, None] * some
        pull = some / expected
        slope, curvature = pull @ counts - area, pull**2 @ counts
        amount = np.maximum(amount + slope / np.maximum(curvature, 1e-300), 0.0)
    exact = np.maximum(np.log1p(amount[:, None] * some / model) @ counts - amount * area, 0.0)
    gains = np.zeros(plain.size)
    gains[best] = exact * np.minimum(_matched(counts, model, variance, some) / np.maximum(plain[best], 1e-300), 1.0)
    return gains


def _matched(counts: Float64, model: Float64, variance: Float64, candidates: Float64) -> Float64:
    """Matched filter's s^2 / (2 I) for a positive amount, (C,)."""
    filtered = np.maximum(((counts - model) / variance) @ candidates.T, 0.0)
    information = (1.0 / variance) @ (candidates**2).T
    return np.asarray(filtered**2 / (2.0 * np.maximum(information, 1e-300)))


def _beam_limit_kev(binned: _Binned) -> float:
    """Highest energy with counts (Duane and Hunt), or the end of the axis: a beam has at least that energy."""
    lit = np.flatnonzero(np.cumsum(binned.counts[::-1])[::-1] >= max(10.0, 1e-4 * binned.counts.sum()))
    return float(binned.edges[lit[-1] + 1]) if lit.size else float(binned.edges[-1])


def _refined(binned: _Binned, search: _Search, start: _Calibration) -> _Calibration:
    """Offset, gain and width that fit the found lines best, by Gauss-Newton steps with priors."""
    if not search.chosen:
        return start
    fit = search.result()
    lines = [line for line in fit.lines if line.counts > 50]
    if not lines:
        return start
    background = search.amounts[: binned.hats.shape[0]] @ binned.hats
    heights = np.array([line.counts for line in lines])
    kev = np.array([line.kev for line in lines])
    prior = np.array([_OFFSET_SD_KEV, _GAIN_SD, _WIDTH_SD])
    moved = np.zeros(3)
    for _ in range(4):
        profile, slopes = _shapes(binned.centres, kev, moved, start.fwhm)
        step = binned.edges[1] - binned.edges[0]
        model = np.maximum(background + step * heights @ profile, 1e-6)
        variance = model + (_SHAPE_ERROR * (model - background)) ** 2
        design = step * np.einsum("l,lpd->pd", heights, slopes)
        hessian = (design / variance) @ design.T + np.diag(1 / prior**2)
        gradient = design @ ((binned.counts - model) / variance) - moved / prior**2
        moved = moved + np.linalg.solve(hessian, gradient)
        moved = np.clip(moved, -3 * prior, 3 * prior)
    # Rounded, so that templates of like spectra are made once.
    fwhm = round(start.fwhm * float(np.exp(moved[2])), 4)
    return replace(start, fwhm=fwhm, offset=round(float(moved[0]), 4), gain=round(1 + float(moved[1]), 5))


def _shapes(x: Float64, kev: Float64, moved: Float64, fwhm: float) -> tuple[Float64, Float64]:
    """Gaussians (L, D) per keV and their derivatives (L, 3, D) by offset, gain and log width at Mn K-alpha."""
    at_mn = fwhm * float(np.exp(moved[2]))
    widths = fwhm_kev(kev, at_mn) / FWHM_PER_SIGMA
    away = (x - (moved[0] + (1 + moved[1]) * kev)[:, None]) / widths[:, None]
    profile = np.exp(-0.5 * away**2) / (np.sqrt(2 * np.pi) * widths[:, None])
    by_place = profile * away / widths[:, None]
    # d(log width)/d(log width at Mn) = (width at Mn / width)^2.
    ratio = (at_mn / FWHM_PER_SIGMA / widths) ** 2
    by_width = profile * (away**2 - 1) * ratio[:, None]
    return profile, np.stack([by_place, by_place * kev[:, None], by_width], axis=1)

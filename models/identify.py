"""Which crystals, and whether something amorphous, made a diffraction pattern; how much of each, and how sure it is.

Candidates join one by one while the evidence of the whole model rises: each brings its prior ignorance of strain, width
and texture along, so that a flexible phase is not preferred for being flexible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from models.base import Float64
from models.library import Library
from models.pattern import Fit, Hump, Lines, Part, PatternModel, Scan, Shape, bragg_deg, profiles

AMORPHOUS = "amorphous"
_LEAST_EVIDENCE = 5.0
"""Log Bayes factor beyond the odds of so many candidates: 150 to 1."""
_STRANGE, _MISSING = 7.0, 2.2
"""Lines of a phase may differ so much from its table (`PatternModel.strangeness`): of true ones with strong texture 5.6
and 1.9 are the most that was seen, false ones begin at half as much again."""
_MOST_STRAIN = 0.012
_MOST_PHASES = 6
_LEAST_COUNTS = 20.0
_TRIED, _LEAST_GAIN = 3, 4.0
_STRAINS = np.linspace(-0.009, 0.009, 61)
_WIDTHS_DEG = (0.09, 0.16, 0.28)
_SHAPE_ERROR = 0.05
_HUMPS_DEG = 6.0
_UNEXPLAINED = 14.0


@dataclass(frozen=True)
class FoundPhase:
    """A phase of a pattern.

    Attributes
    ----------
    name : str
        Of the library, or `AMORPHOUS`.
    evidence : float
        Log Bayes factor for its presence.
    counts : float
        Of the pattern that are its own.
    amount, amount_error : float
        Share among the crystalline phases by the references' own scale (volume, where the library has it), and its
        standard error; NaN for what is not crystalline.
    strain, strain_error : float
        Relative stretch of its lattice against the reference.
    """

    name: str
    evidence: float
    counts: float
    amount: float
    amount_error: float
    strain: float
    strain_error: float


@dataclass(frozen=True)
class Identification:
    """Phases of a pattern, most counts first, and places (deg) of lines that none of them explains."""

    phases: tuple[FoundPhase, ...]
    unexplained_deg: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the phases."""
        return tuple(p.name for p in self.phases)

    def words(self) -> str:
        """Say it to an operator."""
        said = []
        for p in self.phases:
            share = "" if np.isnan(p.amount) else f" {100 * p.amount:.0f} ± {100 * p.amount_error:.0f} %"
            moved = f", strain {100 * p.strain:+.2f} %" if abs(p.strain) > max(3 * p.strain_error, 5e-4) else ""
            said.append(f"{p.name}{share}{moved}")
        if self.unexplained_deg:
            said.append("unexplained at " + ", ".join(f"{place:.2f}°" for place in self.unexplained_deg))
        return "; ".join(said) or "nothing identified"


class Identifier:
    """A library of diffraction lines (and shapes of glasses) made ready for one axis.

    Parameters
    ----------
    library : Library
        Of technique xrd with a wavelength.
    two_theta_deg : f8[D]
        Channel centres, rising.

    Raises
    ------
    ValueError
        Where the library has no lines, or none on the axis.
    """

    def __init__(self, library: Library, two_theta_deg: Float64) -> None:
        if library.wavelength_a is None:
            raise ValueError("identification needs a library of diffraction lines with wavelength_a")
        self.two_theta_deg, self.wavelength_a = two_theta_deg, library.wavelength_a
        empty = Scan(two_theta_deg, np.zeros(two_theta_deg.size), library.wavelength_a)
        self.crystals: list[Lines] = []
        self.shapes: list[Shape] = []
        for reference in library.references:
            if reference.kind == "lines":
                lines = empty.lines(reference.name, reference.values, reference.intensities)
                self.crystals += [lines] if lines.n_inside else []
            else:
                curve = np.interp(two_theta_deg, reference.values, reference.intensities, left=0.0, right=0.0)
                self.shapes += [Shape(reference.name, curve / curve.sum())] if curve.any() else []
        if not self.crystals and not self.shapes:
            raise ValueError("no line of the library lies on this axis")

    def identify(self, counts: NDArray[Any], pedestal: float = 0.0) -> Identification:
        """Identify the phases of one pattern (D,) in counts."""
        scan = Scan(
            self.two_theta_deg, np.maximum(np.asarray(counts, dtype=np.float64), 0.0), self.wavelength_a, pedestal
        )
        if scan.counts.sum() < _LEAST_COUNTS:
            return Identification((), ())
        fit = self._grow(scan)
        fit, evidence = self._prune(scan, fit)
        return Identification(_phases(scan, fit, evidence), _unexplained(scan, fit))

    def patterns(self, counts: NDArray[Any], pedestal: float = 0.0) -> tuple[list[str], Float64]:
        """Names of the phases of a pattern (D,), and their patterns in it with the background last, f8[n + 1, D]."""
        scan = Scan(
            self.two_theta_deg, np.maximum(np.asarray(counts, dtype=np.float64), 0.0), self.wavelength_a, pedestal
        )
        if scan.counts.sum() < _LEAST_COUNTS:
            return [], np.zeros((0, scan.counts.size))
        fit, _ = self._prune(scan, self._grow(scan))
        parts = PatternModel(scan, fit.parts).part_counts(fit.theta)
        names = [AMORPHOUS if isinstance(part, Hump) else part.name for part in fit.parts]
        background = np.maximum(fit.expected - pedestal - parts.sum(axis=0), 1e-9)
        return names, np.concatenate([parts, background[None]])

    def _grow(self, scan: Scan) -> Fit:
        """Add the part that raises the evidence most, until none raises it enough."""
        model = PatternModel(scan, [])
        fit = model.fit(model.start())
        needed = _LEAST_EVIDENCE + np.log(max(len(self.crystals), 1))
        while len(fit.parts) < _MOST_PHASES:
            tried = [self._with(scan, fit, part, strain) for part, strain in self._proposals(scan, fit)]
            matching = [f for f in tried if _matches(scan, f, len(fit.parts), most=np.inf)]
            best = max(matching, key=lambda f: f.evidence, default=None)
            if best is None or (best.evidence - fit.evidence) / best.dispersion < needed:
                return fit
            fit = best
        return fit

    def _with(self, scan: Scan, fit: Fit, part: Part, strain: float) -> Fit:
        """Fit with one part more, beginning where the fit without it ended."""
        model = PatternModel(scan, [*fit.parts, part])
        start = model.start()
        start[: fit.theta.size] = fit.theta
        block = model.block(len(fit.parts))
        if isinstance(part, Lines):
            start[block.start + 1] = strain
        start[block.start] += _first_amount(scan, fit, model, start)
        return model.fit(start)

    def _proposals(self, scan: Scan, fit: Fit) -> list[tuple[Part, float]]:
        """The few candidates that a matched filter likes best, with the strain it likes."""
        present = {part.name for part in fit.parts if isinstance(part, Lines | Shape)}
        filtered = _Filtered.of(scan, fit)
        rated: list[tuple[float, Part, float]] = []
        for lines in self.crystals:
            if lines.name not in present:
                gain, strain = filtered.gain(lines)
                rated.append((gain, lines, strain))
        broad: list[Part] = [shape for shape in self.shapes if shape.name not in present]
        centre = filtered.hump()
        if centre is not None and not any(isinstance(p, Hump) for p in fit.parts):
            broad.append(Hump(centre))
        rated.sort(key=lambda r: -r[0])
        least = max(_LEAST_GAIN, 0.25 * rated[0][0]) if rated else 0.0
        return [(part, strain) for gain, part, strain in rated[:_TRIED] if gain > least] + [(p, 0.0) for p in broad]

    def _prune(self, scan: Scan, fit: Fit) -> tuple[Fit, list[float]]:
        """Drop parts that the others make superfluous; evidence for each of those that stay."""
        fit = PatternModel(scan, fit.parts).fit(fit.theta, tolerance=1e-3)
        while fit.parts:
            strange = [k for k in range(len(fit.parts)) if not _matches(scan, fit, k, most=_STRANGE)]
            if strange:
                fit = self._without(scan, fit, strange[-1])
                continue
            without = [self._without(scan, fit, k) for k in range(len(fit.parts))]
            losses = [(fit.evidence - other.evidence) / fit.dispersion for other in without]
            worst = int(np.argmin(losses))
            if losses[worst] >= _LEAST_EVIDENCE:
                return fit, losses
            fit = without[worst]
        return fit, []

    @staticmethod
    def _without(scan: Scan, fit: Fit, k: int) -> Fit:
        before = PatternModel(scan, fit.parts)
        model = PatternModel(scan, [part for i, part in enumerate(fit.parts) if i != k])
        return model.fit(np.delete(fit.theta, np.arange(before.mean.size)[before.block(k)]))


def _matches(scan: Scan, fit: Fit, k: int, most: float) -> bool:
    """Whether a part, if it is a crystal, looks like its table."""
    if not isinstance(fit.parts[k], Lines):
        return True
    model = PatternModel(scan, fit.parts)
    strange, missing = model.strangeness(fit, k)
    strain = float(fit.theta[model.first[k] + 1])
    return strange <= most and missing <= _MISSING and abs(strain) <= _MOST_STRAIN


@dataclass(frozen=True, eq=False)
class _Filtered:
    """Residual counts seen through a line's profile at every place of the axis, for some widths."""

    scan: Scan
    score: Float64
    information: Float64
    residual: Float64
    expected: Float64

    @classmethod
    def of(cls, scan: Scan, fit: Fit) -> _Filtered:
        model = PatternModel(scan, fit.parts)
        crystalline = any(isinstance(part, Lines) for part in fit.parts)
        widths = (model.width(fit.theta),) if crystalline else _WIDTHS_DEG
        known = maximum_filter1d(_of_lines(model, fit), max(3, round(widths[0] / scan.step_deg)))
        variance = fit.expected + (_SHAPE_ERROR * known) ** 2
        residual = scan.counts - fit.expected
        score, information = [], []
        for width in widths:
            side = round(4 * width / scan.step_deg)
            reach = scan.step_deg * np.arange(-side, side + 1, dtype=np.float64)
            kernel = scan.step_deg * profiles(reach[None], np.array([width]), 0.5)[0][0]
            score.append(np.convolve(residual / variance, kernel, mode="same"))
            information.append(np.convolve(1.0 / variance, kernel**2, mode="same"))
        return cls(scan, np.array(score), np.maximum(np.array(information), 1e-300), residual, fit.expected)

    def gain(self, lines: Lines) -> tuple[float, float]:
        """Log likelihood ratio of a phase at its best strain and width, roughly, and that strain.

        Half of it is for the tabulated intensities, half for each line alone: texture is neither excluded nor free.
        """
        n = lines.n_inside
        places = bragg_deg(lines.d_a[:n, None], self.scan.wavelength_a, _STRAINS[None])
        at = np.rint((places - self.scan.two_theta_deg[0]) / self.scan.step_deg).astype(np.int64)
        at = np.clip(at, 0, self.score.shape[1] - 1)
        weight = lines.intensities[:n, None] / lines.total
        best, strain = 0.0, 0.0
        for score, information in zip(self.score, self.information, strict=True):
            s, i = score[at], information[at]
            together = np.maximum((weight * s).sum(axis=0), 0.0) ** 2 / (2 * (weight**2 * i).sum(axis=0))
            alone = (np.maximum(s, 0.0) ** 2 / (2 * i)).sum(axis=0)
            gains = 0.5 * (together + alone)
            k = int(np.argmax(gains))
            if gains[k] > best:
                best, strain = float(gains[k]), float(_STRAINS[k])
        return best, strain

    def hump(self) -> float | None:
        """Where broad excess is largest, if anywhere."""
        width = max(3, round(_HUMPS_DEG / self.scan.step_deg))
        if width >= self.residual.size:
            return None
        window = np.ones(width)
        excess, expected = (np.convolve(a, window, mode="same") for a in (self.residual, self.expected))
        gains = np.maximum(excess, 0.0) ** 2 / (2 * expected)
        k = int(np.argmax(gains))
        return float(self.scan.two_theta_deg[k]) if gains[k] > _LEAST_GAIN else None


def _of_lines(model: PatternModel, fit: Fit) -> Float64:
    """Expected counts of all crystals together, f8[D]."""
    counts = model.part_counts(fit.theta)
    crystals = [k for k, part in enumerate(fit.parts) if isinstance(part, Lines)]
    return np.asarray(counts[crystals].sum(axis=0))


def _first_amount(scan: Scan, fit: Fit, model: PatternModel, start: Float64) -> float:
    """Log factor that brings a new part to what the residual has of it, by a matched filter."""
    part = model.part_counts(start)[-1]
    filtered = float((part / fit.expected) @ (scan.counts - fit.expected))
    information = float((part / fit.expected) @ part)
    return float(np.log(np.clip(filtered / max(information, 1e-300), 1e-3, 1e3)))


def _phases(scan: Scan, fit: Fit, evidence: Sequence[float]) -> tuple[FoundPhase, ...]:
    model = PatternModel(scan, fit.parts)
    counts_of = model.part_counts(fit.theta).sum(axis=1)
    crystals = [k for k, part in enumerate(fit.parts) if isinstance(part, Lines)]
    logs = [model.first[k] for k in crystals]
    amounts = np.exp(fit.theta[logs])
    shares = amounts / amounts.sum() if len(amounts) else amounts
    # d share_i / d log a_j = share_i (delta_ij - share_j).
    gradient = shares[:, None] * (np.eye(len(shares)) - shares[None])
    errors = np.sqrt(np.maximum(np.diagonal(gradient @ fit.covariance[np.ix_(logs, logs)] @ gradient.T), 0.0))
    found = []
    for k, part in enumerate(fit.parts):
        first, counts = model.first[k], float(counts_of[k])
        if isinstance(part, Lines):
            i = crystals.index(k)
            strain, error = float(fit.theta[first + 1]), float(np.sqrt(fit.covariance[first + 1, first + 1]))
            found.append(FoundPhase(part.name, evidence[k], counts, float(shares[i]), float(errors[i]), strain, error))
        else:
            name = part.name if isinstance(part, Shape) else AMORPHOUS
            found.append(FoundPhase(name, evidence[k], counts, np.nan, np.nan, 0.0, 0.0))
    return tuple(sorted(found, key=lambda p: -p.counts))


def _unexplained(scan: Scan, fit: Fit) -> tuple[float, ...]:
    """Places of at most three lines that stand out of the fit.

    Kulldorff's n ln(n / b) - (n - b) over windows of a line's width, lowered where the fitted lines' own error counts.
    """
    model = PatternModel(scan, fit.parts)
    width = max(3, round(1.5 * model.width(fit.theta) / scan.step_deg))
    window = np.ones(width)
    n, b = np.convolve(scan.counts, window, mode="same"), np.convolve(fit.expected, window, mode="same")
    known = maximum_filter1d(np.convolve(_of_lines(model, fit), window, mode="same"), 3 * width)
    gains = np.where(n > b, n * np.log(np.maximum(n, 1e-9) / b) - (n - b), 0.0) / (1 + (_SHAPE_ERROR * known) ** 2 / b)
    places: list[float] = []
    reach = max(3, round(1.0 / scan.step_deg))
    while len(places) < 3 and gains.max(initial=0.0) > _UNEXPLAINED:
        k = int(np.argmax(gains))
        places.append(float(scan.two_theta_deg[k]))
        gains[max(k - reach, 0) : k + reach + 1] = 0.0
    return tuple(sorted(places))

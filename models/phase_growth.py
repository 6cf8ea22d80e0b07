"""Finding phases: a mixture that grows by the phase that explains most, as long as each is one of its own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from models.base import Float64, Pieces
from models.composition import CompositionSpace
from models.phase_likelihood import GaussLikelihood
from models.phase_mixture import (
    FAINTEST,
    Evaluation,
    Likelihood,
    Mixture,
    Pair,
    Sample,
    evaluate,
    refined,
)
from models.phase_patches import Surroundings, apart_in_space
from models.phase_proposals import proposals
from models.phase_starts import all_bridged, corner_mixture, first_mixture, with_phases, without

_SETTLE_STEPS, _TRIAL_STEPS = 12, 8
_SETTLED = 1.0
_EVIDENCE = 10.0
_VALLEY = 0.5
_APART = 2.2
_PATIENCE = 2
_FEWEST_TILES = 64
_SURELY_APART = 5.0
_SEAM_ROWS = 48
_INSIDE, _SURELY_MIXED = 0.3, 1e-3
_TENTH = 0.01
_MISSED = 500.0
_NEEDED = 0.6
_LEFT, _WIDE = 0.05, 10.0


@dataclass(frozen=True)
class PhaseLimits:
    """What a phase must have: `least` positions of its own, of `most` phases at most."""

    least: int = 10
    most: int = 16


@dataclass(frozen=True)
class Fit:
    """A mixture, what it says of the sample, and how good it is for its size."""

    mixture: Mixture
    found: Evaluation
    value: float


def settled(
    mixture: Mixture,
    sample: Sample,
    likelihood: Likelihood,
    steps: int = _SETTLE_STEPS,
    wanted: float = -np.inf,
) -> Pieces[Fit]:
    """Expectation-maximisation until little changes, dropping mixtures of pairs that nothing needs.

    It is given up where the log likelihood has come nowhere near the one that is `wanted`.
    """
    found = yield from evaluate(mixture, sample, likelihood)
    before = -np.inf
    for step in range(steps):
        mixture = yield from refined(mixture, sample, found, likelihood)
        pruned = _without_idle_bridge(mixture, found, sample) if step >= 2 else mixture
        dropped, mixture = pruned is not mixture, pruned
        yield
        found = yield from evaluate(mixture, sample, likelihood)
        now = float(found.log_density @ sample.weight)
        if step > 3 and ((not dropped and now - before < _SETTLED) or now + 3 * (now - before) < wanted):
            break
        before = now
    return Fit(mixture, found, _criterion(mixture, found, sample, likelihood))


def _stands_for(found: Evaluation, sample: Sample) -> Float64:
    """How many spectra each of those stands for that carry a part of the mixture, on average, (C + B + 1,)."""
    mass = np.maximum(found.posterior @ sample.weight, 1e-300)
    return np.maximum(np.asarray(found.posterior @ sample.weight**2 / mass), 1.0)


def _criterion(mixture: Mixture, found: Evaluation, sample: Sample, likelihood: Likelihood) -> float:
    """Log likelihood less half the parameters times the log of the number of spectra (Schwarz); more is better.

    Where one spectrum stands for many, chance agreement is as many times too strong, and so is a parameter's price.
    """
    d = mixture.rest.mean.size
    wide = [c.n_wide if likelihood.spreads else 0 for c in mixture.phases]
    parameters = np.array([*(1 + d * (1 + n) for n in wide), *(1 for _ in mixture.bridges), 0], dtype=np.float64)
    price = 0.5 * float(parameters @ _stands_for(found, sample)) * float(np.log(sample.size))
    return float(found.log_density @ sample.weight) - price


def _without_idle_bridge(mixture: Mixture, found: Evaluation, sample: Sample) -> Mixture:
    """Without the mixtures of the pair that is needed least, where that costs less than it saves."""
    if not found.pairs:
        return mixture
    n = len(mixture.phases)
    mixed = np.minimum(found.posterior[n:-1], 1.0 - 1e-12)
    share = np.array(list(mixture.bridges.values()))
    # What the others would lose if nothing took over: more than the true loss.
    loss = -np.log1p(-mixed) @ sample.weight + sample.size * np.log1p(-np.minimum(share, 0.999))
    loss /= _stands_for(found, sample)[n:-1]
    least = int(np.argmin(loss))
    if loss[least] >= 0.5 * np.log(sample.size):
        return mixture
    return replace(mixture, bridges={p: s for b, (p, s) in enumerate(mixture.bridges.items()) if b != least})


# Growing and shrinking


def grown(
    mixture: Mixture, sample: Sample, likelihood: Likelihood, limits: PhaseLimits, where: Surroundings | None = None
) -> Pieces[Fit]:
    """The mixture with every phase that the sample shows, and none that it can do without."""
    start = yield from settled(all_bridged(mixture), sample, likelihood)
    best = yield from _believed(start, sample, likelihood, limits, where)
    if likelihood.spreads and len(best.mixture.phases) <= sample.z.shape[1] and _is_vague(best, sample):
        # Steps one by one do not lead from a cloud as wide as everything to the corners that it hides.
        named = int(_named(best, sample).sum())
        corners = corner_mixture(best.mixture, sample, likelihood.space, named, limits.most)
        rival = yield from settled(corners, sample, likelihood)
        rival = yield from _believed(rival, sample, likelihood, limits, where)
        best = rival if rival.value > best.value + _EVIDENCE else best
    return (yield from _climbed(best, sample, likelihood, limits, where))


def _climbed(
    best: Fit, sample: Sample, likelihood: Likelihood, limits: PhaseLimits, where: Surroundings | None
) -> Pieces[Fit]:
    """The mixture with one phase more, and one more, as long as that is better."""
    at = best
    # Phases may come in sight only together: some steps lead over mixtures that would not be believed.
    patience = _PATIENCE
    while len(at.mixture.phases) < limits.most and patience:
        step = yield from _next_step(at, sample, likelihood)
        if step is None:
            break
        believed = yield from _believed(step, sample, likelihood, limits, where)
        if believed.value > best.value + _EVIDENCE:
            best = at = believed
            patience = _PATIENCE
        else:
            at = step
            patience -= 1
    return best


def seen_in_tiles(
    best: Fit, sample: Sample, likelihood: Likelihood, limits: PhaseLimits, where: Surroundings
) -> Pieces[Fit]:
    """The mixture with the phases that sums of neighbours show, as many or more, if they explain single spectra better.

    Near phases that noise blurs into one crowd, so that no step leads to them, are crowds of their own among tiles with
    four times the counts. Where nothing is blurred, tiles show no more than positions do, but for columns of an
    interface, two of which are a tile.
    """
    tiles = yield from where.tiles(sample.weight.size)
    if tiles.weight.size < _FEWEST_TILES:
        return best
    # What the mixture is stuck in, tiles would be stuck in too.
    afresh = first_mixture(tiles, likelihood.space)
    seen = yield from grown(afresh, tiles, GaussLikelihood(likelihood.space), limits)
    if len(seen.mixture.phases) < len(best.mixture.phases) or not _has_blurred(seen.mixture, _typical(sample)):
        return best
    named = int(_named(best, sample).sum())
    found = [(c.mean, float(s)) for c, s in zip(seen.mixture.phases, seen.mixture.share, strict=True)]
    start = with_phases(best.mixture, named, found, likelihood.space)
    rival = yield from settled(start, sample, likelihood)
    rival = yield from _believed(rival, sample, likelihood, limits, where)
    # Two ways to explain the same: neither has to be the better one by much.
    if rival.value <= best.value:
        return best
    return (yield from _climbed(rival, sample, likelihood, limits, where))


def _has_blurred(mixture: Mixture, exposure: float) -> bool:
    """Whether two phases are so near that single spectra of this exposure do not surely tell them apart."""
    pairs = combinations(range(len(mixture.phases)), 2)
    return any(_along(mixture, pair, exposure)[0] < _SURELY_APART**2 for pair in pairs)


def _typical(sample: Sample) -> float:
    return float(np.average(np.maximum(sample.exposure, FAINTEST), weights=sample.weight))


def _typical_of_a_count(sample: Sample) -> float:
    exposure = np.maximum(sample.exposure, FAINTEST)
    return float(np.average(exposure, weights=sample.weight * exposure))


def _is_vague(fit: Fit, sample: Sample) -> bool:
    """Whether much is not explained, or by a phase that is far wider than noise."""
    widest = max(float(cloud.spread[0]) for cloud in fit.mixture.phases)
    return float(fit.found.unexplained @ sample.weight) > _LEFT * sample.size or _typical(sample) * widest > _WIDE


def _next_step(at: Fit, sample: Sample, likelihood: Likelihood) -> Pieces[Fit | None]:
    """The best mixture with one more phase; None if nothing gains."""
    best = None
    wanted = float(at.found.log_density @ sample.weight) + _EVIDENCE
    for trial in proposals(at.mixture, at.found, sample, likelihood.space):
        tried = yield from settled(trial, sample, likelihood, _TRIAL_STEPS, wanted)
        if tried.value > (at.value + _EVIDENCE if best is None else best.value):
            best = tried
    return best


def _believed(
    fit: Fit, sample: Sample, likelihood: Likelihood, limits: PhaseLimits, where: Surroundings | None
) -> Pieces[Fit]:
    """Without phases that are not ones of their own, or that the criterion does not want."""
    needed: set[int] = set()
    while len(fit.mixture.phases) > 1:
        doubtful = yield from _indistinct(fit, sample, likelihood.space, limits, where, needed)
        if doubtful is not None:
            tried = yield from settled(without(fit.mixture, doubtful), sample, likelihood, _TRIAL_STEPS)
            # Two phases without spread explain a gradient about as well as two crowds. Where there are others, its ends
            # pass for phases until there are the counts to tell; else grains of ten counts would all be one phase.
            may_be = likelihood.spreads or len(fit.mixture.phases) > 2
            if may_be and doubtful not in needed and _is_needed(fit, tried, sample, doubtful, limits):
                needed.add(doubtful)
            else:
                fit, needed = tried, set()
            continue
        seam = None if where is None else (yield from _seam(fit, sample, likelihood, where))
        if seam is not None:
            fit, needed = (
                (yield from settled(without(fit.mixture, seam), sample, likelihood, _TRIAL_STEPS)),
                set(),
            )
            continue
        weakest = _weakest(fit, sample)
        if weakest is None:
            return fit
        tried = yield from settled(without(fit.mixture, weakest), sample, likelihood, _TRIAL_STEPS)
        if tried.value <= fit.value:
            return fit
        fit = tried
    return fit


def _named(fit: Fit, sample: Sample) -> NDArray[np.bool_]:
    return np.isin(np.arange(len(fit.mixture.phases)), sample.known)


def _weakest(fit: Fit, sample: Sample) -> int | None:
    """The phase that would be missed least, if it may be so little that the criterion can do without."""
    loss = np.array(
        [
            np.inf if named else -np.log1p(-np.minimum(fit.found.involving(c), 1.0 - 1e-12)) @ sample.weight
            for c, named in enumerate(_named(fit, sample))
        ]
    )
    weakest = int(np.argmin(loss))
    return weakest if loss[weakest] < _MISSED else None


def _is_needed(fit: Fit, without: Fit, sample: Sample, c: int, limits: PhaseLimits) -> bool:
    """Whether the spectra that a phase takes part in are so much worse explained without it that it must be one.

    A wide cloud explains a gradient about as well as its two ends with mixtures between them do: for compositions that
    are evenly spread it is worse by .18 a spectrum. It does not explain a corner with mixtures towards it. What lies on
    the only way from one phase to another is no corner: mixtures may be bent (by absorption, for one). Nor is what lies
    between two others: mixtures of them may be denser there than elsewhere (along a blurred interface).
    """
    mass = fit.found.dominant[c] * sample.weight
    if min(float(mass.sum()), float(mass.sum()) ** 2 / max(float(mass @ sample.weight), 1e-300)) < limits.least:
        return False
    if between(fit.mixture, c) is not None:
        return False
    towards = sorted(i + j - c for i, j in fit.mixture.bridges if c in {i, j})
    if any(pair not in fit.mixture.bridges for pair in combinations(towards, 2)):
        return False
    loss = float((fit.found.log_density - without.found.log_density) @ sample.weight)
    return loss > _NEEDED * float(fit.found.involving(c) @ sample.weight)


def _indistinct(
    fit: Fit,
    sample: Sample,
    space: CompositionSpace,
    limits: PhaseLimits,
    where: Surroundings | None,
    but: Collection[int],
) -> Pieces[int | None]:
    """A phase (none that was named, nor in `but`) that is not one of its own; None if all are.

    Each must have enough spectra; between any two there must be fewer spectra than at either (at typical exposure, or
    with what lies around them), so that neither is a part of a gradient or of an interface; and their true spreads must
    not meet.
    """
    mixture, mass = fit.mixture, fit.found.posterior[: len(fit.mixture.phases)]
    named = _named(fit, sample)
    total, squared = mass @ sample.weight, mass @ sample.weight**2
    enough = np.minimum(total, total**2 / np.maximum(squared, 1e-300)) >= limits.least
    fine = enough | named | np.isin(np.arange(len(mass)), list(but))
    if not np.all(fine):
        return int(np.argmin(np.where(fine, np.inf, total)))
    # In a sparse scan, what may lie between two phases is measured on until it is known: as surely as that is told.
    typical = _typical(sample) if where is None or not where.is_sparse else _typical_of_a_count(sample)
    for i, j in combinations(np.argsort(-np.where(named, np.inf, total), kind="stable").tolist(), 2):
        if named[j]:
            continue
        pair = (min(i, j), max(i, j))
        length, inner, widths = _along(mixture, pair, typical)
        meet = length <= _APART * float(inner.sum())
        if not meet and (j in but or _valley_between(mixture, pair, length, widths)):
            continue
        if where is None or not (yield from apart_in_space(mixture, fit.found, pair, sample, space, where)):
            return int(j)
    return None


def _along(mixture: Mixture, pair: Pair, exposure: float) -> tuple[float, Float64, Float64]:
    """Distance of two phases, their true spreads (2,), and these with noise (2,), along what tells them apart best."""
    a, b = (mixture.phases[c] for c in pair)
    step = b.mean - a.mean
    along = np.linalg.solve(((a.noise + b.noise) / exposure + a.covariance + b.covariance) / 2, step)
    inner = np.array([along @ c.covariance @ along for c in (a, b)])
    noise = np.array([along @ c.noise @ along for c in (a, b)]) / exposure
    return float(along @ step), np.sqrt(inner), np.sqrt(noise + inner)


def _valley_between(mixture: Mixture, pair: Pair, length: float, widths: Float64) -> bool:
    x = np.linspace(0.0, length, 65)
    density = mixture.bridges.get(pair, 0.0) / length + np.zeros_like(x)
    for share, centre, width in zip(mixture.share[list(pair)], (0.0, length), widths, strict=True):
        density += share / (np.sqrt(2 * np.pi) * width) * np.exp(-0.5 * ((x - centre) / width) ** 2)
    return bool(density.min() < _VALLEY * min(density[0], density[-1]))


def _seam(fit: Fit, sample: Sample, likelihood: Likelihood, where: Surroundings) -> Pieces[int | None]:
    """A phase (none that was named) that is the row of mixed positions along an interface of two others.

    Such a row may all have the same composition, where the interface lies along the raster; but it is a mixture of both
    sides, and one position wide. What lies beside it has other shares of them; where there are the counts to tell, that
    is surely a mixture of it and one of them.
    """
    for c in np.flatnonzero(~_named(fit, sample)).tolist():
        if between(fit.mixture, c) is None:
            continue
        rows = np.flatnonzero(fit.found.posterior[c] > 0.5)
        rows = rows[:: max(1, rows.size // _SEAM_ROWS)]
        beside, owner = where.around(rows)
        if not owner.size:
            continue
        found = yield from evaluate(fit.mixture, beside, likelihood)
        mine = (found.dominant.argmax(axis=0) == c) & (found.posterior[c] > _SURELY_MIXED)
        like = np.bincount(owner, mine, minlength=rows.size)
        inside = like >= np.bincount(owner, minlength=rows.size) - 1
        if inside.mean() < _INSIDE:
            return int(c)
    return None


def between(mixture: Mixture, c: int) -> Pair | None:
    """Two phases of which a phase is, within a tenth, a mixture; None where it is of none."""
    frame = mixture.phases[c].frame
    others = [(k, (cloud.mean - mixture.phases[c].mean) @ frame.T) for k, cloud in enumerate(mixture.phases) if k != c]
    for (i, a), (j, b) in combinations(others, 2):
        step = b - a
        squared = max(float(step @ step), 1e-300)
        along = -float(a @ step) / squared
        off = a + along * step
        if 0.05 < along < 0.95 and float(off @ off) < _TENTH * squared:
            return i, j
    return None

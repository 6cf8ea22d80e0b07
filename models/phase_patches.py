"""Whether two phases that few counts blur into each other are told apart by what lies around each position."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.base import Float64, Pieces
from models.composition import CompositionSpace
from models.phase_likelihood import GaussLikelihood
from models.phase_mixture import FAINTEST, Evaluation, Mixture, Pair, Sample, evaluate
from models.phase_sample import spread_out

_ROWS, _AT_ONCE = 512, 16
_BANDWIDTH = 0.1
_VALLEY = 0.6
"""Of the lower peak: in simulated gradients chance left .68 at least, and grains of ten positions .23 to .51."""
_SURE = 2.1
"""Three standard deviations of the difference of the roots of two Poisson numbers."""


class Surroundings(Protocol):
    """Where the spectra of a sample lie."""

    @property
    def is_sparse(self) -> bool:
        """Whether some positions are measured and others not, and each for as long as it asks for."""
        ...

    def around(self, rows: NDArray[np.int64]) -> tuple[Sample, NDArray[np.int64]]:
        """Spectra next to those of the sample, as far as there are, and for each beside which of `rows` it lies."""
        ...

    def patches(self, rows: NDArray[np.int64]) -> tuple[Sample, NDArray[np.int64]]:
        """Compositions of spectra of the sample and of all around them, and for each which of `rows` it belongs to."""
        ...

    def tiles(self, most: int) -> Pieces[Sample]:
        """Compositions of so many tiles at most of two positions a side, spread out over all that was measured."""
        ...


def apart_in_space(
    mixture: Mixture, found: Evaluation, pair: Pair, sample: Sample, space: CompositionSpace, where: Surroundings
) -> Pieces[bool]:
    """Whether few patches of the scan lie between two phases, compared to how many are like either.

    A patch is the mean of a position and of those around it, as far as they are of the pair, and much less noisy than a
    single spectrum. Where phases have grains, most patches lie inside one of them; in a gradient, patches are as evenly
    spread as positions are; and where phases are mixed at random, all patches lie in the middle.

    Parameters
    ----------
    found : Evaluation
        What the mixture says of the sample.
    pair : (int, int)
        Two phases of the mixture.
    """
    rows = np.flatnonzero(_of_pair(found, pair) > 0.5)
    rows = rows[spread_out(rows.size, _ROWS)]
    likelihood, means = GaussLikelihood(space), []
    for first in range(0, rows.size, _AT_ONCE):
        some = rows[first : first + _AT_ONCE]
        near, owner = where.patches(some)
        yield
        evaluated = yield from evaluate(mixture, near, likelihood)
        known = _of_pair(evaluated, pair) * np.maximum(near.exposure, FAINTEST)
        sums = [np.bincount(owner, known * part, some.size) for part in (_place(mixture, pair, near.z), 1.0)]
        means.append(sums[0] / np.maximum(sums[1], 1e-300))
    return bool(rows.size) and _has_valley(np.concatenate(means), sample.weight[rows])


def _of_pair(found: Evaluation, pair: Pair) -> Float64:
    """Probability to be one of two phases, or a mixture of both, (n,)."""
    parts = [*pair, *(found.n_phases + b for b, other in enumerate(found.pairs) if other == pair)]
    return np.asarray(found.posterior[parts].sum(axis=0))


def _place(mixture: Mixture, pair: Pair, z: Float64) -> Float64:
    """Place on the way from the first to the second phase, 0 to 1, of coordinates (n, d), as well as noise allows."""
    a, b = (mixture.phases[c] for c in pair)
    step = b.mean - a.mean
    along = np.linalg.solve(a.noise + b.noise, step)
    return np.asarray((z - a.mean) @ along / max(float(along @ step), 1e-300))


def _has_valley(place: Float64, weight: Float64) -> bool:
    """Whether the density of places (n,) surely falls well below what it is at the lower of two peaks around it."""
    x = np.linspace(-0.5, 1.5, 81)
    kernel = np.exp(-0.5 * ((x[:, None] - place) / _BANDWIDTH) ** 2)
    density = kernel @ weight
    # As many spectra of weight 1 would be known as well.
    number = density**2 / np.maximum(kernel @ weight**2, 1e-300)
    half = x.size // 2
    low, high = int(np.argmax(density[:half])), half + int(np.argmax(density[half:]))
    valley = low + int(np.argmin(density[low : high + 1]))
    lower = low if density[low] < density[high] else high
    surely = np.sqrt(number[lower]) - np.sqrt(number[valley]) > _SURE
    return bool(density[valley] < _VALLEY * density[lower] and surely)

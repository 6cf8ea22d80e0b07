"""What a learner knows, apart from how it learns: to be merged with what another one knows, or sent to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import Float32, Float64
from models.moments import Moments
from models.noise import NoiseModel
from models.pca import Tracker
from models.preprocess import Scaling, make_scaling

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class LearntState:
    """A candidate for publication: scaled vectors (m, K), scree, edge and the scaling they live in.

    `n_spectra` is the number of spectra learnt, `total` (D,) their summed counts and `exposure` their summed exposure.
    """

    vectors: Float32 | Float64
    eigenvalues: Float64
    edge: float
    scaling: Scaling
    n_spectra: float
    total: Float64
    exposure: float


@dataclass(frozen=True)
class Learnt:
    """Running sums and second moments of a learner.

    Attributes
    ----------
    noise : NoiseModel
        Of single visits; `estimated` where it was not given.
    total, profile : ndarray of float64, (D,)
        Summed counts, and summed with the squared row weights of the fit.
    exposure, weight : float
        Summed exposure and spectra, less what was forgotten.
    n_seen, n_values : int
        Spectra and numbers in them, ever.
    tracker : Moments or Tracker, optional
    scaling : Scaling, optional
        What the vectors of a `Tracker` live in.
    """

    noise: NoiseModel
    estimated: bool
    total: Float64
    profile: Float64
    exposure: float
    weight: float
    n_seen: int
    n_values: int
    tracker: Moments | Tracker | None
    scaling: Scaling | None

    def arrays(self) -> Arrays:
        """Plain arrays by name, of numbers only."""
        noise = self.noise
        known = [not noise.is_poisson, noise.gain, noise.offset, noise.read_sigma, self.estimated]
        out: Arrays = {
            "noise": np.array(known, dtype=np.float64),
            "total": self.total,
            "profile": self.profile,
            "sums": np.array([self.exposure, self.weight]),
            "seen": np.array([self.n_seen, self.n_values], dtype=np.int64),
        }
        if isinstance(self.tracker, Moments):
            out |= {"moments": self.tracker.packed(), "rows": np.array([self.tracker.n_rows, self.tracker.squares])}
        elif self.tracker is not None and self.scaling is not None:
            out |= {"vectors": self.tracker.vectors, "values": self.tracker.values}
            out |= {"rows": np.array([self.tracker.n_rows, self.tracker.squares])}
            out |= {"starts": self.scaling.starts, "scale": self.scaling.scale, "share": self.scaling.share}
        return out

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], keep: int) -> Learnt:
        """The same from its arrays, which are copied; `keep` components are tracked from here on."""
        poisson_gaussian, gain, offset, read_sigma, estimated = arrays["noise"].tolist()
        noise = NoiseModel("poisson_gaussian" if poisson_gaussian else "poisson", gain, offset, read_sigma)
        exposure, weight = arrays["sums"].tolist()
        n_seen, n_values = arrays["seen"].tolist()
        total, profile = (np.array(arrays[name], dtype=np.float64) for name in ("total", "profile"))
        tracker, scaling = _tracker_of(arrays, total.size, keep)
        return cls(noise, bool(estimated), total, profile, exposure, weight, n_seen, n_values, tracker, scaling)

    def merged(self, other: Learnt, keep: int, peak_width: float) -> Learnt:
        """What both know together; the trackers of both are used up.

        Exact for second moments. Truncated histories V diag(l) V' are brought to a common scaling of the channels,
        put side by side as V diag(sqrt(l)), and truncated again.
        """
        if other.weight <= 0:
            return self
        if self.weight <= 0:
            return other
        other = other.with_noise(self.noise)
        total, profile = self.total + other.total, self.profile + other.profile
        weight = self.weight + other.weight
        scaling = make_scaling(total / weight, weight, self.noise, peak_width, profile)
        tracker, lives_in = _merged_trackers(self, other, scaling, keep)
        return Learnt(
            self.noise, self.estimated, total, profile, self.exposure + other.exposure, weight,
            self.n_seen + other.n_seen, self.n_values + other.n_values, tracker, lives_in,
        )  # fmt: skip

    def with_noise(self, noise: NoiseModel) -> Learnt:
        """The same as if rows had been weighted by another noise model: exact where that differs by its gain only."""
        if noise == self.noise:
            return self
        exposure = float(noise.row_variance(np.array([self.total.sum()]), self.weight, self.total.size)[0])
        if exposure <= 0 or self.exposure <= 0:
            return replace(self, noise=noise)
        factor = self.exposure / exposure
        if isinstance(self.tracker, Moments):
            self.tracker.scale(factor)
        elif self.tracker is not None:
            self.tracker.values = self.tracker.values * factor
        return replace(self, noise=noise, profile=self.profile * factor, exposure=exposure)


def _tracker_of(
    arrays: Mapping[str, NDArray[Any]], n_channels: int, keep: int
) -> tuple[Moments | Tracker | None, Scaling | None]:
    if "rows" not in arrays:
        return None, None
    n_rows, squares = arrays["rows"].tolist()
    if "moments" in arrays:
        moments = Moments(n_channels, keep)
        moments.unpack(arrays["moments"], n_rows, squares)
        return moments, None
    starts = np.array(arrays["starts"], dtype=np.int64)
    group = np.repeat(np.arange(starts.size), np.diff(starts, append=n_channels))
    scaling = Scaling(starts, group, np.array(arrays["scale"]), np.array(arrays["share"]))
    vectors, values = np.array(arrays["vectors"], dtype=np.float32), np.array(arrays["values"], dtype=np.float64)
    return Tracker(keep, vectors, values, n_rows, squares), scaling


def _merged_trackers(
    one: Learnt, other: Learnt, scaling: Scaling, keep: int
) -> tuple[Moments | Tracker | None, Scaling | None]:
    a, b = one.tracker, other.tracker
    if a is None or b is None:
        return (b, other.scaling) if a is None else (a, one.scaling)
    if isinstance(a, Moments) and isinstance(b, Moments):
        a.merge(b)
        return a, None
    first, second = (_history(learnt, scaling, keep) for learnt in (one, other))
    first.absorb(second)
    return first, scaling


def _history(learnt: Learnt, scaling: Scaling, keep: int) -> Tracker:
    """A truncated history in this scaling, whatever it was kept as."""
    tracker = learnt.tracker
    if isinstance(tracker, Moments):
        vectors, values = tracker.solve(scaling)
        return Tracker(keep, vectors.astype(np.float32), values, tracker.n_rows, tracker.squares)
    if tracker is None or learnt.scaling is None:
        raise AssertionError("there is a history in a scaling")
    tracker.rescale(learnt.scaling, scaling)
    return tracker

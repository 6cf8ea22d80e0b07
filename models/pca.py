"""Streaming principal components: Gram update, and Rayleigh-Ritz step with history.

Both keep a history V diag(l) V' of everything seen, V (m, k) with orthonormal columns and l (k,) summed variances.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Counts, Float32, Float64, as_dense
from models.blocks import Block, back, times
from models.preprocess import Scaling, column_sums

_CUT = 1e-6
Real = TypeVar("Real", np.float32, np.float64)
_GRAM_ROWS = 256


class Rows(Protocol):
    """A block of n scaled spectra y (n, m), seen through products only."""

    @property
    def n_rows(self) -> int:
        """Spectra in the block."""
        ...

    def times(self, vectors: Float32) -> Float32:
        """y @ vectors, (n, k)."""
        ...

    def back(self, scores: Float32) -> Float32:
        """y' @ scores, (m, k)."""
        ...

    def dense(self) -> Float32:
        """y itself, (n, m)."""
        ...


@dataclass(frozen=True)
class DenseRows:
    """Scaled spectra that are there as an array (n, m)."""

    y: Float32

    @property
    def n_rows(self) -> int:
        """Spectra in the block."""
        return int(self.y.shape[0])

    def times(self, vectors: Float32) -> Float32:
        """y @ vectors."""
        return np.asarray(self.y @ vectors)

    def back(self, scores: Float32) -> Float32:
        """y' @ scores."""
        return np.asarray(self.y.T @ scores)

    def dense(self) -> Float32:
        """y itself."""
        return self.y


@dataclass(frozen=True)
class ScaledRows:
    """Blocks of counts (n, D) in float32, dense or CSR, scaled on the fly: y = weight * merge(counts)."""

    blocks: tuple[Block, ...]
    weight: Float64
    scaling: Scaling

    @property
    def n_rows(self) -> int:
        """Spectra in all blocks."""
        return int(self.weight.size)

    def _parts(self) -> Iterator[tuple[slice, Block]]:
        first = 0
        for block in self.blocks:
            yield slice(first, first + block.shape[0]), block
            first += block.shape[0]

    def times(self, vectors: Float32) -> Float32:
        """y @ vectors, without forming y."""
        projector = self.scaling.projector(vectors)
        scores = np.empty((self.n_rows, projector.shape[1]), dtype=np.float32)
        for part, block in self._parts():
            scores[part] = times(block, projector)
        scores *= self.weight[:, None].astype(np.float32)
        return scores

    def back(self, scores: Float32) -> Float32:
        """y' @ scores, without forming y."""
        weighted = scores * self.weight[:, None].astype(np.float32)
        image: Float32 | None = None
        for part, block in self._parts():
            product = back(block, weighted[part])
            image = product if image is None else image + product
        if image is None:
            image = np.zeros((self.scaling.n_channels, scores.shape[1]), dtype=np.float32)
        return self.scaling.merge32(image)

    def dense(self) -> Float32:
        """y itself."""
        counts = np.concatenate([as_dense(block) for block in self.blocks])
        return np.asarray(self.scaling.merge(counts.T).T * self.weight[:, None], dtype=np.float32)


def gram_step(vectors: Float32, values: Float64, rows: Float32, keep: int) -> tuple[Float32, Float64]:
    """Best `keep` components of V diag(l) V' + rows' rows, by the small Gram matrix (Ross et al., IJCV 2008).

    Exact but for what `keep` cuts off. The long products are in single precision, the small problem in double.

    Parameters
    ----------
    vectors, values : ndarray, (m, k) and (k,)
        The history; k may be 0.
    rows : ndarray, (n, m)
        Scaled spectra.
    """
    root = np.sqrt(values)
    cross = (rows @ vectors).astype(np.float64) * root
    k = values.size
    gram = np.empty((k + rows.shape[0], k + rows.shape[0]))
    gram[:k, :k] = np.diag(values)
    gram[k:, :k], gram[:k, k:] = cross, cross.T
    gram[k:, k:] = rows @ rows.T
    found, small = _top(gram, keep)
    if not found.size:
        return np.zeros((rows.shape[1], 0), dtype=np.float32), np.zeros(0)
    small = small / np.sqrt(found)
    lifted = vectors @ _single(small[:k] * root[:, None]) + rows.T @ _single(small[k:])
    return _tidy(lifted), found


def ritz_step(
    vectors: Float32, values: Float64, rows: Rows, lead: int | None = None, keep: int | None = None
) -> tuple[Float32, Float64]:
    """Best components of V diag(l) V' + y'y within the span of V and y'y V (a block Krylov space of depth one).

    Three products with the block, as one plain subspace step takes; keeping V in the span loses none of the history,
    and at low counts comes close to the exact update (`gram_step`), which the plain step does not.

    Parameters
    ----------
    lead : int, optional
        Leading vectors of V whose image y'y V is added to the span; all of them if not given.
    keep : int, optional
        Components kept; as many as before if not given.
    """
    for done in ritz_pieces(vectors, values, rows, lead, keep):
        if done is not None:
            return done
    raise AssertionError("the last piece is the result")


def ritz_pieces(
    vectors: Float32, values: Float64, rows: Rows, lead: int | None = None, keep: int | None = None
) -> Iterator[tuple[Float32, Float64] | None]:
    """`ritz_step` in pieces of about equal length, for the gaps between messages: None, and the result at last."""
    scores = rows.times(vectors)
    yield None
    image = rows.back(scores[:, :lead])
    yield None
    outside = image - vectors @ (vectors.T @ image)
    fresh = orthonormal(outside, floor=_CUT * float(np.linalg.norm(image)))
    # Twice is enough (Kahan and Parlett): what the first pass left of V is removed, the length hardly changes.
    fresh = orthonormal(fresh - vectors @ (vectors.T @ fresh))
    yield None
    both = np.concatenate([scores, rows.times(fresh)], axis=1)
    yield None
    gram = (both.T @ both).astype(np.float64)
    k = values.size
    gram[np.arange(k), np.arange(k)] += values
    found, small = _top(gram, keep or k)
    turned = vectors @ _single(small[:k]) + fresh @ _single(small[k:])
    yield _tidy(turned), found


def orthonormal(columns: NDArray[Real], floor: float = 0.0) -> NDArray[Real]:
    """Orthonormal basis of the columns (m, k) longer than `floor`: by Cholesky, or else by Householder."""
    length = np.sqrt(np.einsum("ij,ij->j", columns, columns, dtype=np.float64))
    live = length > max(floor, _CUT * float(length.max(initial=0.0)))
    columns = columns[:, live] / length[live].astype(columns.dtype)
    try:
        lower = np.linalg.cholesky((columns.T @ columns).astype(np.float64))
        if lower.size and np.diag(lower).min() > 1e-3:
            # numpy only: scipy brings a second thread pool, and two pools on few cores cost ten times as much.
            return columns @ np.linalg.inv(lower).T.astype(columns.dtype)
    except np.linalg.LinAlgError:
        pass
    q, r = np.linalg.qr(columns)
    # Householder completes a deficient set with arbitrary directions: those carry nothing and are left out.
    strength = np.abs(np.diag(r))
    return np.asarray(q[:, strength > _CUT * strength.max(initial=0.0)])


def _top(gram: Float64, keep: int) -> tuple[Float64, Float64]:
    """Largest eigenvalues (falling) and vectors of a small symmetric matrix, cut at 1e-6 of the first."""
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1][:keep], vectors[:, ::-1][:, :keep]
    n = int(np.count_nonzero(values > _CUT * max(values[0], 0.0))) if values.size and values[0] > 0 else 0
    return values[:n], vectors[:, :n]


def _single(small: Float64) -> Float32:
    return np.ascontiguousarray(small, dtype=np.float32)


def _tidy(basis: Float32) -> Float32:
    """Repair the loss of orthogonality of weak vectors, keeping order and sense (Newton step of the polar factor)."""
    return basis @ (np.float32(1.5) * np.eye(basis.shape[1], dtype=np.float32) - np.float32(0.5) * (basis.T @ basis))


@dataclass
class Tracker:
    """Second-moment history of scaled spectra, truncated to `keep` components.

    Attributes
    ----------
    vectors : ndarray, (m, k)
        Orthonormal, by falling variance.
    values : ndarray, (k,)
        Summed variance; divide by `n_rows` for eigenvalues.
    n_rows, squares : float
        Spectra learnt, and the sum of their squared weights, which is the same unless some were forgotten in part.
    """

    keep: int
    vectors: Float32
    values: Float64 = field(default_factory=lambda: np.zeros(0))
    n_rows: float = 0.0
    squares: float = 0.0

    @property
    def n_effective(self) -> float:
        """Spectra of equal weight that would be as noisy."""
        return self.n_rows**2 / self.squares if self.squares > 0 else 0.0

    def forget(self, factor: float) -> None:
        """Let everything so far count for less."""
        self.values = self.values * factor
        self.n_rows, self.squares = self.n_rows * factor, self.squares * factor**2

    def absorb(self, other: Tracker) -> None:
        """Add another history in the same scaling: both side by side, truncated to `keep`."""
        roots = [tracker.vectors * np.sqrt(tracker.values) for tracker in (self, other)]
        self.vectors, self.values = _truncated(np.concatenate(roots, axis=1), self.keep)
        self.n_rows, self.squares = self.n_rows + other.n_rows, self.squares + other.squares

    def update_pieces(self, rows: Rows, lead: int, keep: int) -> Iterator[None]:
        """Learn a block in pieces; the history is the old one until the last of them.

        By a Rayleigh-Ritz step with the first `lead` vectors once there are so many, before by the Gram matrix; `keep`
        components are kept, `self.keep` at most.
        """
        keep = min(keep, self.keep)
        if self.values.size >= min(lead, self.vectors.shape[0]) and rows.n_rows >= keep:
            for done in ritz_pieces(self.vectors, self.values, rows, lead, keep):
                if done is None:
                    yield
                else:
                    self.vectors, self.values = done
        else:
            dense = rows.dense()
            for first in range(0, rows.n_rows, _GRAM_ROWS):
                part = dense[first : first + _GRAM_ROWS]
                self.vectors, self.values = gram_step(self.vectors, self.values, part, keep)
                yield
        self.n_rows += rows.n_rows
        self.squares += rows.n_rows

    def rescale(self, old: Scaling, new: Scaling) -> None:
        """Express the history in another scaling of the channels."""
        self.vectors, self.values = _truncated(old.moved(self.vectors, new) * np.sqrt(self.values), self.keep)

    @property
    def eigenvalues(self) -> Float64:
        """Variance per spectrum of each component, falling, (k,)."""
        return self.values / max(self.n_rows, 1.0)


def _truncated(roots: Float64, keep: int) -> tuple[Float32, Float64]:
    """Best `keep` components (m, k) and values (k,) of roots @ roots', roots (m, n) with few columns."""
    found, small = _top(roots.T @ roots, keep)
    turned = orthonormal(roots @ small) if found.size else np.zeros((roots.shape[0], 0))
    return turned.astype(np.float32), found[: turned.shape[1]]


class StreamingPCA:
    """Principal components of a stream of unscaled spectra: what scikit-learn's IncrementalPCA gives, faster.

    Parameters
    ----------
    n_channels : int
        D.
    n_components : int
        Scores of a spectrum, K (fewer until that many spectra were seen).
    n_kept : int, optional
        Components kept between blocks, at least K; more make the truncation gentler. Default K.
    centred : bool
        Subtract the running mean (with Ross's mean-correction row).
    update : 'gram' or 'ritz'
        Exact update of the truncated history, or the cheaper Rayleigh-Ritz step, which wants `n_kept` about 2 K.
    """

    def __init__(
        self,
        n_channels: int,
        n_components: int,
        *,
        n_kept: int | None = None,
        centred: bool = True,
        update: Literal["gram", "ritz"] = "gram",
    ) -> None:
        if not 1 <= n_components <= n_channels or (n_kept is not None and n_kept < n_components):
            raise ValueError(f"n_components {n_components} must be in 1..{n_channels} and not above n_kept {n_kept}")
        self._n_channels, self._k, self._centred = n_channels, n_components, centred
        self._ritz = update == "ritz"
        self._tracker = Tracker(min(n_kept or n_components, n_channels), np.zeros((n_channels, 0), np.float32))
        self._mean: Float64 = np.zeros(n_channels)

    @property
    def n_channels(self) -> int:
        """Channels of a spectrum, D."""
        return self._n_channels

    @property
    def n_components(self) -> int:
        """Scores of a spectrum so far, at most K."""
        return min(self._k, self._tracker.values.size)

    @property
    def mean(self) -> Float64:
        """Running mean spectrum (D,); zero if not centred."""
        return self._mean

    @property
    def components(self) -> Float32:
        """Orthonormal eigenspectra (K, D)."""
        return self._tracker.vectors[:, : self._k].T

    @property
    def eigenvalues(self) -> Float64:
        """Variance along each component, (K,)."""
        return self._tracker.eigenvalues[: self._k]

    def partial_fit(self, spectra: Counts) -> StreamingPCA:
        """Learn a block of spectra (n, D), left unchanged; ValueError where D differs."""
        if spectra.shape[1] != self._n_channels:
            raise ValueError(f"spectra have {spectra.shape[1]} channels, not {self._n_channels}")
        if spectra.shape[0]:
            self._learn(self._centred_block(_dense32(spectra)), int(spectra.shape[0]))
        return self

    def _centred_block(self, block: Float32) -> Float32:
        """The block minus its own mean, with the row that accounts for the step of the mean."""
        if not self._centred:
            return block
        n, m = self._tracker.n_rows, block.shape[0]
        batch_mean = column_sums(block) / m
        step = np.sqrt(n * m / (n + m)) * (self._mean - batch_mean)
        self._mean = (n * self._mean + m * batch_mean) / (n + m)
        # The correction row first: the block stays one array, for one product.
        rows = np.empty((m + 1, block.shape[1]), dtype=np.float32)
        rows[0] = step
        np.subtract(block, batch_mean.astype(np.float32), out=rows[1:])
        return rows

    def _learn(self, rows: Float32, n_spectra: int) -> None:
        tracker = self._tracker
        if self._ritz and tracker.values.size == tracker.keep:
            tracker.vectors, tracker.values = ritz_step(tracker.vectors, tracker.values, DenseRows(rows))
        else:
            tracker.vectors, tracker.values = gram_step(tracker.vectors, tracker.values, rows, tracker.keep)
        tracker.n_rows += n_spectra

    def transform(self, spectra: Counts) -> Float32:
        """Scores (n, K) of spectra (n, D)."""
        vectors = self._tracker.vectors[:, : self._k]
        block = spectra.astype(np.float32) if isinstance(spectra, sparse.csr_array) else _dense32(spectra)
        return np.asarray(block @ vectors - (self._mean @ vectors), dtype=np.float32)

    def reconstruct(self, scores: Float32) -> Float32:
        """Spectra (n, D) from scores (n, K)."""
        return np.asarray(scores @ self.components + self._mean, dtype=np.float32)


def _dense32(spectra: Counts) -> Float32:
    return np.ascontiguousarray(as_dense(spectra), dtype=np.float32)

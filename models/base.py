"""What every model of spectra looks like, and what a linear one publishes."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Index: TypeAlias = NDArray[np.integer[Any]]
Counts: TypeAlias = NDArray[Any] | sparse.csr_array
"""Spectra as they arrive, (n, D): dense of any numeric type, or CSR for list mode."""
T = TypeVar("T")
Pieces: TypeAlias = Generator[None, None, T]
"""Work that is done in pieces of about half a millisecond, and then has a result."""


def done(pieces: Pieces[T]) -> T:
    """Do all pieces at once; their result."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result


def together(pieces: Pieces[T], n: int = 64) -> Pieces[T]:
    """Do so many small pieces in one."""
    while True:
        for _ in range(n):
            try:
                next(pieces)
            except StopIteration as end:
                result: T = end.value
                return result
        yield


def rises(index: NDArray[Any]) -> bool:
    """Whether positions come once each, in order: true of one, and found at once."""
    return index.size == 1 or bool((index[1:] > index[:-1]).all())


def add_at(target: NDArray[Any], index: NDArray[Any], values: Any) -> None:
    """Add values to target[index]; right also where a position comes several times, and fast where they rise."""
    if rises(index):
        target[index] += values
    else:
        np.add.at(target, index, values)


@runtime_checkable
class SpectralModel(Protocol):
    """A model that learns from blocks of spectra, and maps between spectra and scores."""

    @property
    def n_channels(self) -> int:
        """Channels of a spectrum, D."""
        ...

    @property
    def n_components(self) -> int:
        """Scores of a spectrum, K; 0 before anything was learnt."""
        ...

    def partial_fit(self, spectra: Counts) -> SpectralModel:
        """Learn from a block of spectra (n, D), which is left unchanged."""
        ...

    def transform(self, spectra: Counts) -> Float32:
        """Scores (n, K) of spectra (n, D)."""
        ...

    def reconstruct(self, scores: Float32) -> Float32:
        """Spectra (n, D) in counts from scores (n, K)."""
        ...


@dataclass(frozen=True)
class Basis:
    """One published version of a linear model: denoised = mean + scores @ eigenspectra, in counts.

    Attributes
    ----------
    version : int
        Rises with every published basis, from 1.
    mean : ndarray of float32, (D,)
        Mean denoised spectrum of the positions measured so far, counts.
    eigenspectra : ndarray of float32, (K, D)
        Counts per unit of score.
    eigenvalues : ndarray of float32, (m,)
        Scree of the noise-whitened problem, falling; white noise has variance 1.
    noise_edge : float
        Eigenvalues above this are structure (Marchenko-Pastur).
    n_novelties : int
        Eigenspectra, the last of them, that stand for groups of rare positions and not for components.
    """

    version: int
    mean: Float32
    eigenspectra: Float32
    eigenvalues: Float32
    noise_edge: float
    n_novelties: int = 0

    @property
    def n_components(self) -> int:
        """Eigenspectra that are components of the model."""
        return self.rank - self.n_novelties

    @property
    def rank(self) -> int:
        """Number of eigenspectra, K."""
        return int(self.eigenspectra.shape[0])


@dataclass(frozen=True)
class BatchResult:
    """What is known about the positions of one block after it: accumulated scores, the visit's anomaly score and flag.

    `p_value` (n,) is how often chance gives such a score, `window` (n, 2) the half-open channel range where it was
    found.
    """

    index: Index
    scores: Float32
    anomaly: Float32
    flag: NDArray[np.uint8]
    p_value: Float64
    window: NDArray[np.int64]
    version: int


def as_dense(spectra: Counts) -> NDArray[Any]:
    """Spectra as an ordinary array (n, D); the same object where they are one."""
    return np.asarray(spectra.toarray()) if isinstance(spectra, sparse.csr_array) else spectra

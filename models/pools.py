"""Where training pairs come from: expected spectra of simulated specimens, or measured counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.augment import Augmentation, displace, expected_share, random_share, whole
from models.base import Float32, Float64
from models.thinning import is_counts, thin

Target = Literal["truth", "thinned", "same"]
Rows: TypeAlias = NDArray[Any] | sparse.csr_array
_BRIGHT = 8.0
_NOISY = 4
_SHARE = (0.5, 0.9)


@dataclass(frozen=True)
class Batch:
    """Training pairs.

    Attributes
    ----------
    inputs : ndarray of float32, (n, D) or (n, side^2, D)
        Quanta.
    targets : ndarray of float32, (n, D)
        D times the share of each channel.
    quanta : ndarray of float32, (n,)
        In the input.
    weight : ndarray of float32, (n,)
        What a pair counts; its mean is 1.
    """

    inputs: Float32
    targets: Float32
    quanta: Float32
    weight: Float32


class Pool(Protocol):
    """Gives training pairs."""

    @property
    def mean(self) -> Float64:
        """Mean spectrum (D,), summing to 1."""
        ...

    def draw(self, n: int, rng: np.random.Generator) -> Batch:
        """Draw n pairs."""
        ...

    def known(self, n: int, rng: np.random.Generator) -> tuple[Float32, Float32]:
        """About n spectra (n, D), D times shares, with as little noise as there is, and what each weighs (n,).

        Measured ones are up to four times as many: noise averages out over them.
        """
        ...


@dataclass(frozen=True)
class Pairs:
    """How pairs are made.

    Attributes
    ----------
    target : str
        truth: the expected spectrum, where it is known; thinned: the other part of the counts, which needs no clean
        data; same: the input itself, as a plain autoencoder has it.
    augmentation : Augmentation
    side : int
        Side of the neighbourhood of a spatial network.
    mixed : int
        Simulated spectra are convex mixtures of up to so many.
    """

    target: Target = "thinned"
    augmentation: Augmentation = field(default_factory=Augmentation)
    side: int = 1
    mixed: int = 1


class Expected:
    """Draws from expected spectra, at any dose.

    Parameters
    ----------
    spectra : ndarray, (N, D)
        In any unit.
    pairs : Pairs
    quanta : (float, float)
        Least and most in a spectrum; drawn log-uniformly.
    nav_shape : (ny, nx), optional
        Where the spectra are a map; a spatial network needs it.
    group : int, optional
        Spectra are mixed with those of their group alone: so many rows after one another.
    """

    def __init__(
        self,
        spectra: NDArray[Any],
        pairs: Pairs,
        quanta: tuple[float, float],
        nav_shape: tuple[int, ...] | None = None,
        group: int | None = None,
    ) -> None:
        self._spectra, self._pairs, self._quanta = np.asarray(spectra, dtype=np.float32), pairs, quanta
        self._group = group or self._spectra.shape[0]
        self._around = neighbours(nav_shape, self._spectra.shape[0], pairs.side)

    @property
    def mean(self) -> Float64:
        """Mean spectrum (D,), summing to 1."""
        shares = self._spectra / np.maximum(self._spectra.sum(axis=1, keepdims=True), 1e-30)
        total = shares.mean(axis=0, dtype=np.float64)
        return np.asarray(total / total.sum())

    def draw(self, n: int, rng: np.random.Generator) -> Batch:
        """Draw n pairs."""
        pairs = self._pairs
        base = self._base(n, rng)
        middle = base[:, base.shape[1] // 2]
        unit = np.maximum(middle.sum(axis=1), 1e-30)
        quanta = log_uniform(self._quanta, n, rng)
        inputs = rng.poisson(base * (quanta / unit)[:, None, None]).astype(np.float32)
        if pairs.target == "thinned":
            share = rng.uniform(*_SHARE, n)
            targets = rng.poisson(middle * (quanta * (1.0 / share - 1.0) / unit)[:, None])
            return _batch(inputs, targets.astype(np.float32), targets.sum(axis=1))
        if pairs.target == "same":
            return _batch(inputs, inputs[:, inputs.shape[1] // 2])
        return _batch(inputs, middle, quanta)

    def known(self, n: int, rng: np.random.Generator) -> tuple[Float32, Float32]:
        """Draw n expected spectra."""
        base = self._base(n, rng)
        found = _batch(base, base[:, base.shape[1] // 2])
        return found.targets, found.weight

    def _base(self, n: int, rng: np.random.Generator) -> Float32:
        pairs = self._pairs
        base = self._mixed(n, rng) if pairs.mixed > 1 else _taken(self._spectra, self._around[self._rows(n, rng)])
        if pairs.augmentation.active:
            base = _displaced(base, pairs.augmentation, rng, counted=False, expected=True)
        return base

    def _rows(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.integers(0, self._spectra.shape[0], n)

    def _mixed(self, n: int, rng: np.random.Generator) -> Float32:
        most = self._pairs.mixed
        weight = rng.dirichlet(np.ones(most), n)
        weight[np.arange(most) >= rng.integers(1, most + 1, n)[:, None]] = 0.0
        first = rng.integers(0, self._spectra.shape[0] // self._group, n)[:, None] * self._group
        rows = self._spectra[first + rng.integers(0, self._group, (n, most))]
        rows = rows / np.maximum(rows.sum(axis=2, keepdims=True), 1e-30)
        mixed = np.matmul(weight[:, None, :], rows)
        return np.asarray(mixed, dtype=np.float32)


class Measured:
    """Draws from measured quanta, which are thinned: no clean data are needed.

    Parameters
    ----------
    quanta : (N, D)
        Dense or CSR.
    pairs : Pairs
        Its target may not be truth.
    least : float
        Smallest part of the counts that an input is thinned to; 1: none are thrown away.
    read_sigma : float
        Read noise in quanta.
    nav_shape : tuple of int, optional
        As for `Expected`.
    rows : ndarray, optional
        Use these rows alone; neighbours may be others.

    Raises
    ------
    ValueError
        Where nothing was measured, or the truth is asked for.
    """

    def __init__(
        self,
        quanta: Rows,
        pairs: Pairs,
        least: float = 0.1,
        read_sigma: float = 0.0,
        nav_shape: tuple[int, ...] | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        if pairs.target == "truth":
            raise ValueError("the truth behind measured spectra is not known: train on thinned ones")
        self._quanta, self._least, self._read_sigma = quanta, least, read_sigma
        self._pairs = pairs
        total = np.asarray(quanta.sum(axis=1), dtype=np.float64).ravel()
        chosen = np.arange(total.size) if rows is None else rows
        self._chosen = chosen[total[chosen] > 1.0]
        if not self._chosen.size:
            raise ValueError("no spectrum holds two counts")
        self._around = neighbours(nav_shape, total.size, pairs.side)
        self._counted = is_counts(quanta.data if isinstance(quanta, sparse.csr_array) else quanta)

    @property
    def mean(self) -> Float64:
        """Mean spectrum (D,), summing to 1."""
        total = np.maximum(np.asarray(self._quanta[self._chosen].sum(axis=0), dtype=np.float64).ravel(), 0.0)
        return np.asarray(total / max(float(total.sum()), 1e-30))

    def draw(self, n: int, rng: np.random.Generator) -> Batch:
        """Draw n pairs."""
        pairs = self._pairs
        base = self._base(rng.choice(self._chosen, n), rng)
        if self._least < 1.0:
            part = log_uniform((self._least, 1.0), n, rng)
            base = thin(base, part[:, None, None], rng, self._read_sigma)[0]
        if pairs.target == "same":
            return _batch(base, base[:, base.shape[1] // 2])
        inputs, rest = thin(base, rng.uniform(*_SHARE, n)[:, None, None], rng, self._read_sigma)
        targets = rest[:, rest.shape[1] // 2]
        return _batch(inputs, targets, targets.sum(axis=1))

    def known(self, n: int, rng: np.random.Generator) -> tuple[Float32, Float32]:
        """Draw up to 4 n spectra with all their counts, no one twice; each weighs its counts."""
        base = self._base(rng.permutation(self._chosen)[: _NOISY * n], rng)
        middle = np.maximum(base[:, base.shape[1] // 2], 0.0)
        found = _batch(base, middle, middle.sum(axis=1))
        return found.targets, found.weight

    def _base(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Float32:
        base, how = _taken(self._quanta, self._around[rows]), self._pairs.augmentation
        return _displaced(base, how, rng, counted=self._counted, expected=False) if how.active else base


class Mixture:
    """Draws from several pools, from each in proportion to its weight.

    Parameters
    ----------
    pools : sequence of Pool
    weights : sequence of float, optional
    """

    def __init__(self, pools: Sequence[Pool], weights: Sequence[float] | None = None) -> None:
        self._pools = list(pools)
        given = np.asarray(weights if weights is not None else np.ones(len(self._pools)), dtype=np.float64)
        self._weights = given / given.sum()

    @property
    def mean(self) -> Float64:
        """Mean spectrum (D,), summing to 1."""
        return np.asarray(sum(w * pool.mean for w, pool in zip(self._weights, self._pools, strict=True)))

    def draw(self, n: int, rng: np.random.Generator) -> Batch:
        """Draw n pairs."""
        numbers = rng.multinomial(n, self._weights)
        parts = [pool.draw(int(k), rng) for pool, k in zip(self._pools, numbers, strict=True) if k]
        weight = np.concatenate([p.weight for p in parts])
        return Batch(
            np.concatenate([p.inputs for p in parts]),
            np.concatenate([p.targets for p in parts]),
            np.concatenate([p.quanta for p in parts]),
            weight / max(weight.mean(), np.float32(1e-30)),
        )

    def known(self, n: int, rng: np.random.Generator) -> tuple[Float32, Float32]:
        """Draw about n spectra."""
        numbers = rng.multinomial(n, self._weights)
        parts = [pool.known(int(k), rng) for pool, k in zip(self._pools, numbers, strict=True) if k]
        return np.concatenate([spectra for spectra, _ in parts]), np.concatenate([weight for _, weight in parts])


def log_uniform(ends: tuple[float, float], n: int, rng: np.random.Generator) -> Float64:
    """Numbers (n,) whose logarithms are uniform between those of the ends."""
    return np.exp(rng.uniform(float(np.log(ends[0])), float(np.log(ends[1])), n))


def neighbours(nav_shape: tuple[int, ...] | None, n: int, side: int) -> NDArray[np.int64]:
    """Rows of the neighbourhood of each of n positions, (n, side^2); -1 outside the map.

    Raises
    ------
    ValueError
        Where there is no map of n positions to have neighbourhoods in.
    """
    if side == 1:
        return np.arange(n)[:, None]
    if nav_shape is None or len(nav_shape) != 2 or nav_shape[0] * nav_shape[1] != n:
        raise ValueError(f"a spatial network needs a map, not {n} positions of shape {nav_shape}")
    reach = side // 2
    padded = np.pad(np.arange(n).reshape(nav_shape), reach, constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    return windows.reshape(n, side * side)


def _taken(rows: Rows, at: NDArray[np.int64]) -> Float32:
    """Spectra (n, m, D) of rows (n, m); zeros for row -1."""
    flat = rows[np.maximum(at, 0).ravel()]
    spectra = np.asarray(flat.toarray() if isinstance(flat, sparse.csr_array) else flat, dtype=np.float32)
    spectra = spectra.reshape(*at.shape, spectra.shape[-1])
    if (at < 0).any():
        spectra[at < 0] = 0.0
    return spectra


def _displaced(
    spectra: Float32, how: Augmentation, rng: np.random.Generator, *, counted: bool, expected: bool
) -> Float32:
    """Spectra (n, m, D), each neighbourhood moved along the axis as one."""
    n, m, d = spectra.shape
    shift, gain, broadening = (np.repeat(x, m) for x in how.draw(n, rng))
    split = expected_share if expected else random_share(rng) if counted else whole
    return displace(spectra.reshape(n * m, d), shift, gain, broadening, split).reshape(n, m, d)


def _batch(inputs: Float32, targets: Float32, known: NDArray[Any] | None = None) -> Batch:
    """Pairs from quanta (n, m, D) and targets (n, D) in any unit.

    A pair weighs the counts (n,) by which its target is `known`, up to some times the usual number: with counted
    targets that is their likelihood, with the truth it makes errors in units of noise equally bad at every dose.
    """
    total = targets.sum(axis=1)
    lit = total > 0
    shares = targets * np.divide(targets.shape[1], total, out=np.zeros_like(total), where=lit)[:, None]
    weight = lit.astype(np.float32)
    if known is not None and lit.any():
        weight *= np.clip(known, 0.0, _BRIGHT * np.median(known[lit])).astype(np.float32)
    weight /= max(float(weight.mean()), 1e-30)
    quanta = np.maximum(inputs[:, inputs.shape[1] // 2].sum(axis=1), 1.0)
    squeezed = inputs[:, 0] if inputs.shape[1] == 1 else inputs
    return Batch(squeezed, shares, quanta, weight)

"""Conformance: what every spectral model must do, whatever is inside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse

from models.base import Float32, SpectralModel


def check_model(make: Callable[[int], SpectralModel], n_channels: int = 64, seed: int = 0) -> None:
    """Run every check on models made by `make(n_channels)`.

    Raises
    ------
    AssertionError
        Naming what the model does wrong.
    """
    for check in (
        _shapes,
        _leaves_input_alone,
        _is_deterministic,
        _sparse_equals_dense,
        _degenerate_data,
        _learns_structure,
    ):
        check(make, n_channels, np.random.default_rng(seed))


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise AssertionError(complaint)


def _counts(rng: np.random.Generator, n: int, n_channels: int) -> Float32:
    """Two mixed line shapes with Poisson noise."""
    x = np.arange(n_channels)
    shapes = np.stack([np.exp(-0.5 * ((x - c * n_channels) / 3.0) ** 2) + 0.05 for c in (0.3, 0.7)])
    return np.asarray(rng.poisson(rng.dirichlet([1.0, 1.0], n) @ shapes * 60.0), dtype=np.float32)


def _shapes(make: Callable[[int], SpectralModel], d: int, rng: np.random.Generator) -> None:
    model = make(d)
    _require(bool(model.n_channels == d), "n_channels is not what was asked for")
    counts = _counts(rng, 50, d)
    _require(bool(model.partial_fit(counts) is model), "partial_fit must return the model")
    scores = model.transform(counts[:7])
    _require(bool(scores.shape == (7, model.n_components)), f"scores have shape {scores.shape}")
    _require(bool(scores.dtype == np.float32), f"scores are {scores.dtype}")
    spectra = model.reconstruct(scores)
    _require(spectra.shape == (7, d), f"reconstruction has shape {spectra.shape}")
    _require(spectra.dtype == np.float32, f"reconstruction is {spectra.dtype}")
    empty = model.transform(counts[:0])
    _require(empty.shape == (0, model.n_components), "an empty block must give empty scores")


def _leaves_input_alone(make: Callable[[int], SpectralModel], d: int, rng: np.random.Generator) -> None:
    counts = _counts(rng, 40, d)
    before = counts.copy()
    counts.flags.writeable = False
    model = make(d).partial_fit(counts)
    model.transform(counts)
    _require(np.array_equal(counts, before), "the caller's array was changed")


def _is_deterministic(make: Callable[[int], SpectralModel], d: int, rng: np.random.Generator) -> None:
    blocks = [_counts(rng, n, d) for n in (40, 1, 33, 64)]
    first, second = make(d), make(d)
    for model in (first, second):
        for block in blocks:
            model.partial_fit(block)
    same = np.array_equal(first.transform(blocks[0]), second.transform(blocks[0]))
    _require(same, "the same calls gave other bits")


def _sparse_equals_dense(make: Callable[[int], SpectralModel], d: int, rng: np.random.Generator) -> None:
    counts = _counts(rng, 60, d)
    dense, csr = make(d).partial_fit(counts), make(d).partial_fit(sparse.csr_array(counts))
    a, b = (m.reconstruct(m.transform(x)) for m, x in ((dense, counts), (csr, sparse.csr_array(counts))))
    _require(bool(np.allclose(a, b, atol=1e-3 * float(np.abs(a).max()))), "CSR and dense blocks give other models")


def _degenerate_data(make: Callable[[int], SpectralModel], d: int, rng: np.random.Generator) -> None:
    one = _counts(rng, 1, d)
    flat = np.full((40, d), 3.0, dtype=np.float32)
    dead = _counts(rng, 40, d)
    dead[:, : d // 2] = 0
    for name, block in (
        ("zeros", np.zeros((5, d), np.float32)),
        ("one spectrum", one),
        ("constant", flat),
        ("dead", dead),
    ):
        model = make(d).partial_fit(block)
        spectra = model.reconstruct(model.transform(block))
        _require(bool(np.isfinite(spectra).all()), f"{name}: not finite")


def _learns_structure(make: Callable[[int], SpectralModel], d: int, rng: np.random.Generator) -> None:
    model = make(d)
    for _ in range(8):
        model.partial_fit(_counts(rng, 100, d))
    counts = _counts(rng, 200, d)
    left = float(((model.reconstruct(model.transform(counts)) - counts) ** 2).mean())
    spread = float(((counts - counts.mean(axis=0)) ** 2).mean())
    _require(left < 0.9 * spread, f"residual {left:.3g} is no smaller than the spread {spread:.3g} about the mean")

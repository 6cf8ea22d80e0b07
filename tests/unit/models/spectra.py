"""Small families of spectra for networks: a line that moves, a curved manifold of one dimension, and mixtures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def moving_line(place: Floats, d: int = 64, width: float = 2.0) -> Floats:
    """Spectra (n, D) that sum to 1: a line at these channels on a background that falls."""
    channels = np.arange(d)
    background = np.exp(-channels / (0.7 * d))
    line = np.exp(-0.5 * ((channels - place[:, None]) / width) ** 2)
    spectra = 0.4 * background / background.sum() + 0.6 * line / line.sum(axis=1, keepdims=True)
    return np.asarray(spectra / spectra.sum(axis=1, keepdims=True))


def moving_lines(n: int, seed: int, d: int = 64) -> Floats:
    """Spectra of lines anywhere in the middle half."""
    return moving_line(np.random.default_rng(seed).uniform(0.25 * d, 0.75 * d, n), d)


def mixtures(n: int, seed: int, d: int = 64) -> Floats:
    """Mixtures (n, D) of three lines."""
    lines = moving_line(np.array([0.2, 0.5, 0.8]) * d, d)
    return np.asarray(np.random.default_rng(seed).dirichlet(np.ones(3), n) @ lines)

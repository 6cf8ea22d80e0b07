"""Small specimens of made-up phases, for tests that need a truth and no physics."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from simulator.axis import Axis
from simulator.sample import Specimen

CHANNELS = 128


def endmembers(n: int, overlap: float = 0.0) -> NDArray[np.float64]:
    """Return spectra (n, D) of sum 1, each with two lines of its own on a common background."""
    channels = np.arange(CHANNELS)
    places = [(20, 70), (35, 90), (50, 110), (28, 100)]
    shapes = np.stack([0.15 + sum(4 * np.exp(-0.5 * ((channels - c) / 2.5) ** 2) for c in places[k]) for k in range(n)])
    shapes = (1.0 - overlap) * shapes + overlap * shapes.mean(axis=0)
    return np.asarray(shapes / shapes.sum(axis=1, keepdims=True))


def grains(
    side: int = 32, seed: int = 0, mixing_px: float = 0.7, overlap: float = 0.0, name: str = "grains"
) -> Specimen:
    """Three phases in grains with mixed borders."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    seeds = rng.random((7, 2))
    nearest = ((y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2).argmin(axis=-1)
    label = np.array([0, 1, 2, 0, 1, 2, 0])[nearest]
    shares = np.stack([gaussian_filter((label == k).astype(float), mixing_px) for k in range(3)], axis=-1)
    return specimen(shares.reshape(-1, 3), (side, side), overlap, name)


def specimen(
    shares: NDArray[np.float64], shape: tuple[int, int], overlap: float = 0.0, name: str = "made-up"
) -> Specimen:
    """Return a specimen of the shares (P, M) of phases."""
    m = shares.shape[1]
    axis = Axis.linear("Energy", "keV", 0.0, 0.05 * CHANNELS, CHANNELS)
    names = tuple(f"phase {chr(97 + k)}" for k in range(m))
    shares = shares / shares.sum(axis=1, keepdims=True)
    return Specimen(name, name, "eds", axis, shape, 5.0, names, endmembers(m, overlap), shares, (), 100.0)

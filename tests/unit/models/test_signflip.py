"""The reach of noise where phases differ much in brightness and composition."""

from __future__ import annotations

import numpy as np

from models.base import Float64
from models.noise import POISSON
from models.preprocess import make_scaling
from models.rank import noise_edge
from models.signflip import noise_reach


def scene(contrast: float) -> tuple[Float64, Float64]:
    """Expected and measured counts (n, D) of two phases; the second, with other lines, is `contrast` times darker."""
    rng = np.random.default_rng(0)
    channels = np.arange(200)
    bright = 1.0 + 40 * np.exp(-0.5 * ((channels - 50) / 5) ** 2)
    dark = (0.2 + 40 * np.exp(-0.5 * ((channels - 150) / 5) ** 2)) / contrast
    expected = np.where(np.arange(1000)[:, None] < 800, bright, dark)
    return expected, rng.poisson(expected).astype(np.float64)


def test_reach_is_that_of_the_true_noise() -> None:
    expected, counts = scene(contrast=4.0)
    h = counts.sum(axis=1)
    scaling = make_scaling(counts.mean(axis=0), 1000, POISSON, 5.0)
    noise = scaling.merge((counts - expected).T).T / np.sqrt(h)[:, None]
    true_top = np.linalg.norm(noise, 2) ** 2 / 1000
    white_top = noise_edge(scaling.n_effective, 1000) / 1.02
    assert true_top > 1.2 * white_top, "the scene is not uneven enough to show anything"
    reach = noise_reach([(counts.astype(np.float32), 1.0 / h)], scaling)
    assert abs(reach * white_top / true_top - 1) < 0.15


def test_the_profile_of_the_rows_evens_the_noise_out() -> None:
    _, counts = scene(contrast=4.0)
    h = counts.sum(axis=1)
    blocks = [(counts.astype(np.float32), 1.0 / h)]
    profile = (counts / h[:, None]).sum(axis=0)
    plain = noise_reach(blocks, make_scaling(counts.mean(axis=0), 1000, POISSON, 5.0))
    even = noise_reach(blocks, make_scaling(counts.mean(axis=0), 1000, POISSON, 5.0, profile))
    assert even - 1 < 0.5 * (plain - 1)


def test_even_noise_reaches_as_far_as_white_noise() -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(3.0, (600, 150)).astype(np.float32)
    scaling = make_scaling(counts.mean(axis=0), 600, POISSON, 5.0)
    assert noise_reach([(counts, 1.0 / counts.sum(axis=1))], scaling) < 1.08

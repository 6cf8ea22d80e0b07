"""Noise estimated from spectra whose noise is known, and from real files."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from models.noise import NoiseModel, estimate_noise
from tests.unit.models.scenes import eds_scene


@pytest.mark.parametrize("counts", [5.0, 20.0, 200.0, 2000.0])
@pytest.mark.parametrize("n", [64, 256])
def test_poisson_is_called_poisson(counts: float, n: int) -> None:
    scene = eds_scene(counts, side=16)
    visit = scene.visit(1)[:: 256 // n]
    assert estimate_noise(visit).is_poisson
    assert estimate_noise(sparse.csr_array(visit)).is_poisson


@pytest.mark.parametrize("gain", [0.3, 3.0, 25.0])
def test_gain_of_scaled_counts(gain: float) -> None:
    visit = eds_scene(5000.0, side=16).visit(2)
    found = estimate_noise(visit * gain)
    assert not found.is_poisson
    assert found.gain == pytest.approx(gain, rel=0.1)


def test_integers_prove_nothing() -> None:
    visit = eds_scene(5000.0, side=16).visit(2).astype(np.int64)
    assert not estimate_noise(visit * 4).is_poisson


def test_gain_offset_and_read_noise() -> None:
    rng = np.random.default_rng(0)
    signal = eds_scene(2e5, side=16).expected
    spectra = rng.normal(100.0 + 5.0 * rng.poisson(signal), 3.0)
    found = estimate_noise(spectra)
    mean = 100.0 + 5.0 * signal
    np.testing.assert_allclose(found.variance(mean).mean(), (25.0 * signal + 9.0).mean(), rtol=0.1)


def camera(seed: int, n: int) -> np.ndarray:
    """Spectra (n, D) of gain 2, offset 100 and read noise 4, of some ten quanta a channel."""
    rng = np.random.default_rng(seed)
    signal = eds_scene(1e4, side=16).expected[rng.integers(0, 256, n)]
    return np.asarray(rng.normal(100.0 + 2.0 * rng.poisson(signal), 4.0))


@pytest.mark.parametrize("seed", range(4))
def test_skewness_tells_offset_from_read_noise(seed: int) -> None:
    found = estimate_noise(camera(seed, 256))
    assert found.offset == pytest.approx(100.0, abs=1.5)
    assert found.read_sigma == pytest.approx(4.0, abs=0.5)


def test_outliers_leave_the_least_offset() -> None:
    spectra = camera(0, 256)
    struck = np.random.default_rng(1).integers(0, spectra.size, 256)
    spectra.ravel()[struck] += 500.0
    found = estimate_noise(spectra)
    # Neither is known: all of the constant part is taken for an offset.
    assert found.read_sigma < 0.01
    assert 80.0 < found.offset < 100.0


def test_noise_without_skewness_has_its_offset_among_the_levels() -> None:
    rng = np.random.default_rng(0)
    signal = eds_scene(1e5, side=16).expected
    spectra = 50.0 + signal + np.sqrt(signal) * rng.standard_normal(signal.shape)
    found = estimate_noise(spectra)
    assert 0.0 <= found.offset <= 50.0 + np.quantile(signal, 0.05)
    np.testing.assert_allclose(found.variance(50.0 + signal).mean(), signal.mean(), rtol=0.1)


def test_pure_read_noise() -> None:
    dark = np.random.default_rng(0).normal(0.0, 4.0, (128, 300))
    found = estimate_noise(dark)
    assert found.variance(np.zeros(1))[0] == pytest.approx(16.0, rel=0.1)


def one_count_each(n: int, d: int) -> np.ndarray:
    spectra = np.zeros((n, d))
    spectra[np.arange(n), np.arange(n) % 2] = np.arange(n) % 3
    return spectra


@pytest.mark.parametrize(
    "spectra",
    [
        np.zeros((4, 9)),
        np.zeros((0, 9)),
        np.full((30, 9), 7.0),
        np.ones((1, 1)),
        one_count_each(6, 9),
        one_count_each(10, 24),
    ],
)
def test_degenerate_data(spectra: np.ndarray) -> None:
    found = estimate_noise(spectra)
    assert np.isfinite([found.gain, found.offset, found.read_sigma]).all()


def test_impossible_models() -> None:
    with pytest.raises(ValueError, match="not negative"):
        NoiseModel("poisson_gaussian", gain=-1.0)
    with pytest.raises(ValueError, match="finite"):
        NoiseModel("poisson_gaussian", read_sigma=float("nan"))


def test_row_variance_adds_over_visits() -> None:
    noise = NoiseModel("poisson_gaussian", 2.0, 10.0, 3.0)
    twice = noise.row_variance(np.array([5000.0]), 2.0, 100)
    assert twice[0] == pytest.approx(2 * noise.row_variance(np.array([2500.0]), 1.0, 100)[0])


@pytest.mark.parametrize(
    ("name", "variance_over_mean"),
    [
        ("xps_nano_antares_51x41", (18.0, 30.0)),
        ("eds_bruker_sem_50x50", (1.0, 1.0)),
        ("eels_velox_dark_16x20", (0.14, 0.2)),
    ],
)
def test_real_files(shared_data: Path, name: str, variance_over_mean: tuple[float, float]) -> None:
    with np.load(shared_data / f"{name}.npz") as file:
        data = file["data"]
    spectra = data.reshape(-1, data.shape[-1]).astype(np.float64)
    mean = spectra[:256].mean(axis=0)
    ratio = estimate_noise(spectra[:256]).variance(mean).sum() / mean.sum()
    assert variance_over_mean[0] <= ratio <= variance_over_mean[1]


@pytest.mark.parametrize("seed", range(3))
def test_gain_where_lines_stand_high_over_an_offset(seed: int) -> None:
    """The brightest channels are the noisiest by far, and tell most of the gain."""
    scene, rng = eds_scene(20_000.0, side=32, d=512, seed=seed), np.random.default_rng(seed)
    quanta = rng.poisson(scene.expected[:256] / 2.0)
    found = estimate_noise((2.0 * quanta + 100.0 + 4.0 * rng.standard_normal(quanta.shape)).astype(np.float32))
    assert found.gain == pytest.approx(2.0, rel=0.06)
    assert found.variance(np.array([100.0, 200.0])) == pytest.approx([16.0, 216.0], rel=0.06, abs=6.0)

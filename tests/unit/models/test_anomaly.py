"""The scan test: against a plain computation, its false alarms, and its power."""

import numpy as np
import pytest
from scipy import sparse

from models.anomaly import ScanTest, ScanWindows
from models.noise import POISSON, NoiseModel
from models.shrink import ScoreShrinkage
from tests.unit.models.scenes import peak

D = 512


def mean_spectrum(counts: float) -> np.ndarray:
    shape = np.exp(-np.arange(D) / 150) + 0.02 + 5 * peak(D, 90, 5)
    return np.asarray(counts * shape / shape.sum())


def scan_of(mean: np.ndarray, noise: NoiseModel = POISSON) -> ScanTest:
    """The test of a model with one eigenspectrum, the mean, known from a million counts."""
    windows = ScanWindows.for_peaks(D, 12.0)
    spectra = mean[None, :].astype(np.float32)
    known = ScoreShrinkage(np.zeros(1), np.eye(1), np.zeros(1), np.ones(1), np.zeros(1), 0.0)
    return ScanTest.build(windows, noise, spectra, known, 1e6 * mean / mean.sum(), 1e6)


def scores_of(scan: ScanTest, counts: np.ndarray | sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    n = counts.shape[0]
    ones = np.ones((n, 1), dtype=np.float32)
    exposure = np.asarray(counts.sum(axis=1), dtype=np.float64)
    return scan(counts.astype(np.float32), ones, exposure, np.ones(n))


@pytest.mark.parametrize("counts", [5.0, 40.0, 3000.0])
def test_dense_sparse_and_plain_agree(counts: float) -> None:
    mean = mean_spectrum(counts)
    scan = scan_of(mean)
    spectra = np.random.default_rng(0).poisson(mean, (200, D))
    windows = scan.windows
    ranges = windows.ranges(np.arange(windows.n_windows))
    expected = np.stack([mean[a:b].sum() for a, b in ranges])
    floor = 0.1 * spectra.sum(axis=1)[:, None] * scan.mean
    found = np.stack([spectra[:, a:b].sum(axis=1) for a, b in ranges], axis=1)
    b = np.maximum(np.maximum(expected, floor), 1e-9)
    plain = np.where(found > b, found * np.log(np.maximum(found, 1e-9) / b) - (found - b), 0.0).max(axis=1)
    for block in (spectra, sparse.csr_array(spectra)):
        score, _ = scores_of(scan, block)
        np.testing.assert_allclose(score, plain, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("counts", [20.0, 200.0, 1000.0])
def test_false_alarms_are_about_two_in_ten_thousand(counts: float) -> None:
    mean = mean_spectrum(counts)
    spectra = np.random.default_rng(1).poisson(mean, (20_000, D))
    score, _ = scores_of(scan_of(mean), spectra)
    assert (score > 10.6).mean() < 6e-4
    assert (score > 5.0).mean() > 6e-4


def test_a_rare_peak_is_found_where_it_is() -> None:
    mean = mean_spectrum(200.0)
    spectra = np.random.default_rng(2).poisson(mean + 20 * peak(D, 300, 5) / peak(D, 300, 5).sum(), (500, D))
    scan = scan_of(mean)
    score, window = scores_of(scan, spectra)
    assert (score > 10.6).mean() > 0.95
    ranges = scan.windows.ranges(window)
    assert ((ranges[:, 0] < 305) & (ranges[:, 1] > 295)).mean() > 0.95


def test_gaussian_counterpart() -> None:
    noise = NoiseModel("poisson_gaussian", 4.0, 100.0, 5.0)
    mean = 100.0 + mean_spectrum(1e5)
    rng = np.random.default_rng(3)
    spectra = rng.normal(mean, np.sqrt(noise.variance(mean)), (4000, D))
    spectra[:50] += 400 * peak(D, 300, 5)
    score, _ = scores_of(scan_of(mean, noise), spectra)
    assert (score[:50] > 10.6).all()
    assert (score[50:] > 10.6).mean() < 2e-3
    assert 1.0 < np.median(score[50:]) < 6.0


@pytest.mark.parametrize(("size", "fwhm"), [(1, 3.0), (2, 3.0), (95, 3.0), (10, 50.0), (4096, 26.0), (1000, 0.1)])
def test_windows_fit_any_axis(size: int, fwhm: float) -> None:
    windows = ScanWindows.for_peaks(size, fwhm)
    assert windows.n_windows >= 1
    spectra = np.arange(2 * size, dtype=np.float32).reshape(2, size)
    sums = windows.sums(windows.bins(spectra))
    ranges = windows.ranges(np.arange(windows.n_windows))
    np.testing.assert_allclose(sums[1], [spectra[1, a:b].sum() for a, b in ranges], rtol=1e-6)
    assert ranges[-1, 1] == size


@pytest.mark.parametrize("counts", [15.0, 40.0, 200.0])
def test_stated_power_is_no_more_than_that_at_nine_of_ten_places(counts: float) -> None:
    mean, rng = mean_spectrum(1.0), np.random.default_rng(5)
    scan = scan_of(counts * mean)
    stated = scan.power(0.25, counts, 2e-4)
    places = np.arange(26, D - 26, 20)
    found = []
    for place in places:
        line = np.exp(-0.5 * ((np.arange(D) - place) / (12.0 / 2.355)) ** 2)
        drawn = rng.poisson(counts * (0.75 * mean + 0.25 * line / line.sum()), (200, D))
        exposure, scores = drawn.sum(axis=1).astype(np.float64), np.full((200, 1), 0.75, np.float32)
        score, _ = scan(drawn.astype(np.float32), scores, exposure, np.ones(200))
        found.append((score > 10.6).mean())
    assert 0.0 < stated <= np.quantile(found, 0.1) + 0.1
    assert stated > np.quantile(found, 0.1) - 0.35
    assert scan_of(counts * mean, NoiseModel("poisson_gaussian", 2.0, 0.0, 1.0)).power(0.25, counts, 2e-4) == 0.0

"""The empirical null: silent where the noise is right, and it keeps a bulk from being flagged where it is wrong."""

import numpy as np

from models.anomaly import ScanWindows
from models.null import LEVELS, EmpiricalNull

WINDOWS = ScanWindows.for_peaks(512, 12.0)


def scores(n: int, sigma: float, seed: int = 1) -> np.ndarray:
    """Anomaly scores of white noise whose standard deviation is `sigma` times what was thought."""
    bins = sigma * np.random.default_rng(seed).standard_normal((n, WINDOWS.total_bins), dtype=np.float32)
    top: np.ndarray = WINDOWS.sums(bins).max(axis=1) ** 2 / (2 * WINDOWS.n_bins)
    return top


def test_right_noise_is_left_nearly_as_it_is() -> None:
    null, score = EmpiricalNull(WINDOWS), scores(2000, 1.0)
    score[7] = 40.0
    corrected = np.concatenate([null.follow(part) for part in np.split(score, 50)])
    assert corrected[7] > 25
    assert abs(np.median(corrected) / np.median(score) - 1) < 0.1
    assert (corrected > 10.6).sum() == 1


def test_wrong_noise_flags_no_bulk_but_still_outliers() -> None:
    null, score = EmpiricalNull(WINDOWS), scores(2000, 3.0)
    score[[100, 1500]] = 300.0
    assert (score > 10.6).mean() > 0.9
    corrected = np.concatenate([null.follow(part) for part in np.split(score, 50)])
    assert (corrected[[100, 1500]] > 15).all()
    assert (corrected > 10.6).mean() < 0.005


def test_first_and_few_scores_are_no_anomalies() -> None:
    null = EmpiricalNull(WINDOWS)
    for score in (1e6, 50.0, 3e5):
        assert null.follow(np.array([score], np.float32))[0] < 10.6
    assert null.follow(np.zeros(0, np.float32)).size == 0


def test_scores_are_raised_by_little_at_most() -> None:
    null, score = EmpiricalNull(WINDOWS), scores(300, 0.3)
    typical = null.expected[0]
    corrected = null.correct(score, score)
    most = typical + (score + 0.09 - typical) / 0.89
    assert (corrected <= np.maximum(most, 0.0) + 1e-5).all()
    assert corrected.max() < score.max()


def test_right_noise_keeps_its_rate_of_rare_scores() -> None:
    null, score = EmpiricalNull(WINDOWS), scores(60_000, 1.0)
    expected, rare = np.quantile(score, LEVELS), np.quantile(score, 0.995)
    corrected = np.concatenate([null.follow(part, expected) for part in np.split(score, 240)])
    # A correction that only lowers leaves .86.
    assert 0.92 < (corrected > rare).mean() / 0.005 < 1.2

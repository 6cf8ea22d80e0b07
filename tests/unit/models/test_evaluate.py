"""Errors of denoisers beside PCA's."""

from __future__ import annotations

import numpy as np
import pytest

from models.attune import attuned
from models.axis import Axis
from models.evaluate import against_thinned, against_truth, shrunk_pca, strongest_line
from models.thinning import squared_error
from tests.unit.models.spectra import mixtures, moving_line

AXIS = Axis("x", "", 64)


def test_raw_counts_score_one_and_the_truth_scores_nothing() -> None:
    expected = mixtures(800, 0)
    raw = against_truth("mixtures", lambda q: q.astype(np.float32), expected, 200.0, AXIS)
    assert raw.network == pytest.approx(1.0, rel=0.03)
    # What is wrong with the counts of all spectra together is taken out of whatever a network says of them.
    assert raw.line is not None
    assert 0.4 < raw.line < 1.15
    assert raw.pca < 0.1
    assert raw.line_pca is not None
    assert raw.line_pca < 1.0
    truth = (200.0 * expected).astype(np.float32)
    perfect = against_truth("mixtures", lambda q: truth, expected, 200.0, AXIS)
    # Attuning costs what counts of one map say of the response: less than PCA, which learns all from them.
    assert perfect.network < 0.5 * raw.pca
    assert (perfect.pca, perfect.counts, perfect.against) == (raw.pca, 200.0, "truth")


@pytest.mark.parametrize("read_sigma", [0.0, 2.0])
def test_thinned_halves_find_the_same_without_the_truth(read_sigma: float) -> None:
    truth = 400.0 * mixtures(3000, 1)
    rng = np.random.default_rng(0)
    counts = rng.poisson(truth).astype(np.float32)
    if read_sigma:
        counts += read_sigma * rng.standard_normal(counts.shape).astype(np.float32)
    # Wrong in a way that no common response of the network could mend.
    guess = (0.5 * (0.7 * truth + 0.3 * np.roll(truth, 1, axis=0))).astype(np.float32)
    found = against_thinned("mixtures", lambda half: guess, counts, AXIS, read_sigma)
    half = rng.poisson(0.5 * truth).astype(np.float32)
    tuned = attuned(guess, half, AXIS, read_sigma / np.sqrt(2.0))
    assert found.network == pytest.approx(squared_error(tuned, 0.5 * truth).mean(), rel=0.2)
    assert found.counts == pytest.approx(200.0, rel=0.02)
    rows = np.arange(0, 3000, 3)
    part = against_thinned("mixtures", lambda half: guess, counts, AXIS, read_sigma, rows)
    assert part.network == pytest.approx(found.network, rel=0.25)
    assert part.network != found.network


def test_the_reference_is_the_daemons_own_model() -> None:
    truth = 200.0 * mixtures(1500, 2)
    counts = np.random.default_rng(3).poisson(truth)
    assert squared_error(shrunk_pca(counts), truth).mean() < 0.08


def test_the_strongest_line_stands_over_the_background_not_on_it() -> None:
    spectrum = moving_line(np.array([40.0]))[0] + 0.2 * np.exp(-np.arange(64) / 30.0)
    assert spectrum[0] > spectrum[40]
    line = strongest_line(spectrum, AXIS)
    assert line.start <= 40 < line.stop
    assert line.stop - line.start == 7

"""Shares of Fe2+ and Fe3+ in simulated oxide: unbiased, with right errors, whatever lies under the edge."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from models.fractions import FractionModel
from simulator.sample import Specimen, load_specimen
from simulator.techniques.eels import Eels, EelsConditions, EelsPhase
from tests.white_lines import l3_l2_ratio, two_windows

ONSET_EV = 700.0


@lru_cache(maxsize=1)
def oxide() -> tuple[Specimen, FractionModel]:
    specimen = load_specimen("fe_oxidation", shape=(48, 48))
    return specimen, FractionModel.of_edges(specimen.axis.values, specimen.endmembers[:2], ONSET_EV)


def truth_and_oxide() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Share of Fe3+ at each position, and where there is nothing but oxide."""
    abundances = oxide()[0].abundances
    return abundances[:, 1] / np.maximum(abundances[:, :2].sum(axis=1), 1e-9), abundances[:, 2] < 1e-3


@pytest.mark.parametrize("dose", [3000.0, 20000.0, 200000.0])
def test_shares_are_unbiased_and_their_errors_right(dose: float) -> None:
    specimen, model = oxide()
    truth, only = truth_and_oxide()
    found = model.estimate(np.random.default_rng(1).poisson(dose * specimen.expected()))
    raw = found.amounts[:, 1] / found.amounts.sum(axis=1)
    pull = ((raw - truth) / found.errors[:, 1])[only]
    assert abs(pull.mean()) < 4 / np.sqrt(only.sum())
    assert pull.std() == pytest.approx(1.0, abs=0.06)
    np.testing.assert_allclose(found.shares.sum(axis=1), 1.0)
    assert ((found.shares >= 0) & (found.shares <= 1)).all()


def test_what_is_no_oxide_is_told_and_oxide_is_not() -> None:
    specimen, model = oxide()
    _, only = truth_and_oxide()
    found = model.estimate(np.random.default_rng(2).poisson(30000 * specimen.expected()))
    metal = specimen.abundances[:, 2] > 0.9 * specimen.abundances.sum(axis=1)
    assert found.misfit[only].mean() == pytest.approx(0, abs=0.1)
    assert found.misfit[only].std() == pytest.approx(1, abs=0.1)
    assert np.median(found.misfit[metal]) > 5


def test_thickness_does_not_pass_for_valence() -> None:
    """Half to three times as thick as the references: plural scattering and background change, shares do not."""
    specimen, model = oxide()
    film = {"density_g_cm3": 5.5, "plasmon_ev": 23.0, "plasmon_width_ev": 12.0, "mean_free_path_nm": 95.0}
    ferrous = [{"element": "Fe", "edge": "L3", "energy_ev": e, "width_ev": w, "strength_ev": s}
               for e, w, s in ((707.8, 2.2, 9.0), (720.8, 2.6, 2.4))]  # fmt: skip
    ferric = [{"element": "Fe", "edge": "L3", "energy_ev": e, "width_ev": w, "strength_ev": s}
              for e, w, s in ((709.5, 2.0, 11.0), (722.5, 2.6, 2.2))]  # fmt: skip

    def pair(thickness_nm: float) -> NDArray[np.float64]:
        phases = [
            EelsPhase.model_validate(
                {
                    "name": "x",
                    "atomic": {"Fe": 0.45, "O": 0.55},
                    "thickness_nm": thickness_nm,
                    "white_lines": lines,
                    **film,
                }
            )
            for lines in (ferrous, ferric)
        ]
        return Eels().endmembers(list(phases), EelsConditions(), specimen.axis).spectra

    model = FractionModel.of_edges(specimen.axis.values, pair(40.0), ONSET_EV)
    shares = np.array([0.2, 0.5, 0.8])
    for thickness_nm in (20.0, 80.0, 120.0):
        spectra = pair(thickness_nm)
        mixed = 1e8 * (np.outer(1 - shares, spectra[0]) + np.outer(shares, spectra[1]))
        np.testing.assert_allclose(model.estimate(mixed).shares[:, 1], shares, atol=0.012)


def test_fit_beats_the_ratios_of_white_lines_on_the_same_counts() -> None:
    specimen, model = oxide()
    truth, only = truth_and_oxide()
    counts = np.random.default_rng(4).poisson(20000 * specimen.expected())

    def rmse(found: NDArray[np.float64]) -> float:
        return float(np.sqrt(((found - truth)[only] ** 2).mean()))

    ours = rmse(model.estimate(counts).shares[:, 1])
    references = specimen.endmembers[:2]
    assert ours < 0.55 * rmse(two_windows(specimen.axis.values, counts, references))
    assert ours < 0.2 * rmse(l3_l2_ratio(specimen.axis.values, counts, references))
    # The ratios are what they are meant to be: right where counts are no limit.
    bright = np.asarray(1e9 * specimen.expected())
    assert rmse(two_windows(specimen.axis.values, bright, references)) < 0.01
    assert rmse(l3_l2_ratio(specimen.axis.values, bright, references)) < 0.02


def test_nothing_measured_is_no_number_and_nonsense_is_refused() -> None:
    specimen, model = oxide()
    assert np.isnan(model.estimate(np.zeros((3, specimen.axis.size))).shares).all()
    with pytest.raises(ValueError, match="too few channels"):
        FractionModel.of_edges(specimen.axis.values, specimen.endmembers[:2], 500.5)
    with pytest.raises(ValueError, match="no edge"):
        FractionModel.of_edges(specimen.axis.values, specimen.axis.values[None] ** -3.0, ONSET_EV)

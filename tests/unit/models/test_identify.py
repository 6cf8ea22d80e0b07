"""Phases of diffraction patterns: found in mixtures, moved, textured, weak; glass as such; nothing out of noise."""

from __future__ import annotations

import numpy as np
import pytest

from models.identify import AMORPHOUS, Identifier
from models.library import Library, Reference
from models.pattern import Hump, Part, PatternModel, Scan, Shape
from tests.diffraction import Mixture, axis, library

IDENTIFIER = Identifier(library(), axis().values)


def counts(mixture: Mixture, dose: float, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng(100 + seed).poisson(dose * mixture.expected(seed))


def test_derivatives_are_those_of_the_expected_counts() -> None:
    scan = Scan(axis().values, counts(Mixture(("rutile",), (1.0,)), 3000, 0).astype(np.float64), 1.540593)
    hump = np.exp(-0.5 * ((axis().values - 60) / 5) ** 2)
    parts: list[Part] = [IDENTIFIER.crystals[9], Hump(44.0), Shape("glass", hump / hump.sum())]
    model = PatternModel(scan, parts)
    theta = model.start() + 0.3 * model.sd * np.random.default_rng(1).standard_normal(model.mean.size)
    value, jacobian = model.expected(theta)
    eye = np.eye(theta.size)
    for k in range(theta.size):
        step = 1e-5 * model.sd[k]
        up, down = (model.expected(theta + s * step * eye[k])[0] for s in (1, -1))
        one = np.zeros(theta.size)
        one[k] = 1.0
        numeric = (up - down) / (2 * step)
        row = np.where(np.isin(jacobian.of_dense, k))[0]
        exact = (
            jacobian.dense[row[0]]
            if row.size
            else jacobian.short[[int(np.where(jacobian.of_short == k)[0][0])]].toarray()[0]
        )
        np.testing.assert_allclose(exact, numeric, atol=2e-3 * np.abs(numeric).max() + 1e-9)
    weight = 1 / value
    full = np.stack([jacobian.information(weight)[k] for k in range(theta.size)])
    np.testing.assert_allclose(full, full.T, rtol=1e-9)


@pytest.mark.parametrize(
    ("mixture", "dose"),
    [
        (Mixture(("ferrite", "austenite"), (0.7, 0.3)), 600),
        (Mixture(("salt", "zinc oxide"), (0.8, 0.2), texture=0.6, strain=0.003), 3000),
        (Mixture(("rutile", "titanium", "silicon"), (0.6, 0.3, 0.1), texture=0.7, strain=0.002), 5000),
        (Mixture(("tungsten", "titanium carbide", "magnesia"), (0.5, 0.3, 0.2), texture=0.5, strain=0.005), 20000),
    ],
)
def test_phases_of_mixtures(mixture: Mixture, dose: float) -> None:
    for seed in range(2):
        found = IDENTIFIER.identify(counts(mixture, dose, seed))
        assert set(found.names) == set(mixture.names)
        assert found.unexplained_deg == ()
        for phase in found.phases:
            assert phase.evidence > 5
            assert abs(abs(phase.strain) - mixture.strain) < 5 * phase.strain_error + 2e-4


def test_amounts_and_their_errors() -> None:
    """Shares of what the references' scale says, over six draws."""
    totals = {line.name: line.total for line in IDENTIFIER.crystals}
    mixture = Mixture(("ferrite", "platinum"), (0.6, 0.4), strain=0.001)
    amounts = np.array([share / totals[name] for name, share in zip(mixture.names, mixture.shares, strict=True)])
    truth = amounts[0] / amounts.sum()
    pulls = []
    for seed in range(6):
        (iron,) = [p for p in IDENTIFIER.identify(counts(mixture, 4000, seed)).phases if p.name == "ferrite"]
        pulls.append((iron.amount - truth) / iron.amount_error)
        assert iron.amount_error < 0.2
    assert np.abs(pulls).max() < 4
    assert abs(np.mean(pulls)) < 1.0


def test_glass_is_told_as_such_and_a_falling_background_is_not() -> None:
    glassy = Mixture(("ferrite",), (0.6,), glass=0.4)
    assert set(IDENTIFIER.identify(counts(glassy, 5000, 0)).names) == {"ferrite", AMORPHOUS}
    only = IDENTIFIER.identify(np.random.default_rng(2).poisson(5000 * Mixture((), (), glass=1.0).expected(0)))
    assert only.names == (AMORPHOUS,)
    assert np.isnan(only.phases[0].amount)
    air = np.exp(-axis().values / 40.0)
    for seed in range(3):
        drawn = np.random.default_rng(seed).poisson(5000 * air / air.sum())
        assert IDENTIFIER.identify(drawn).names == ()
        assert IDENTIFIER.identify(drawn).words() == "nothing identified"


def test_a_phase_that_is_no_candidate_leaves_its_lines_unexplained() -> None:
    known = tuple(r for r in library().references if r.name != "salt")
    partial = Identifier(Library("x", "xrd", "deg", known, wavelength_a=1.540593), axis().values)
    found = partial.identify(counts(Mixture(("ferrite", "salt"), (0.6, 0.4)), 20000, 0))
    assert found.names[0] == "ferrite"
    # 200 and 220 of salt, Cu K-alpha 1.
    assert any(abs(place - 31.69) < 0.2 or abs(place - 45.45) < 0.2 for place in found.unexplained_deg)
    assert "unexplained at" in found.words()


def test_a_named_glass_is_a_reference_too() -> None:
    hump = np.exp(-0.5 * ((axis().values - 45.0) / 3.0) ** 2)
    glass = Reference("metallic glass", "spectrum", axis().values, hump, 1e6)
    both = Identifier(Library("x", "xrd", "deg", (*library().references, glass), wavelength_a=1.540593), axis().values)
    found = both.identify(counts(Mixture(("nickel",), (0.5,), glass=0.5), 5000, 3))
    assert set(found.names) == {"nickel", "metallic glass"}


def test_the_same_pattern_gives_the_same_bits_and_nonsense_is_refused() -> None:
    pattern = counts(Mixture(("ferrite", "austenite"), (0.7, 0.3)), 2000, 5)
    assert IDENTIFIER.identify(pattern) == IDENTIFIER.identify(pattern)
    assert IDENTIFIER.identify(np.zeros(axis().size)).names == ()
    with pytest.raises(ValueError, match="wavelength_a"):
        Identifier(
            Library("x", "eds", "keV", (Reference("a", "spectrum", np.arange(9.0), np.ones(9), 1.0),)), axis().values
        )
    with pytest.raises(ValueError, match="no line"):
        Identifier(library(), np.linspace(2.0, 8.0, 500))

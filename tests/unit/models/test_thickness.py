"""What thickness does to spectra, and end-members and abundances of specimens that it bends."""

from __future__ import annotations

import numpy as np
import pytest
import xraydb
from scipy.optimize import linear_sum_assignment

from models.axis import Axis
from models.corrected import Corrected, Correction
from models.linear import LinearEngine
from models.lines import make_templates
from models.noise import POISSON
from models.phases import Phases
from models.thickness import Absorption, PluralScattering, Thickness
from models.unmixing import Unmixing
from tests.unit.models.scenes import Float, peak

SIDE, D = 32, 256
EDS = Axis("Energy", "keV", D, 0.3, 0.04)
EELS = Axis("Energy loss", "eV", D, 500.0, 1.0)
ABSORBER = {"Si": 0.4, "O": 0.6}
WIDTH = 4.0


def oxides() -> Float:
    """Spectra (2, D) with soft and hard lines of both, before absorption."""
    at = [int(EDS.to_channel(kev)) for kev in (0.525, 1.49, 1.74, 6.4, 8.05)]
    oxygen, aluminium, silicon, iron, copper = (peak(D, c, 1.5) for c in at)
    both = np.stack([2 * oxygen + 3 * silicon + iron + copper, 3 * oxygen + 2 * aluminium + silicon + 3 * iron])
    both = both + 0.02
    return np.asarray(both / both.sum(axis=1, keepdims=True))


def wedge(law: Thickness, spectra: Float, thickest: float, counts: float, seed: int = 0) -> tuple[Float, Float, Float]:
    """Counts (P, D) of grains on a wedge, shares (P, 2), and thickness (P,)."""
    y, x = np.divmod(np.arange(SIDE * SIDE), SIDE)
    share = 1.0 / (1.0 + np.exp(4.0 * np.sin(2 * np.pi * x / 16.0)))
    shares, thickness = np.stack([share, 1.0 - share], axis=1), thickest * (0.1 + 0.9 * (y + 0.5) / SIDE)
    there = np.stack([law.moved(spectra, 0.0, float(t)) for t in np.unique(thickness)])
    expected = np.einsum("pm,pmd->pd", shares, there[y]) * thickness[:, None]
    rng = np.random.default_rng(seed)
    return rng.poisson(counts * expected / expected.sum(axis=1).mean()).astype(np.float64), shares, thickness


def unmixed(counts: Float, axis: Axis, law: Thickness | None) -> Unmixing:
    engine = LinearEngine(len(counts), D, noise=POISSON, axis=axis)
    for first in range(0, len(counts), 128):
        index = np.arange(first, first + 128, dtype=np.uint32)
        engine.process(index, counts[index])
    engine.finish()
    phases = Phases(engine, WIDTH, (SIDE, SIDE))
    phases.finish()
    correction = None if law is None else Correction(law, WIDTH, (SIDE, SIDE))
    found = Unmixing(engine, phases, correction)
    found.finish()
    return found


def error_of(unmixing: Unmixing, spectra: Float, shares: Float) -> float:
    """Root mean square of abundances, matched by spectra."""
    found = unmixing.end_members
    assert found is not None
    unlike = np.abs(spectra[:, None] - found.spectra[None]).sum(axis=2)
    rows, columns = linear_sum_assignment(unlike)
    values, _ = unmixing.abundances(np.arange(len(shares)), list(found.labels))
    return float(np.sqrt(np.mean((values[:, columns] - shares[:, rows]) ** 2)))


def at_mean(law: Thickness, spectra: Float, thickness: Float, shares: Float) -> tuple[Float, Float]:
    """Truth at the mean thickness: spectra of unit sum, and shares of counts."""
    there = law.moved(spectra, 0.0, float(thickness.mean()))
    amounts = shares * there.sum(axis=1)
    return there / there.sum(axis=1, keepdims=True), amounts / amounts.sum(axis=1, keepdims=True)


def found_thickness(unmixing: Unmixing) -> Corrected:
    assert unmixing.corrected is not None
    return unmixing.corrected


def test_absorption_is_that_of_the_tables_and_of_a_film() -> None:
    law = Absorption.on(EDS, {"Si": 2.0}, 30.0)
    mu = float(xraydb.mu_elam("Si", 1e3 * EDS.values[100]))
    line, depth = np.eye(D)[100:101], 2.0 * mu * 1e-3
    # Photons made at all depths, each through what lies above it.
    steps = (np.arange(10_000) + 0.5) / 10_000
    assert law.moved(line, 0.0, 1e-3)[0, 100] == pytest.approx(float(np.exp(-depth * steps).mean()), rel=1e-6)
    there_and_back = law.moved(law.moved(line, 0.0, 2e-3), 2e-3, 0.0)
    np.testing.assert_allclose(there_and_back, line, atol=1e-12)


def test_a_spectrum_is_absorbed_by_what_it_is_made_of() -> None:
    elements = ("Al", "Ni")
    templates = make_templates(np.append(EDS.values, EDS.values[-1] + 0.04) - 0.02, 0.13)
    pure = [
        sum(templates.spectra[k] for k, (e, _) in enumerate(templates.names) if e == element) for element in elements
    ]
    spectra = np.stack([0.7 * pure[0] + 0.3 * pure[1], 0.3 * pure[0] + 0.7 * pure[1]]) + 0.002
    law, thick = Absorption.on(EDS, {"Al": 0.5, "Ni": 0.5}, 20.0), 2e-4
    known = law.known_by(law.moved(spectra, 0.0, thick).mean(axis=0), thick)
    chi = [law.mu.T @ np.array(share) for share in ((0.7, 0.3), (0.3, 0.7))]
    for one, its_chi in zip(spectra, chi, strict=True):
        absorbed = one * -np.expm1(-its_chi * thick) / (its_chi * thick)
        by_mean, by_its_own = law.moved(one[None], 0.0, thick)[0], known.moved(one[None], 0.0, thick)[0]
        assert np.abs(by_its_own - absorbed).sum() < 0.25 * np.abs(by_mean - absorbed).sum()


def test_plural_scattering_repeats_an_edge_at_the_plasmon_a_poisson_number_of_times() -> None:
    law = PluralScattering.on(EELS, 22.0, 2.0)
    edge = peak(D, 40, 1.0)[None]
    moved = law.moved(edge, 0.0, 0.5)[0]
    # Nothing is before the edge, so that nothing is continued below the axis.
    assert moved[30:51].sum() == pytest.approx(np.exp(-0.5) * edge.sum(), rel=0.02)
    assert moved[52:74].sum() == pytest.approx(0.5 * np.exp(-0.5) * edge.sum(), rel=0.1)
    np.testing.assert_allclose(law.moved(law.moved(edge, 0.0, 0.7), 0.7, 0.0), edge, atol=1e-3)


def test_a_background_below_the_axis_scatters_onto_it() -> None:
    law = PluralScattering.on(EELS, 22.0, 12.0)
    background = (EELS.values / 500.0)[None] ** -3.0
    moved = law.moved(background, 0.0, 1.0)[0]
    # A smooth background stays one, higher by what falls from below: without it the first channels lost most.
    np.testing.assert_allclose(moved / background[0], moved[-1] / background[0, -1], rtol=0.08)


@pytest.mark.parametrize(
    ("axis", "wrong"),
    [(Axis("shift", "1/cm", D), "keV"), (Axis("Energy loss", "eV", D, -10.0, 1.0), "begins at -10")],
)
def test_axes_that_have_no_such_thickness_are_refused(axis: Axis, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        _ = Absorption.on(axis, ABSORBER, 20.0) if axis.units != "eV" else PluralScattering.on(axis, 22.0, 12.0)


@pytest.mark.parametrize("seed", [0, 1])
def test_absorption_in_a_thick_wedge_is_corrected(seed: int) -> None:
    law, spectra = Absorption.on(EDS, ABSORBER, 20.0), oxides()
    counts, shares, thickness = wedge(law, spectra, 4e-4, 400.0, seed)
    true, truth = at_mean(law, spectra, thickness, shares)
    linear, found = unmixed(counts, EDS, None), unmixed(counts, EDS, law)
    assert error_of(found, true, truth) < 0.5 * error_of(linear, true, truth)
    ratio = found_thickness(found).thickness / thickness
    assert np.median(ratio) == pytest.approx(1.0, abs=0.35)
    assert np.corrcoef(found_thickness(found).thickness, thickness)[0, 1] > 0.95
    summary = found.summary()
    assert summary is not None
    assert summary["corrected"]["model"] == "absorption"


def test_plural_scattering_in_a_thick_wedge_is_corrected() -> None:
    law = PluralScattering.on(EELS, 22.0, 8.0)
    background = (EELS.values / 500.0) ** -3.0
    oxygen, iron = (np.where(EELS.values > e, 0.4 * (EELS.values / e) ** -3.0, 0.0) for e in (532.0, 640.0))
    spectra = np.stack([background + oxygen, background + iron + 0.3 * peak(D, 141, 2.0)])
    spectra = spectra / spectra.sum(axis=1, keepdims=True)
    counts, shares, thickness = wedge(law, spectra, 1.5, 5000.0)
    true, truth = at_mean(law, spectra, thickness, shares)
    linear, found = unmixed(counts, EELS, None), unmixed(counts, EELS, law)
    assert error_of(found, true, truth) < 0.5 * error_of(linear, true, truth)
    assert np.corrcoef(found_thickness(found).thickness, thickness)[0, 1] > 0.95


@pytest.mark.parametrize("a_position", [400.0, 40.0])
def test_where_thickness_only_makes_spectra_brighter_nothing_is_corrected(a_position: float) -> None:
    law, spectra = Absorption.on(EDS, ABSORBER, 20.0), oxides()
    counts, shares, _ = wedge(law, spectra, 1e-8, a_position)
    found, plain = unmixed(counts, EDS, law), unmixed(counts, EDS, None)
    assert found.corrected is None
    assert error_of(found, spectra, shares) == error_of(plain, spectra, shares)


def test_few_counts_a_position_tell_of_thickness_where_the_positions_beside_it_are_as_thick() -> None:
    law = Absorption.on(EDS, ABSORBER, 20.0)
    counts, _, thickness = wedge(law, oxides(), 4e-4, 40.0)
    found = found_thickness(unmixed(counts, EDS, law)).thickness
    assert np.median(found / thickness) == pytest.approx(1.0, abs=0.35)
    assert np.corrcoef(found, thickness)[0, 1] > 0.95

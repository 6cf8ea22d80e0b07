"""Strokes of which specimens are painted, and what the specimens that come along are promised to be."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import label
from scipy.special import erf

from simulator.layout import Band, Canvas, Fill, Gradient, Grains, Interface, Particles, Precipitates, Stroke, Wedge
from simulator.sample import Specimen, load_specimen

Floats = NDArray[np.float64]
NY, NX = 40, 50


def painted(*strokes: Stroke, seed: int = 0) -> tuple[dict[str, Floats], Floats]:
    """Return shares (ny, nx) of phases a, b, c, which add up to 1, and the thickness."""
    canvas = Canvas((NY, NX), ["a", "b", "c"], np.random.Generator(np.random.Philox(seed)))
    for stroke in (Fill(kind="fill", phase="a"), *strokes):
        canvas.paint(stroke)
    np.testing.assert_allclose(canvas.shares.sum(axis=0), 1.0)
    assert canvas.shares.min() >= 0
    return dict(zip(canvas.phases, canvas.shares, strict=True)), canvas.thickness


X = (np.arange(NX) + 0.5) / NX


def test_grains_are_whole_and_every_phase_has_one() -> None:
    found, _ = painted(Grains(kind="grains", phases=["a", "b", "c"], count=12, weights=[0.98, 0.01, 0.01]))
    assert set(np.unique(np.stack(list(found.values())))) == {0.0, 1.0}
    assert all(share.sum() > 0 for share in found.values())
    assert found["a"].sum() > found["b"].sum() + found["c"].sum()


def test_borders_of_grains_are_mixed_over_the_pixels_that_were_asked_for() -> None:
    sharp, mixed = (painted(Grains(kind="grains", phases=["a", "b"], count=4, mixing_px=m))[0]["b"] for m in (0.0, 2.0))
    between = (mixed > 0.01) & (mixed < 0.99)
    assert between.any()
    # Two sigma to each side of a border, no more: what is farther away is whole.
    near = np.zeros_like(between)
    for dy in range(-8, 9):
        for dx in range(-8, 9):
            near |= np.roll(np.roll(sharp, dy, 0), dx, 1) != sharp
    assert not np.any(between & ~near)
    assert mixed.sum() == pytest.approx(sharp.sum(), rel=0.1)


def test_a_gradient_runs_linearly() -> None:
    found, _ = painted(Gradient(kind="gradient", phase="b", direction="x", first=0.2, last=0.8))
    np.testing.assert_allclose(found["b"], np.broadcast_to(0.2 + 0.6 * X, (NY, NX)))


def test_an_interface_is_mixed_as_diffusion_mixes() -> None:
    found, _ = painted(Interface(kind="interface", phase="b", direction="x", at=0.4, width=0.1))
    np.testing.assert_allclose(found["b"][7], 0.5 * (1 + erf((X - 0.4) / 0.1)))


def test_a_band_has_its_thickness() -> None:
    found, _ = painted(Band(kind="band", phase="c", direction="y", at=0.5, thickness=0.25, width=0.01))
    assert found["c"][:, 3].sum() / NY == pytest.approx(0.25, abs=0.01)
    assert found["c"][NY // 2].min() > 0.99


def test_a_particle_has_a_core_a_shell_around_it_and_nothing_beyond() -> None:
    particle = Particles(
        kind="particles", phase="b", centre=(0.5, 0.5), radius=(0.2, 0.2), shell="c", shell_thickness=0.1, width=0.005
    )
    found, _ = painted(particle)
    y, x = np.meshgrid((np.arange(NY) + 0.5) / NY, X, indexing="ij")
    away = np.hypot(y - 0.5, x - 0.5)
    for name, inside in (("b", away < 0.18), ("c", (away > 0.22) & (away < 0.28)), ("a", away > 0.32)):
        assert found[name][inside].min() > 0.99, name


def test_precipitates_are_specks_of_few_pixels_where_they_may_be() -> None:
    half = Interface(kind="interface", phase="b", direction="x", at=0.5, width=1e-6)
    specks = Precipitates(kind="precipitates", phase="c", count=6, pixels=(1, 4), within="b")
    found, _ = painted(half, specks, seed=3)
    where = found["c"] == 1
    assert set(np.unique(found["c"])) == {0.0, 1.0}
    # A speck begins in its phase and is two pixels wide: none wraps around to the far side.
    assert not where[:, : NX // 2].any()
    labels, n = label(where, np.ones((3, 3)))
    sizes = np.bincount(labels.reshape(-1))[1:]
    assert 3 <= n <= 6
    assert 6 <= sizes.sum() <= 24


def test_a_speck_at_the_border_is_whole() -> None:
    for seed in range(30):
        found, _ = painted(Precipitates(kind="precipitates", phase="c", count=1, pixels=(4, 4)), seed=seed)
        y, x = np.nonzero(found["c"])
        assert (len(y), int(np.ptp(y)), int(np.ptp(x))) == (4, 1, 1)


def test_a_wedge_changes_the_thickness_and_no_share() -> None:
    found, thickness = painted(Wedge(kind="wedge", direction="y", first=0.5, last=1.5))
    assert np.all(found["a"] == 1)
    np.testing.assert_allclose(thickness[:, 0], 0.5 + (np.arange(NY) + 0.5) / NY)


# -- the specimens that come along ---------------------------------------------------------------------------


def shares(specimen: Specimen, name: str) -> Floats:
    """Share of the counts of a phase, (ny, nx)."""
    signal = specimen.abundances * specimen.endmembers.sum(axis=1)
    found: Floats = (signal[:, specimen.phases.index(name)] / signal.sum(axis=1)).reshape(specimen.nav_shape)
    return found


def peak(specimen: Specimen, spectrum: Floats, low: float, high: float) -> float:
    inside = (specimen.axis.values > low) & (specimen.axis.values < high)
    return float(specimen.axis.values[inside][np.argmax(spectrum[inside])])


def test_the_diffusion_couple_has_its_intermetallic_at_the_interface() -> None:
    couple = load_specimen("diffusion_couple")
    assert shares(couple, "copper")[:, :20].min() > 0.95
    assert shares(couple, "aluminium")[:, -20:].min() > 0.95
    intermetallic = shares(couple, "Al2Cu")
    assert intermetallic[:, 58:62].min() > 0.2
    assert intermetallic[:, :50].max() < 1e-3
    assert intermetallic[:, 70:].max() < 1e-3
    assert set(couple.rare_positions() % 120) <= set(range(50, 70))


def test_the_alloy_of_iron_chromium_and_nickel_has_gradients_in_both_directions() -> None:
    alloy = load_specimen("fe_cr_ni")
    counts = alloy.expected().reshape(100, 100, -1)
    lines = {e: np.abs(alloy.axis.values - kev) < 0.1 for e, kev in (("Cr", 5.41), ("Fe", 6.40), ("Ni", 7.48))}
    rows, columns = counts[:, 2:8].mean(axis=1), counts[2:8].mean(axis=0)
    assert columns[-1, lines["Cr"]].sum() > 2 * columns[0, lines["Cr"]].sum()
    assert rows[-1, lines["Ni"]].sum() > 2 * rows[0, lines["Ni"]].sum()
    assert columns[-1, lines["Fe"]].sum() < columns[0, lines["Fe"]].sum()
    assert 5 <= len(alloy.rare_positions()) <= 20


def test_the_valence_of_iron_runs_from_two_to_three() -> None:
    oxide = load_specimen("fe_oxidation")
    maps = oxide.expected().reshape(64, 64, -1)
    assert peak(oxide, maps[60, 0], 700, 716) == pytest.approx(707.8, abs=0.4)
    assert peak(oxide, maps[60, -1], 700, 716) == pytest.approx(709.5, abs=0.4)
    # L2 is 13 eV higher, and a wedge makes the far side thicker.
    assert peak(oxide, maps[60, -1], 717, 730) == pytest.approx(722.5, abs=0.5)
    iron_three = shares(oxide, "Fe3+ oxide")[60]
    assert np.all(np.diff(iron_three) > 0)


def test_core_levels_are_shifted_by_their_chemistry() -> None:
    flakes = load_specimen("tungsten_flakes")
    for name, shift_ev in (("metal", 0.0), ("WS2", 1.5), ("WO3", 4.4)):
        spectrum = flakes.endmembers[flakes.phases.index(name)]
        # W 4f 7/2 and 5/2 of the metal: 31.4 and 33.6 eV (X-ray Data Booklet).
        assert peak(flakes, spectrum, 29, 33 + shift_ev) == pytest.approx(31.4 + shift_ev, abs=0.15)
        assert peak(flakes, spectrum, 32.9 + shift_ev, 35 + shift_ev) == pytest.approx(33.6 + shift_ev, abs=0.15)


def test_strain_shifts_lines_and_glass_has_only_a_hump() -> None:
    steel = load_specimen("steel_phases")
    relaxed, strained = (steel.endmembers[steel.phases.index(n)] for n in ("austenite", "austenite, strained"))
    theta = np.radians(43.57 / 2)
    expected = -2 * np.tan(theta) * 0.004
    moved = peak(steel, strained, 42, 45) - peak(steel, relaxed, 42, 45)
    assert np.radians(moved) == pytest.approx(expected, abs=np.radians(0.05))
    glass = steel.endmembers[steel.phases.index("glass")]
    assert peak(steel, glass, 35, 60) == pytest.approx(45.0, abs=0.5)
    rough = np.abs(np.diff(glass, 2)).max() / glass.max()
    assert rough < 1e-3, "a hump 7 degrees wide has no line"


def test_the_wedge_of_the_plasmons_makes_plural_scattering() -> None:
    wedge = load_specimen("low_loss")
    maps = wedge.expected().reshape(64, 64, -1)
    assert maps[:, -1].sum() > maps[:, 0].sum()
    silicon = wedge.endmembers[wedge.phases.index("silicon")]
    assert peak(wedge, silicon, 10, 25) == pytest.approx(16.7, abs=0.5)
    assert peak(wedge, silicon, 28, 40) == pytest.approx(33.4, abs=1.0)


def test_particles_have_a_shell_of_silver_and_one_has_a_trace_of_palladium() -> None:
    particles = load_specimen("core_shell", seed=0)
    silver, gold = shares(particles, "silver"), shares(particles, "gold")
    assert silver.max() > 0.9
    assert gold.max() > 0.8
    traced = particles.endmembers[particles.phases.index("gold with palladium")]
    plain = particles.endmembers[particles.phases.index("gold")]
    palladium = np.abs(particles.axis.values - 2.838) < 0.06
    assert traced[palladium].sum() / traced.sum() > 1.1 * plain[palladium].sum() / plain.sum()
    assert 0 < len(particles.rare_positions()) < 0.05 * particles.n_positions

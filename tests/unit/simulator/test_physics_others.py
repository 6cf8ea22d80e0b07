"""EELS, XRD, XPS and Raman physics against figures that are not ours."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.axis import Axis
from simulator.physics.eels import (
    Film,
    WhiteLine,
    core_cross_section_cm2_ev,
    drude_loss,
    free_electron_plasmon_ev,
    spectrum,
)
from simulator.physics.raman import band
from simulator.physics.shapes import gaussian, pseudo_voigt, voigt
from simulator.physics.xps import binding_energy_ev, core_line, shirley, tougaard
from simulator.physics.xrd import Crystal, Site, caglioti_fwhm_deg, pattern, reflections, strain_shift_deg

CU_KA1 = 1.540593

ALUMINIUM = Crystal((4.0494, 4.0494, 4.0494), [Site("Al")], centring="F")
SILICON = Crystal((5.43102, 5.43102, 5.43102), [Site("Si"), Site("Si", (0.25, 0.25, 0.25))], centring="F")
SALT = Crystal((5.6402, 5.6402, 5.6402), [Site("Na1+"), Site("Cl1-", (0.5, 0.0, 0.0))], centring="F")


@pytest.mark.parametrize(
    ("crystal", "published"),
    # Two theta and relative intensities for Cu K-alpha 1: NBS/ICDD cards 4-787 (Al), 27-1402 (Si), 5-628 (NaCl).
    [
        (ALUMINIUM, [(38.473, 100), (44.740, 47), (65.135, 22), (78.230, 24), (82.437, 7)]),
        (SILICON, [(28.442, 100), (47.304, 55), (56.123, 30), (69.131, 6), (76.380, 11)]),
        (SALT, [(27.334, 13), (31.692, 100), (45.449, 55), (53.852, 2), (56.477, 15)]),
    ],
    ids=["Al", "Si", "NaCl"],
)
def test_lines_of_known_crystals(crystal: Crystal, published: list[tuple[float, float]]) -> None:
    lines = reflections(crystal, CU_KA1, 85.0)
    places, heights = np.array(published).T
    # The cards have d to three or four figures, and observed intensities, weakened by extinction and warmth.
    np.testing.assert_allclose(lines.two_theta_deg[: len(places)], places, atol=0.035)
    relative = 100 * lines.intensities[: len(places)] / lines.intensities.max()
    np.testing.assert_allclose(relative, heights, rtol=0.3, atol=3)


def test_forbidden_lines_are_absent() -> None:
    sums = (reflections(SILICON, CU_KA1, 120.0).hkl ** 2).sum(axis=1)
    assert not set(sums) & {1, 2, 4, 5, 6, 12}, "mixed indices, and 200 and 222 of diamond"


def test_strain_shifts_lines_as_the_first_order_says() -> None:
    stretched = Crystal(ALUMINIUM.lattice_a, ALUMINIUM.sites, centring="F", strain=1e-4)
    before, after = (reflections(c, CU_KA1, 120.0).two_theta_deg for c in (ALUMINIUM, stretched))
    np.testing.assert_allclose(after - before, strain_shift_deg(before, 1e-4), rtol=1e-3)


def test_texture_strengthens_the_planes_along_its_axis_and_keeps_spacings() -> None:
    textured = Crystal(ALUMINIUM.lattice_a, ALUMINIUM.sites, centring="F", texture=0.5, texture_axis=(1, 1, 1))
    random, ordered = (reflections(c, CU_KA1, 85.0) for c in (ALUMINIUM, textured))
    np.testing.assert_allclose(random.two_theta_deg, ordered.two_theta_deg)
    gain = ordered.intensities / random.intensities
    assert gain[0] > 1.5 * gain[1], "111 over 200"


def test_caglioti_widths_are_those_of_the_pattern() -> None:
    axis = np.arange(30.0, 60.0, 0.002)
    caglioti = (0.04, -0.02, 0.02)
    profile = pattern(ALUMINIUM, axis, CU_KA1, caglioti, eta=0.3)
    near = np.abs(axis - 38.47) < 2
    above = axis[near][profile[near] > profile[near].max() / 2]
    expected = caglioti_fwhm_deg(np.array([38.473]), *caglioti)[0]
    assert above[-1] - above[0] == pytest.approx(expected, abs=0.004)


def test_plasmons_of_free_electrons() -> None:
    # Egerton, table 3.2: free-electron values of Al 15.8 eV, Si 16.6 eV.
    assert free_electron_plasmon_ev(2.70, 3, 26.98) == pytest.approx(15.8, abs=0.1)
    assert free_electron_plasmon_ev(2.33, 4, 28.09) == pytest.approx(16.6, abs=0.1)


def test_the_drude_loss_peaks_at_the_plasmon_and_falls_with_the_third_power() -> None:
    e = np.arange(1.0, 2000.0, 0.1)
    loss = drude_loss(e, 15.0, 1.0)
    assert e[np.argmax(loss)] == pytest.approx(15.0, abs=0.1)
    assert np.log(loss[-1] / loss[9990]) / np.log(e[-1] / e[9990]) == pytest.approx(-3, abs=0.01)


# Plasmons alone: without elements there are no core losses.
FILM = Film({}, 2.70, 100.0, 15.0, 0.8, 100.0)


def test_plural_scattering_is_poisson() -> None:
    axis = Axis.linear("Energy loss", "eV", -10.0, 400.0, 8200)
    found = spectrum(FILM, axis, resolution_ev=0.3)
    areas = [found[np.abs(axis.values - k * 15.0) < 6.5].sum() for k in range(4)]
    # One mean free path: e^-1 unscattered, then the ratios of a Poisson distribution of mean 1, less the tails.
    assert areas[0] == pytest.approx(np.exp(-1), rel=0.02)
    assert areas[2] / areas[1] == pytest.approx(1 / 2, rel=0.1)
    assert areas[3] / areas[2] == pytest.approx(1 / 3, rel=0.15)
    assert found.sum() == pytest.approx(1.0, abs=0.01)


def test_core_edges_lie_where_the_tables_have_them() -> None:
    e = np.arange(400.0, 900.0, 0.5)
    oxygen = core_cross_section_cm2_ev("O", e, 200.0, 20.0)
    step = e[np.argmax(np.diff(oxygen))]
    # EELS Atlas (Ahn & Krivanek 1983): O K at 532 eV.
    assert step == pytest.approx(532.0, abs=1.0)
    # Egerton's SIGMAK program gives a few 1e-21 cm2 for 20 mrad and 100 eV above the edge at 200 kV.
    inside = (e > 533) & (e < 633)
    below = np.interp(528.0, e, oxygen) * (e[inside] / 528.0) ** -4
    integral = float((oxygen[inside] - below).sum() * 0.5)
    assert 1e-21 < integral < 1e-20


@pytest.mark.parametrize(
    ("element", "published_ev"), [("Li", 55.0), ("C", 284.0), ("O", 532.0), ("Al", 73.0), ("Si", 99.0), ("S", 165.0)]
)
def test_core_losses_begin_at_the_first_edge(element: str, published_ev: float) -> None:
    """EELS Atlas (Ahn & Krivanek 1983); what the tables have below it are valence electrons, which are the plasmon."""
    e = np.arange(20.0, 700.0, 0.25)
    losses = core_cross_section_cm2_ev(element, e, 200.0, 20.0)
    assert e[np.argmax(losses > 0)] == pytest.approx(published_ev, abs=1.0)
    assert np.all(losses[e > published_ev + 1.0] > 0)


def test_hydrogen_has_no_core() -> None:
    assert not core_cross_section_cm2_ev("H", np.array([10.0, 100.0]), 200.0, 20.0).any()


@pytest.mark.parametrize(("energy_ev", "ion"), [(707.8, "Fe2+"), (709.5, "Fe3+")])
def test_white_lines_lie_where_the_valence_puts_them(energy_ev: float, ion: str) -> None:
    lines = [WhiteLine("Fe", "L3", energy_ev, 1.5, 12.0), WhiteLine("Fe", "L3", energy_ev + 13, 2.0, 3.0)]
    film = Film({"Fe": 0.7, "O": 0.3}, 5.5, 30.0, 22.0, 12.0, 95.0, lines)
    axis = Axis.linear("Energy loss", "eV", 690.0, 740.0, 1000)
    found = spectrum(film, axis, resolution_ev=0.5)
    assert axis.values[np.argmax(found)] == pytest.approx(energy_ev, abs=0.3), ion
    high = axis.values > energy_ev + 8
    assert axis.values[high][np.argmax(found[high])] == pytest.approx(energy_ev + 13, abs=0.5)


def test_shapes_have_unit_area_and_the_width_they_are_given() -> None:
    x = np.arange(-400.0, 400.0, 0.01)
    for profile in (gaussian(x, 1.0, 2.0), voigt(x, 1.0, 1.5, 1.0), pseudo_voigt(x, 1.0, 2.0, 0.4)):
        assert profile.sum() * 0.01 == pytest.approx(1.0, abs=3e-3)
        assert x[np.argmax(profile)] == pytest.approx(1.0, abs=0.011)
    for profile in (gaussian(x, 0.0, 2.0), pseudo_voigt(x, 0.0, 2.0, 0.4)):
        above = x[profile > profile.max() / 2]
        assert above[-1] - above[0] == pytest.approx(2.0, abs=0.03)


BINDING = np.arange(20.0, 120.0, 0.05)


def test_core_levels_are_the_tabulated_ones() -> None:
    # W 4f 7/2 and 5/2 of the metal: 31.4 and 33.6 eV (X-ray Data Booklet).
    assert (binding_energy_ev("W", "N7"), binding_energy_ev("W", "N6")) == (31.4, 33.6)


def test_a_metals_line_has_its_tail_towards_higher_binding_energy() -> None:
    symmetric, metallic = (core_line(BINDING, 31.4, 0.1, 0.5, a) for a in (0.0, 0.1))
    left, right = BINDING < 30.0, (BINDING > 32.8) & (BINDING < 40)
    assert metallic[right].sum() > 3 * symmetric[right].sum()
    assert metallic[right].sum() > 3 * metallic[left].sum()


def test_shirley_rises_by_the_area_of_the_peak() -> None:
    peak = core_line(BINDING, 50.0, 0.2, 1.0)
    background = shirley(peak, BINDING, 0.1)
    assert background[0] == pytest.approx(0.0, abs=1e-3)
    assert background[-1] == pytest.approx(0.1, rel=0.01)
    assert np.interp(50.0, BINDING, background) == pytest.approx(0.05, rel=0.05)
    np.testing.assert_allclose(shirley(peak[::-1], BINDING[::-1], 0.1)[::-1], background)


def test_tougaards_loss_peaks_where_its_cross_section_does() -> None:
    peak = core_line(BINDING, 30.0, 0.01, 0.1)
    background = tougaard(peak, BINDING)
    # The maximum of B T / (C + T^2)^2 is at T = sqrt(C / 3) = 23.4 eV.
    assert BINDING[np.argmax(background)] - 30.0 == pytest.approx(np.sqrt(1643 / 3), abs=0.5)
    assert background[BINDING < 29].max() < 1e-4


def test_a_raman_band_is_a_voigt_of_both_widths() -> None:
    shift = np.arange(900.0, 1100.0, 0.05)
    profile = band(shift, 1001.4, 5.0, 4.0)
    above = shift[profile > profile.max() / 2]
    # Olivero & Longbothum, JQSRT 17 (1977) 233: f = 0.5346 fL + sqrt(0.2166 fL^2 + fG^2), to 0.02 %.
    assert above[-1] - above[0] == pytest.approx(0.5346 * 5 + np.sqrt(0.2166 * 25 + 16), abs=0.11)
